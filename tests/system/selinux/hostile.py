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


def send_parts(client):
    part = b"\0" + struct.pack(">I", SENT + MISSING) + b"x" * SENT
    try:
        for call in range(CALLS):
            stream = 2 * call + 1
            client.sendall(frame(1, 4, stream, head()))
            for at in range(0, len(part), 16_000):
                client.sendall(frame(0, 0, stream, part[at : at + 16_000]))
    except OSError:
        pass  # The agent ends the connection, or takes no more.


def read(client):
    try:
        while client.recv(65536):
            pass
    except OSError:
        pass


def main():
    resource.setrlimit(resource.RLIMIT_NOFILE, (SILENT + 100, SILENT + 100))
    clients = [connect() for _ in range(CONNECTIONS)]
    senders = [threading.Thread(target=send_parts, args=(client,), daemon=True) for client in clients]
    readers = [threading.Thread(target=read, args=(client,), daemon=True) for client in clients]
    for thread in senders + readers:
        thread.start()
    until = time.monotonic() + 60
    for sender in senders:
        sender.join(max(0, until - time.monotonic()))
    for client in clients:
        client.close()
    silent = []
    for _ in range(SILENT):
        try:
            silent.append(connect())
        except OSError:
            pass  # The agent closes the oldest ones.
    time.sleep(2)
    print(f"{len(silent)} of {SILENT} connections were made")


main()
