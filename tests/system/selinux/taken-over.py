"""What an attacker who has taken over the agent would try. Fails when anything works that must not."""

import os
import socket
import sys
import time


def read_shadow():
    open("/etc/shadow").read()


def list_home():
    os.listdir("/root")


def write_configuration():
    open("/etc/kms-plugin/config.toml", "a")


def write_etc():
    open("/etc/taken-over", "w")


def write_binary():
    open("/usr/bin/kms-plugin", "ab")


def run_a_shell():
    os.execv("/bin/sh", ["/bin/sh", "-c", "exit 0"])


def run_own_file():
    with open("/var/lib/kms-plugin/program", "wb") as program:
        program.write(open("/proc/self/exe", "rb").read())
    os.chmod("/var/lib/kms-plugin/program", 0o755)
    try:
        os.execv("/var/lib/kms-plugin/program", ["program", "-c", "pass"])
    finally:
        os.unlink("/var/lib/kms-plugin/program")


def listen_elsewhere():
    socket.socket().bind(("127.0.0.1", 9999))


def connect_elsewhere():
    socket.create_connection(("127.0.0.1", 9300), 2)


def connect_web():
    socket.create_connection(("127.0.0.1", 8443), 2)


def raw_socket():
    socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)


def look_into_init():
    open("/proc/1/environ", "rb").read()


def call_the_bus():
    socket.socket(socket.AF_UNIX).connect("/run/dbus/system_bus_socket")


FORBIDDEN = [read_shadow, list_home, write_configuration, write_etc, write_binary, run_a_shell, run_own_file,
             listen_elsewhere, connect_elsewhere, connect_web, raw_socket, look_into_init, call_the_bus]


def in_a_child(attempt):
    """Whether the attempt works. A child of its own, for those that replace the program."""
    child = os.fork()
    if child == 0:
        try:
            attempt()
        except PermissionError:
            os._exit(77)
        except BaseException as error:  # refused otherwise than by a denial: that proves nothing
            print("taken over:", attempt.__name__, repr(error), flush=True)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def keep_in_memory():
    """What the agent may: a file in memory, left with systemd."""
    memory = os.memfd_create("kept")
    os.write(memory, b"kept")
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.connect(os.environ["NOTIFY_SOCKET"])
    socket.send_fds(notify, [b"FDSTORE=1\nFDNAME=kept"], [memory])


if sys.argv[1] == "keep":
    keep_in_memory()
    time.sleep(60)
else:
    wrong = [attempt.__name__ for attempt in FORBIDDEN if in_a_child(attempt) != 77]
    print("taken over:", len(FORBIDDEN), "attempts, not denied:", ", ".join(wrong) or "none", flush=True)
    sys.exit(bool(wrong))
