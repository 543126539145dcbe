/** Many clients that say nothing, in a process of their own: PORT COUNT. Tells how many were greeted, and how many heard BYE. */
import { connect } from 'node:net';

const [port = 0, count = 0] = process.argv.slice(2).map(Number);
let open = count;
let greeted = 0;
let dismissed = 0;

for (let index = 0; index < count; index += 1) {
  const socket = connect(port, '127.0.0.1');
  let text = '';
  socket.on('data', bytes => {
    text += String(bytes);
  });
  socket.on('error', () => {});
  socket.on('close', () => {
    open -= 1;
    if (text.startsWith('* OK')) greeted += 1;
    if (text.includes('* BYE')) dismissed += 1;
    if (open === 0) process.stdout.write(JSON.stringify({ greeted, dismissed }));
  });
}
