"""Messages between a sandbox and its zygotes: the length in 4 bytes, then JSON."""

import contextlib
import json
import socket
from typing import Any

FRAME = 1 << 26  # bytes at most


def send(channel: socket.socket, message: dict[str, Any]) -> None:
    data = json.dumps(message).encode()
    channel.sendall(len(data).to_bytes(4, "big") + data)


def receive(channel: socket.socket) -> dict[str, Any] | None:
    """The next message; None where the other side has closed."""
    data = _exactly(channel, 4)
    if len(data) < 4 or (size := int.from_bytes(data, "big")) > FRAME or len(data := _exactly(channel, size)) < size:
        return None
    message: dict[str, Any] = json.loads(data)
    return message


def _exactly(channel: socket.socket, size: int) -> bytes:
    parts, left = [], size
    with contextlib.suppress(OSError):
        while left and (part := channel.recv(min(left, 1 << 20))):
            parts.append(part)
            left -= len(part)
    return b"".join(parts)
