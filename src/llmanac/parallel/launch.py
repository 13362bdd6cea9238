"""Further ranks as processes of this machine; torchrun does the same over several machines."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from llmanac.core.errors import SpecError
from llmanac.core.run_folder import RECIPE

ENDING = 10.0  # seconds that ranks have to end once rank 0 has
MOST = 512
PARENT = "LLMANAC_PARENT"  # the process that started this rank
NAMES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
FOLLOWER = "llmanac.train.team"
joined = threading.Event()  # set once all ranks are there


def is_further_rank() -> bool:
    """Whether this process was started (by torchrun) as a rank other than the first."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and int(os.environ.get("RANK", "0")) > 0


def restarted(folder: Path | None) -> bool:
    """Whether torchrun has started this process again after a rank was lost, and the folder holds its run."""
    again = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    return again and folder is not None and (folder / RECIPE).is_file()


@contextlib.contextmanager
def processes(count: int, follower: str = FOLLOWER) -> Iterator[None]:
    """This process as rank 0 of `count`, the others started beside it; they end with the block.

    Raises:
        SpecError: a number that is not 1 to 512, or this process is a rank already.
    """
    if not 1 <= count <= MOST:
        raise SpecError(f"--processes: {count} is not 1 to {MOST}")
    if count == 1:
        yield
        return
    if "RANK" in os.environ:
        raise SpecError("--processes: torchrun has started the processes already; leave --processes out")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    common = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    threads = str(max(1, (os.cpu_count() or 1) // count))
    children: list[subprocess.Popen[bytes]] = []
    joined.clear()
    os.environ.update(common, RANK="0", LOCAL_RANK="0")
    try:
        for rank in range(1, count):
            own = {**os.environ, "OMP_NUM_THREADS": threads, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            own[PARENT] = str(os.getpid())
            # in a session of their own: Ctrl-C is rank 0's, which ends its step and saves
            children.append(subprocess.Popen([sys.executable, "-m", follower], env=own, start_new_session=True))
        threading.Thread(target=_watch, args=(children,), daemon=True).start()
        yield
    finally:
        ending = ENDING if joined.is_set() else 0.0  # those that still wait for rank 0 have nothing to end
        joined.set()
        for name in NAMES:
            os.environ.pop(name, None)
        stop = time.monotonic() + ending
        for child in children:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(max(0.1, stop - time.monotonic()))
            if child.poll() is None:
                child.kill()
                child.wait()


def _watch(children: list[subprocess.Popen[bytes]]) -> None:
    """End this process where a rank is lost before it joined, for which torch waits half an hour; nothing has begun."""
    while not joined.wait(0.5):
        for rank, child in enumerate(children, 1):
            if child.poll() is not None:
                said = f"llmanac: parallel: rank {rank} ended with status {child.returncode} before the run began"
                print(said, file=sys.stderr, flush=True)
                os._exit(2)
