"""`tkdb` for the shells of the tests: a fork of the fork server, which gets the streams of this process.

`tests.forks.popen.on_path` makes this file executable. It starts in a tenth of the time of the real `tkdb`.
"""

import json
import os
import signal
import socket
import sys


def main(path: str, program: str) -> int:
    """Run `tkdb` with this process's arguments, environment, folder and streams; return its exit code."""
    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server.connect(path)
    order = {
        "arguments": [program, *sys.argv[1:]],
        "environment": dict(os.environ),
        "folder": os.getcwd(),  # noqa: PTH109
        "session": False,
    }
    socket.send_fds(server, [json.dumps(order).encode()], [0, 1, 2])
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: server.send(str(number).encode()))
    code = int(server.recv(16) or -signal.SIGKILL)
    return code if code >= 0 else 128 - code
