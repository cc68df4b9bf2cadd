"""A call of the API server's: wraps a seed into a file, or unwraps what such a file holds. Plain gRPC by way of curl."""

import os
import struct
import subprocess
import sys
import tempfile

SEED = b"a DEK seed of thirty-two bytes!!"


def number(value):
    """A varint."""
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def field(tag, value):
    """A field of bytes."""
    return number(tag << 3 | 2) + number(len(value)) + value


def fields(message):
    """The fields of a message that has fields of bytes alone."""

    def varint(at):
        value = shift = 0
        while True:
            value |= (message[at] & 127) << shift
            shift += 7
            at += 1
            if message[at - 1] < 128:
                return value, at

    at, found = 0, []
    while at < len(message):
        tag, at = varint(at)
        length, at = varint(at)
        found.append((tag >> 3, message[at : at + length]))
        at += length
    return found


def call(method, message):
    with tempfile.NamedTemporaryFile() as body, tempfile.NamedTemporaryFile() as trailers:
        body.write(b"\0" + struct.pack(">I", len(message)) + message)
        body.flush()
        curl = ["curl", "-sS", "--http2-prior-knowledge", "--max-time", os.environ["patience"], "-D", trailers.name]
        curl += ["--unix-socket", "/run/kmsplugin/kms.sock", "-H", "content-type: application/grpc", "-H", "te: trailers"]
        curl += ["--data-binary", "@" + body.name, "http://localhost/v2.KeyManagementService/" + method]
        answer = subprocess.run(curl, stdout=subprocess.PIPE, check=True).stdout
        if len(answer) < 5:
            sys.exit(open(trailers.name).read())
        return answer[5:]


way, path = sys.argv[1:]
if way == "wrap":
    # EncryptResponse has the fields of DecryptRequest, under other numbers.
    renamed = {1: 1, 2: 3, 3: 4}
    wrapped = fields(call("Encrypt", field(1, SEED) + field(2, b"test")))
    assert wrapped[0][1].startswith(b"local-kek:v1:"), wrapped
    open(path, "wb").write(b"".join(field(renamed[tag], value) for tag, value in wrapped) + field(2, b"test"))
else:
    assert fields(call("Decrypt", open(path, "rb").read())) == [(1, SEED)]
