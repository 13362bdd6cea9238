"""Python programs that begin with torch imported: what a test runs costs what it does, not two CPU seconds more.

`executables()` is a folder with `python` and `llmanac`, to be called in place of `sys.executable` and of the installed
command. One process has imported the libraries of others, and nothing of ours; it forks for each program, which has
the folder, the environment, the arguments and the standard files of what called it, hears its SIGINT and SIGTERM, dies
with it, and gives its status; limits of the system are not handed on. Where memory, an import, a limit or a kill is
what is tested, `sys.executable` is called.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import json
import os
import runpy
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from pathlib import Path
from types import ModuleType

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the package does before it loads torch
LIBRARIES = ("torch", "numba", "typer", "pydantic", "jinja2", "rich")
CLIENT = Path(__file__).with_name("_fork_client.py")


@functools.cache
def executables() -> Path:
    """The folder; what forks is started by the first call, and ends with this process however that ends."""
    folder = Path(tempfile.mkdtemp(prefix="forks-"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
        listener.listen(64)
        alive, held = os.pipe()
        words = [sys.executable, "-P", __file__, str(listener.fileno()), str(alive)]
        server = subprocess.Popen(words, pass_fds=(listener.fileno(), alive), stdin=subprocess.DEVNULL)
        os.close(alive)
    for name, first in (("python", ""), ("llmanac", "-m llmanac ")):
        ask = shlex.join([sys.executable, "-I", "-S", str(CLIENT), str(folder / "socket")])
        (folder / name).write_text(f'#!/bin/sh\nexec {ask} {first}"$@"\n')
        (folder / name).chmod(0o755)

    def close(owner: int = os.getpid()) -> None:
        if os.getpid() == owner:
            os.close(held)
            server.wait()

    atexit.register(close)
    return folder


def serve(listener: socket.socket, alive: int) -> list[str]:
    """Fork for everyone who calls; returns in a program alone, with its arguments."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: those who call hear it
    while True:
        ready, _, _ = select.select([listener, alive], [], [])
        if alive in ready:
            while True:
                try:
                    os.wait()
                except ChildProcessError:
                    shutil.rmtree(Path(listener.getsockname()).parent)
                    os._exit(0)
        caller, _ = listener.accept()
        if not os.fork():
            return kept(caller, listener, alive)
        caller.close()
        while True:
            try:
                if not os.waitpid(-1, os.WNOHANG)[0]:
                    break
            except ChildProcessError:
                break


def kept(caller: socket.socket, listener: socket.socket, alive: int) -> list[str]:
    """One caller's program and, beside it, a process that hands signals on and says how it ended."""
    size, files, _, _ = socket.recv_fds(caller, 4, 3)
    given = b""
    while len(given) < int.from_bytes(size, "big"):
        given += caller.recv(1 << 20)
    folder, environment, words = json.loads(given)
    program = os.fork()
    if not program:
        for own, file in enumerate(files):
            os.dup2(file, own)
        for number in (*files, alive):
            os.close(number)
        caller.close()
        listener.close()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        return words
    for file in (0, 1, 2, *files):  # a pipe ends when the program has ended
        os.close(file)
    while True:
        pid, status = os.waitpid(program, os.WNOHANG)
        if pid:
            caller.sendall(os.waitstatus_to_exitcode(status).to_bytes(4, "big", signed=True))
            os._exit(0)
        if select.select([caller], [], [], 0.01)[0]:
            said = caller.recv(1)
            os.kill(program, said[0] if said else signal.SIGKILL)


def ended(words: list[str]) -> int:
    """Run the program as `python` does, with what is done at its end; its status."""
    sys.stdin, sys.stdout = os.fdopen(0, closefd=False), os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    status: object = None
    try:
        run(words)
    except SystemExit as end:
        status = end.code
    except KeyboardInterrupt:
        status = -signal.SIGINT
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    if status is not None and not isinstance(status, int):
        print(status, file=sys.stderr)
        status = 1
    sys.stdout.flush()
    if status == -signal.SIGINT:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    return status or 0


def run(words: list[str]) -> None:
    """`-c CODE`, `-m MODULE` or a file."""
    own = [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place not in sys.path]
    sys.path[:0] = ["" if words[0] == "-c" else os.getcwd() if words[0] == "-m" else str(Path(words[0]).parent), *own]
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        return
    main = sys.modules["__main__"] = ModuleType("__main__")
    if words[0] == "-c":
        code, sys.argv = words[1], ["-c", *words[2:]]
        exec(compile(code, "<string>", "exec"), main.__dict__)
    else:
        sys.argv, main.__file__ = words, words[0]
        exec(compile(Path(words[0]).read_bytes(), words[0], "exec"), main.__dict__)


if __name__ == "__main__":
    for library in LIBRARIES:
        importlib.import_module(library)
    gc.freeze()
    words = serve(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))
    os._exit(ended(words))  # what torch does when it is unloaded takes as long as its import
