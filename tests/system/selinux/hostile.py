"""What a hostile caller can do to the agent's memory: calls that never end, and silent connections. Ends when both are
over; the caller compares the memory."""

import resource
import socket
import struct
import threading
import time

SOCKET = "/run/kmsplugin/kms.sock"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# Three times as many as may be unfinished. A message is nearly the largest that is read, and its last part is missing.
CONNECTIONS, CALLS, SENT, MISSING = 6, 256, 60_000, 100
SILENT = 5000


def frame(kind, flags, stream, payload):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def head():
    fields = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": b"/v2.KeyManagementService/Encrypt",
        b":authority": b"localhost",
        b"content-type": b"application/grpc",
        b"te": b"trailers",
    }
    return b"".join(b"\0" + bytes([len(k)]) + k + bytes([len(v)]) + v for k, v in fields.items())


def connect():
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(60)
    client.connect(SOCKET)
    client.sendall(PREFACE + frame(4, 0, 0, b""))
    return client


class Caller:
    """Sends calls on one connection, as fast as the agent takes them: more at once would end the connection."""

    def __init__(self):
        self.client = connect()
        self.room, self.changed, self.sent = 65_535, threading.Condition(), 0
        self.threads = [threading.Thread(target=work, daemon=True) for work in (self.send_parts, self.read)]

    def send_parts(self):
        part = b"\0" + struct.pack(">I", SENT + MISSING) + b"x" * SENT
        try:
            for call in range(CALLS):
                stream = 2 * call + 1
                self.client.sendall(frame(1, 4, stream, head()))
                for at in range(0, len(part), 16_000):
                    piece = part[at : at + 16_000]
                    with self.changed:
                        if not self.changed.wait_for(lambda: self.room >= len(piece), 10):
                            return
                        self.room -= len(piece)
                    self.client.sendall(frame(0, 0, stream, piece))
                self.sent += 1
        except OSError:
            pass  # The agent ends the connection.

    def read(self):
        stream = self.client.makefile("rb")
        try:
            while len(start := stream.read(9)) == 9:
                payload = stream.read(int.from_bytes(start[:3], "big"))
                if start[3] == 8 and start[5:] == bytes(4):  # WINDOW_UPDATE of the connection
                    with self.changed:
                        self.room += int.from_bytes(payload, "big")
                        self.changed.notify()
        except OSError:
            pass


def main():
    resource.setrlimit(resource.RLIMIT_NOFILE, (SILENT + 100, SILENT + 100))
    callers = [Caller() for _ in range(CONNECTIONS)]
    for thread in [thread for caller in callers for thread in caller.threads]:
        thread.start()
    until = time.monotonic() + 60
    for caller in callers:
        caller.threads[0].join(max(0, until - time.monotonic()))
    sent = sum(caller.sent for caller in callers)
    for caller in callers:
        caller.client.close()
    # The guest is slow, and a call that is not complete is ended after 5 s.
    assert sent >= 100, f"only {sent} calls were begun"
    silent = []
    for _ in range(SILENT):
        try:
            silent.append(connect())
        except OSError:
            pass  # The agent closes the oldest ones.
    time.sleep(2)
    print(f"{sent} calls were begun; {len(silent)} of {SILENT} connections were made")


main()
