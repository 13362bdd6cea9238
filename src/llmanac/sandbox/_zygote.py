"""The process that untrusted programs are forked from. `pool.py` starts it, one for each worker.

It is a Python of its own that imports the standard library only, so a fork takes a millisecond and copies no threads of
torch. First it enters new namespaces; then it waits for requests at a socket. The process that was started stays
outside as a guard: it ends the zygote, and with it all programs, when the process that it serves is gone.

A program is run by a child that gives up its rights, leaves the frames of the zygote and becomes `__main__` of the
program. Its verdict comes through a socket, with a random word in front that it is sent there after the fork, so that
the word is in no memory that the program inherits.
"""

import contextlib
import fcntl
import gc
import json
import linecache
import math
import os
import resource
import select
import signal
import socket
import sys
import time
import types
import unittest
from typing import Any, NoReturn

from llmanac.sandbox import _linux
from llmanac.sandbox._usage import bytes_in, empty, tasks, threads
from llmanac.sandbox.pool import receive, send

WORK = "/tmp"  # what a program sees as its folder, where it has a file system of its own
WORK_BYTES, WORK_INODES = 32 << 20, 1000
FILE, DESCRIPTORS, THREADS = 8 << 20, 64, 64  # bytes of a file, open files, threads
LIMITS = {
    resource.RLIMIT_FSIZE: FILE, resource.RLIMIT_NOFILE: DESCRIPTORS, resource.RLIMIT_CORE: 0,
    resource.RLIMIT_STACK: 64 << 20, resource.RLIMIT_MSGQUEUE: 0, resource.RLIMIT_MEMLOCK: 0,
}  # fmt: skip
OUTPUT = 1 << 14  # bytes kept of stdout and of stderr
LOOK = 0.1  # seconds between looks at a work folder that has no size of its own
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
FOUND = "passed", "failed", "refused"
PROGRAM = "program.py"  # what a program finds as its own name
VERDICT, WORD = 3, 32  # the descriptor of the verdict, bytes of the word before it


# --- the child that becomes the program ------------------------------------------------------------------------------


class Forked(BaseException):
    """Raised in the child, with the program: takes it out of the zygote's frames, which know more than it may."""


def become(code: str) -> NoReturn:
    """Run a program as `__main__` and write how it ended. Everything here may be changed by the program."""
    read, write, leave = os.read, os.write, os._exit
    sys.argv, sys.orig_argv = [PROGRAM], [sys.executable, PROGRAM]
    module = types.ModuleType("__main__")
    path = os.path.join(os.getcwd(), PROGRAM)
    module.__dict__.update(__builtins__=__builtins__, __file__=path)
    sys.modules["__main__"] = module
    lines = code.splitlines(keepends=True)[:-1]  # for inspect and traceback; the last is the end that was added
    linecache.cache[path] = (len(code), None, lines, path)
    ending = "passed"
    try:
        exec(compile(code, path, "exec", dont_inherit=True), module.__dict__)
    except BaseException as problem:
        ending = "failed"
        with contextlib.suppress(BaseException):
            text = f"{type(problem).__name__}: {problem}"[:1000]
            ending += text
            print(text, file=sys.stderr, flush=True)
    with contextlib.suppress(BaseException):
        sys.stdout.flush()
    write(VERDICT, read(VERDICT, WORD) + ending.encode("utf-8", "replace"))
    leave(0)


def run_tests(self: Any) -> None:
    """`unittest.main` goes on where all tests pass: its exit would keep the program from its end."""
    leave, self.exit = self.exit, False
    RUN_TESTS(self)
    if leave and not self.result.wasSuccessful():
        sys.exit(1)


RUN_TESTS, unittest.TestProgram.runTests = unittest.TestProgram.runTests, run_tests  # type: ignore[method-assign]


def limit(kind: int, value: int) -> None:
    """Set a limit of this process, for good; a lower one stays."""
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


class Zygote:
    """What one zygote knows.

    Args:
        channel: where requests come from.
        given: `readable` paths, `without` protections, the folder `work` where there is no private root, `root` whether
            there is one, `user` whether a user namespace was entered.
    """

    def __init__(self, channel: socket.socket, given: dict[str, Any]) -> None:
        self.channel, self.parent = channel, os.getpid()
        self.root: bool = given["root"]
        self.work: str = WORK if self.root else given["work"]
        self.uid = None if given["user"] or os.geteuid() else self._other_user(given["readable"])
        if self.uid is not None and not self.root:
            os.chown(self.work, self.uid, self.uid)
        self.rules: int | None = None
        if "landlock" not in given["without"] and _linux.landlock_version() >= _linux.LANDLOCK_ENOUGH:
            writable = [self.work, *(d for d in DEVICES if os.path.exists(d))]
            self._allow = lambda: _linux.landlock_rules(given["readable"], writable)
            self.rules = self._allow()
        # where other processes of the user count too, leave room for them
        self.threads = THREADS if self.root else 4 * THREADS + tasks(os.geteuid() if self.uid is None else self.uid)
        _linux.no_new_privileges()  # this and the limits are inherited
        for kind, value in LIMITS.items():
            limit(kind, value)

    def _other_user(self, readable: list[str]) -> int | None:
        """A user id that nobody has, so that root's programs are not root's; None where it could not read Python."""
        uid = 0x70000000 + os.getpid() % 0xFFFFFF
        if (pid := os.fork()) == 0:
            with contextlib.suppress(BaseException):
                os.setgroups([])
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
                library = os.path.dirname(os.__file__)
                os.close(os.open(os.path.join(library, "os.py"), os.O_RDONLY))
                os.listdir(library)
                os._exit(0)
            os._exit(1)
        return uid if os.waitpid(pid, 0)[1] == 0 else None

    def confine(self, seconds: float, memory: int) -> None:
        """Give up, in the child, all that a program must not have."""
        limit(resource.RLIMIT_AS, memory)
        limit(resource.RLIMIT_CPU, math.ceil(seconds) + 1)
        limit(resource.RLIMIT_NPROC, self.threads)
        if self.uid is not None:
            os.setgroups([])
            os.setresgid(self.uid, self.uid, self.uid)
            os.setresuid(self.uid, self.uid, self.uid)
        _linux.die_with_parent()
        if os.getppid() != self.parent:
            os._exit(1)
        os.chdir(self.work)
        _linux.drop_capabilities()
        if self.rules is not None:
            _linux.landlock(self.rules)
        os.closerange(4, DESCRIPTORS)
        _linux.seccomp()

    def child(self, request: dict[str, Any], code: str, ends: tuple[int, int, int]) -> NoReturn:
        """The forked process, with its ends: stdout, stderr, verdict. Raises Forked."""
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            for target, end in enumerate(ends, 1):
                os.dup2(end, target)
            self.confine(request["seconds"], request["memory"])
        except BaseException as problem:
            os.write(VERDICT, os.read(VERDICT, WORD) + b"refused" + f"{type(problem).__name__}: {problem}".encode())
            os._exit(1)
        raise Forked(code)

    # --- the zygote's side -------------------------------------------------------------------------------------------

    def run(self, request: dict[str, Any], code: str, planted: str = "") -> dict[str, Any]:
        """One run of a program: how it ended, what it wrote, CPU seconds.

        Where it ends with a failed assertion that says `planted`, its status is "planted".
        """
        ours, theirs = socket.socketpair()
        pipes = [os.pipe(), os.pipe(), (ours.detach(), theirs.detach())]
        pid = os.fork()
        if pid == 0:
            self.child(request, code, (pipes[0][1], pipes[1][1], pipes[2][1]))
        for _, end in pipes:
            os.close(end)
        nonce = os.urandom(WORD // 2).hex().encode()
        with contextlib.suppress(BrokenPipeError):  # it has ended already
            os.write(pipes[2][0], nonce)
        kept = [bytearray(), bytearray(), bytearray()]
        ends = [end for end, _ in pipes]
        child = os.pidfd_open(pid)  # readable when it has ended
        try:
            status = self._watch(pid, child, request, ends[:2], kept)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            used = os.wait4(pid, 0)[2]
            for end, part in zip(ends, kept, strict=True):  # what it wrote last
                os.set_blocking(end, False)
                part += (_read(end) or b"")[: OUTPUT - len(part)]
            for end in (child, *ends):
                os.close(end)
        out, err, said = (bytes(part) for part in kept)
        valid = status == "ended" and said.startswith(nonce)
        text = said[len(nonce) :].decode("utf-8", "replace") if valid else ""
        name = next((name for name in FOUND if text.startswith(name)), "")
        cpu = used.ru_utime + used.ru_stime
        if name == "refused":
            err = text[len(name) :].encode()
        elif planted and text == f"failedAssertionError: {planted}":
            name = "planted"
        elif not name and cpu >= request["seconds"]:
            status = "timeout"  # the kernel's limit was first
        self.clean()
        return {
            "status": name or status.replace("ended", "killed"), "seconds": cpu,
            "stdout": out.decode("utf-8", "replace"), "stderr": err.decode("utf-8", "replace"),
        }  # fmt: skip

    def _watch(self, pid: int, child: int, request: dict[str, Any], ends: list[int], kept: list[bytearray]) -> str:
        """Read a child's output until it has ended or must be."""
        clock = (~pid << 3) | 2  # the CPU time of that process
        until, looked = time.monotonic() + request["wall"], 0.0
        poll = select.poll()
        for end in (child, self.channel.fileno(), *ends):
            poll.register(end, select.POLLIN)
        for end in ends:
            os.set_blocking(end, False)
        while True:
            cpu, left = request["seconds"] - time.clock_gettime(clock), until - time.monotonic()
            if min(cpu, left) <= 0:
                return "timeout"
            wait = min(max(cpu, 0.01), left)
            if not self.root:
                wait = min(wait, LOOK)
                if time.monotonic() - looked >= LOOK:
                    looked = time.monotonic()
                    if bytes_in(self.work, WORK_BYTES) > WORK_BYTES:
                        kept[1][:] = b"the program's files are larger than 32 MiB"
                        return "killed"
                    if threads(pid) > self.threads:  # the limit does not hold for root
                        kept[1][:] = b"the program has too many threads"
                        return "killed"
            for end, _ in poll.poll(math.ceil(wait * 1000)):
                if end == child:
                    return "ended"
                if end not in ends:  # nobody writes to the channel while we work: it was closed
                    raise EOFError
                data = _read(end)
                if data == b"":
                    poll.unregister(end)
                elif data:
                    part = kept[ends.index(end)]
                    part += data[: OUTPUT - len(part)]

    def clean(self) -> None:
        """Leave an empty work folder."""
        try:
            if not os.listdir(self.work):
                return
            if self.root:
                _linux.unmount(self.work)
                _linux.mount_work(self.work, WORK_BYTES, WORK_INODES)
                if self.rules is not None:
                    os.close(self.rules)
                    self.rules = self._allow()
            else:
                empty(os.fsencode(self.work))
        except OSError as problem:
            raise SystemExit(f"the work folder cannot be emptied: {problem}") from None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Run a program with an end that must hold and with one that must fail; it passes if both do what they must.

        Both ends are an `assert` about two random numbers and come in a random order, so that no number of a process or
        a file and no clock tells a program in which of the runs it is.
        """
        a, b = (int.from_bytes(os.urandom(4), "big") | bit for bit in (1 << 32, 1 << 33))
        runs = {}
        for right in (a, b) if os.urandom(1)[0] & 1 else (b, a):
            word = os.urandom(8).hex()
            found = runs[right] = self.run(request, f"{request['code']}\nassert {a} == {right}, {word!r}\n", word)
            if found["status"] != ("passed" if right == a else "planted"):
                return found | ({"status": "cheated"} if found["status"] in ("passed", "planted") else {})
        return runs[a]

    def serve(self) -> None:
        """Answer until the channel closes."""
        with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
            while (request := receive(self.channel)) is not None:
                send(self.channel, self.answer(request))


def _read(end: int) -> bytes | None:
    """What is in a pipe; empty at its end; None where there is nothing now."""
    try:
        return os.read(end, 1 << 16)
    except BlockingIOError:
        return None
    except ConnectionResetError:  # it left without reading the word
        return b""


# --- starting --------------------------------------------------------------------------------------------------------


def _guard(zygote: int, parent: int | None, work: str | None) -> NoReturn:
    """Wait until the zygote ends, and end it when the process that it serves has gone."""
    with contextlib.suppress(OSError):
        watched = select.poll()
        watched.register(os.pidfd_open(zygote), select.POLLIN)
        if parent is not None:
            watched.register(parent, select.POLLIN)
        watched.poll()
        if not os.waitpid(zygote, os.WNOHANG)[0]:
            os.kill(zygote, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(zygote, 0)
    if work is not None:
        with contextlib.suppress(OSError):
            empty(os.fsencode(work))
            os.rmdir(work)
    os._exit(0)


def main(descriptor: int, parent_id: int, settings: str) -> str:
    """Be a zygote to the end. Returns in a forked child only: the program that it becomes."""
    try:
        start(descriptor, parent_id, settings)
    except Forked as child:
        return str(child)


def start(descriptor: int, parent_id: int, settings: str) -> NoReturn:
    """Enter the namespaces that `settings` ask for, report whether that worked, and serve."""
    given: dict[str, Any] = json.loads(settings)
    channel = socket.socket(fileno=fcntl.fcntl(descriptor, fcntl.F_DUPFD, 4))  # a low number
    os.close(descriptor)
    os.dup2(0, VERDICT)  # the verdict's place in a child: nothing else may be there
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = None
    with contextlib.suppress(OSError):  # before Linux 5.3 the closed channel must do
        parent = os.pidfd_open(parent_id)
    if os.getppid() != parent_id:
        os._exit(0)
    try:
        if given["root"]:
            _linux.enter_namespaces(user=given["user"])
        if pid := os.fork():
            channel.close()
            _guard(pid, parent, None if given["root"] else given["work"])
        _linux.die_with_parent()
        if parent is not None:
            os.close(parent)
        if given["root"]:
            _linux.private_root([*given["readable"], *DEVICES], WORK)
            _linux.mount_work(WORK, WORK_BYTES, WORK_INODES)
        os.environ.clear()
        zygote = Zygote(channel, given)
        for name in [name for name in sys.modules if name.partition(".")[0] == "llmanac"]:
            del sys.modules[name]  # no program shall find them
        gc.collect()
        gc.freeze()  # a fork then copies no pages for the collector's marks
        tried = zygote.run({"seconds": 5.0, "wall": 60.0, "memory": 1 << 28}, "pass")
        if tried["status"] != "passed":
            raise OSError(tried["stderr"] or tried["status"])
        send(channel, {"landlock": zygote.rules is not None, "uid": zygote.uid})
    except Exception as problem:
        with contextlib.suppress(OSError):
            send(channel, {"error": f"{type(problem).__name__}: {problem}"})
        os._exit(1)
    zygote.serve()
    os._exit(0)
