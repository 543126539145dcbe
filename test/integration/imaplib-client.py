"""Python's own IMAP client against Homing: login, STARTTLS, mailbox work, and how refusals read. Prints one JSON object."""
import imaplib
import json
import ssl
import sys

address, port, tls_port, user, password = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5]
seen = {}

plain = imaplib.IMAP4(address, port, timeout=20)
seen["before"] = list(plain.capabilities)
plain.login(user, password)
seen["after"] = plain.capability()[1][0].decode().split()
plain.append("INBOX", None, None, b"Subject: large\r\n\r\n" + b"x" * 70 + b"\r\n" * 200000)
plain.select("INBOX")
seen["size"] = len(plain.fetch("1", "(BODY[])")[1][0][1])
plain.logout()

insecure = ssl.create_default_context()
insecure.check_hostname = False
insecure.verify_mode = ssl.CERT_NONE
started = imaplib.IMAP4(address, port, timeout=20)
started.starttls(insecure)
started.authenticate("PLAIN", lambda _: b"\0" + user.encode() + b"\0" + password.encode())
seen["starttls"] = started.select("INBOX")[0]
started.logout()

secure = imaplib.IMAP4_SSL(address, tls_port, ssl_context=insecure, timeout=20)
secure.login(user, password)
seen["tls"] = secure.noop()[0]
secure.logout()

wrong = imaplib.IMAP4(address, port, timeout=20)
try:
    wrong.login(user, "wrong")
except imaplib.IMAP4.error as error:
    seen["refused"] = str(error)
wrong.login(user, password)
seen["second"] = wrong.noop()[0]
wrong.logout()
print(json.dumps(seen))
