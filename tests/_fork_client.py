"""What stands for Python in `_forked.py`: `python _fork_client.py SOCKET WORDS`; light, every command starts it."""

import json
import os
import signal
import socket
import sys

with socket.socket(socket.AF_UNIX) as server:
    server.connect(sys.argv[1])
    given = json.dumps([os.getcwd(), dict(os.environ), sys.argv[2:]]).encode()
    socket.send_fds(server, [len(given).to_bytes(4, "big")], [0, 1, 2])
    server.sendall(given)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: server.sendall(bytes([number])))
    answer = server.recv(4, socket.MSG_WAITALL)
status = int.from_bytes(answer, "big", signed=True) if answer else 1
if status < 0:
    signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
sys.exit(status)
