"""Ranks for studies: processes forked from this one, which saves the imports."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from typing import Any

from llmanac.core.errors import DataError


def on_ranks(count: int, first: Callable[[], Any], others: Callable[[], Any], seconds: float = 120) -> list[Any]:
    """What `first` returns on rank 0 and `others` on the other ranks; None for one that ended early.

    Raises:
        DataError: rank 0 failed, or did not end in time.
    """
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe(duplex=False) for _ in range(count)]

    def rank(number: int) -> None:
        os.environ.update(RANK=str(number), LOCAL_RANK=str(number), WORLD_SIZE=str(count))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        pipes[number][1].send((others if number else first)())

    children = [context.Process(target=rank, args=(number,), daemon=True) for number in range(count)]
    for child in children:
        child.start()
    for _, writer in pipes:
        writer.close()  # so that the end of a rank is seen
    try:
        if not pipes[0][0].poll(seconds):
            raise DataError(f"{count} ranks did not end in {seconds:.0f} s")
        return [_received(reader, 0 if number else seconds) for number, (reader, _) in enumerate(pipes)]
    except EOFError:
        raise DataError(f"rank 0 of {count} failed; what it wrote on standard error says why") from None
    finally:
        for child in children:
            child.join(15)
            child.kill()


def _received(reader: Any, seconds: float) -> Any:
    """The result of a rank; rank 0's is there already, and of the others one that was lost has none."""
    if seconds:
        return reader.recv()
    try:
        return reader.recv() if reader.poll(15) else None
    except EOFError:
        return None
