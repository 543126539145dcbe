/**
 * The file system calls that mail storage is made of, on bare descriptors, as promises.
 * One seam, so that a test can record their order, break one, or hold one back; callback `fs` beneath, because it costs least.
 * They reject with errno errors: whoever calls turns those into values with `fileFailure`. Never add a synchronous call here.
 */
import fs from 'node:fs';

/** What a delivery wants to know of a file or folder. */
export interface FileStat {
  readonly dev: number;
  readonly ino: number;
  readonly uid: number;
  readonly gid: number;
  readonly mode: number;
  readonly mtimeMs: number;
  isDirectory(): boolean;
}

export interface FileCalls {
  open(path: string, flags: number, mode?: number): Promise<number>;
  close(fd: number): Promise<void>;
  /** Writes all of it. */
  write(fd: number, bytes: Buffer): Promise<void>;
  fsync(fd: number): Promise<void>;
  fstat(fd: number): Promise<FileStat>;
  /** Follows links. */
  stat(path: string): Promise<FileStat>;
  /** Does not. */
  lstat(path: string): Promise<FileStat>;
  fchown(fd: number, uid: number, gid: number): Promise<void>;
  fchmod(fd: number, mode: number): Promise<void>;
  link(from: string, to: string): Promise<void>;
  rename(from: string, to: string): Promise<void>;
  unlink(path: string): Promise<void>;
  mkdir(path: string, mode: number): Promise<void>;
  readlink(path: string): Promise<string>;
  realpath(path: string): Promise<string>;
  readdir(path: string): Promise<readonly string[]>;
  rmdir(path: string): Promise<void>;
  /** True where one of the folder's names passes; reads in slices, so a folder of any size costs no memory. */
  anyName(path: string, passes: (name: string) => boolean): Promise<boolean>;
}

type Done = (error: NodeJS.ErrnoException | null) => void;
type DoneWith<T> = (error: NodeJS.ErrnoException | null, value: T) => void;

function nothing(call: (done: Done) => void): Promise<void> {
  return new Promise((resolve, reject) => call(error => (error === null ? resolve() : reject(error))));
}

function answer<T>(call: (done: DoneWith<T>) => void): Promise<T> {
  return new Promise((resolve, reject) =>
    call((error, value) => (error === null ? resolve(value) : reject(error))),
  );
}

/** A write may be cut short by the file system (a nearly full disk): go on, the next one tells why. */
async function writeAll(fd: number, bytes: Buffer): Promise<void> {
  let offset = 0;
  while (offset < bytes.length) {
    const written = await answer<number>(done =>
      fs.write(fd, bytes, offset, bytes.length - offset, null, done),
    );
    if (written === 0) throw Object.assign(new Error('wrote nothing'), { code: 'EIO', syscall: 'write' });
    offset += written;
  }
}

async function anyName(path: string, passes: (name: string) => boolean): Promise<boolean> {
  const folder = await answer<fs.Dir>(done => fs.opendir(path, { bufferSize: 512 }, done));
  try {
    for (let entry = await folder.read(); entry !== null; entry = await folder.read()) {
      if (passes(entry.name)) return true;
    }
    return false;
  } finally {
    await folder.close();
  }
}

export const realFileCalls: FileCalls = {
  open: (path, flags, mode = 0o600) => answer(done => fs.open(path, flags, mode, done)),
  close: fd => nothing(done => fs.close(fd, done)),
  write: writeAll,
  fsync: fd => nothing(done => fs.fsync(fd, done)),
  fstat: fd => answer(done => fs.fstat(fd, done)),
  stat: path => answer(done => fs.stat(path, done)),
  lstat: path => answer(done => fs.lstat(path, done)),
  fchown: (fd, uid, gid) => nothing(done => fs.fchown(fd, uid, gid, done)),
  fchmod: (fd, mode) => nothing(done => fs.fchmod(fd, mode, done)),
  link: (from, to) => nothing(done => fs.link(from, to, done)),
  rename: (from, to) => nothing(done => fs.rename(from, to, done)),
  unlink: path => nothing(done => fs.unlink(path, done)),
  mkdir: (path, mode) => nothing(done => fs.mkdir(path, mode, done)),
  readlink: path => answer(done => fs.readlink(path, 'utf8', done)),
  realpath: path => answer(done => fs.realpath.native(path, 'utf8', done)),
  readdir: path => answer(done => fs.readdir(path, 'utf8', done)),
  rmdir: path => nothing(done => fs.rmdir(path, done)),
  anyName,
};
