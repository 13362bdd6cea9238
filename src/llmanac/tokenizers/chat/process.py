"""Where chat templates run: one helper process with a limit on its memory, and a clock that ends it.

A template is untrusted code. Jinja's sandbox keeps it from our objects, not from running for ever or filling the
memory, and no rule over what it may write does. So every template, our own too, is rendered by `child.py`, a
process that is started when first needed and used again. It may have `MEMORY` bytes of address space (where the system
has such limits: on macOS and Windows the clock alone holds); a thread of ours kills it when a conversation takes too
long. The caller gets a one-sentence error; the next request gets a new process.

Any thread may ask; requests come one after the other. A forked process starts a helper of its own. The helper ends when
its input closes: at our exit, and when we are killed.
"""

import atexit
import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from llmanac.core.errors import TokenizerError, printable

SECONDS, A_MESSAGE = 5.0, 0.05  # that a conversation may take to be rendered, and for each of its messages
MOST_SECONDS = 30.0  # however many messages it has
TO_START = 60.0  # seconds
MEMORY = 1 << 29  # bytes of address space
SOURCE = 1 << 18  # characters of a template
INPUT = 1 << 25  # bytes of a conversation, as JSON
LONGEST = 1 << 24  # characters of a rendered text
REPLY = 1 << 26  # bytes of it, as JSON
TOGETHER, TOGETHER_BYTES = 64, 1 << 20  # conversations of one request
ENVIRONMENT = ("TZ", "LANG", "LC_ALL", "LC_TIME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT")


class _Ended(Exception):
    """The process closed its pipes."""


class _Clock(threading.Thread):
    """Kills a process when its time is over. It sleeps until then: a request that is answered wakes nobody."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        super().__init__(name="llmanac-template-clock", daemon=True)
        self._process = process
        self._changed = threading.Condition()
        self._until = self._wakes = float("inf")

    def until(self, when: float) -> None:
        """Kill the process at this time of `time.monotonic`; infinity: never."""
        with self._changed:
            self._until = when
            if when < self._wakes:
                self._changed.notify()

    def run(self) -> None:
        with self._changed:
            while (left := self._until - time.monotonic()) > 0:
                self._wakes = self._until
                self._changed.wait(min(left, threading.TIMEOUT_MAX))
        self._process.kill()


class _Child:
    """A running helper process."""

    def __init__(self) -> None:
        limits = {"memory": MEMORY, "longest": LONGEST, "most": REPLY, "path": _places("jinja2", "markupsafe")}
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-I", "-S", "-B"),  # no site-packages, no settings of the user
                str(Path(__file__).with_name("child.py").resolve()),
                json.dumps(limits),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            cwd=os.path.abspath(os.sep),
            env={name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
            start_new_session=True,  # Ctrl-C at the terminal is ours
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
        self.clock = _Clock(self.process)
        try:
            self.clock.start()
            self.clock.until(time.monotonic() + TO_START)
            self.receive()
            self.clock.until(float("inf"))
        except _Ended:
            self.end()
            status = self.process.returncode
            raise TokenizerError(
                f"chat template: the process that renders it did not start (status {status})"
            ) from None
        except BaseException:
            self.end()
            raise

    def send(self, data: bytes) -> None:
        pipe, rest = _open(self.process.stdin), memoryview(len(data).to_bytes(8, "big") + data)
        try:
            while rest:
                rest = rest[pipe.write(rest) :]
        except OSError:
            raise _Ended from None

    def receive(self) -> dict[str, Any]:
        """The next answer. Raises _Ended."""
        size = int.from_bytes(self._read(8), "big")
        if size > REPLY + 64:
            raise _Ended
        try:
            reply: dict[str, Any] = json.loads(self._read(size).decode("utf-8", "surrogatepass"))
        except ValueError:
            raise _Ended from None
        return reply

    def _read(self, size: int) -> bytearray:
        pipe, data = _open(self.process.stdout), bytearray(size)
        rest = memoryview(data)
        while rest:
            got = pipe.readinto(rest)  # type: ignore[attr-defined]
            if not got:
                raise _Ended
            rest = rest[got:]
        return data

    def end(self) -> None:
        """Kill it, and wait until it is gone."""
        self.process.kill()
        self.clock.until(0.0)
        self.process.wait()
        self.close()

    def close(self) -> None:
        """Close our ends of its pipes."""
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                _open(pipe).close()


def _open(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


def _places(*packages: str) -> list[str]:
    """The folders that packages are imported from."""
    found = [importlib.util.find_spec(name) for name in packages]
    places = [str(Path(spec.origin).resolve().parents[1]) for spec in found if spec is not None and spec.origin]
    return sorted(set(places))


class Helper:
    """The process that renders, started when it is needed and again when it has ended. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: _Child | None = None

    @property
    def pid(self) -> int | None:
        """Its process id; None before it is started and after it ended."""
        child = self._child
        return None if child is None or child.process.poll() is not None else child.process.pid

    def ask(self, request: bytes, seconds: Sequence[float]) -> list[dict[str, Any]]:
        """Answers to the first of a request's conversations: one or more, at most as many as there are `seconds`.

        Args:
            seconds: how long each may take.
        """
        with self._lock:
            replies: list[dict[str, Any]] = []
            until, again = 0.0, True
            while True:
                try:
                    child = self._running()
                    until = until or time.monotonic() + seconds[0]
                    child.clock.until(until)
                    child.send(request)
                    while True:
                        replies.append(child.receive())
                        if len(replies) == len(seconds) or replies[-1].get("last"):
                            break
                        until = time.monotonic() + seconds[len(replies)]
                        child.clock.until(until)
                    child.clock.until(float("inf"))
                    if replies[-1].get("last"):
                        self._end()
                    return replies
                except _Ended:
                    status = self._end()
                    if replies:  # the others are asked for again
                        return [*replies, {"error": _late(seconds[len(replies)])}] if _is_over(until) else replies
                    if _is_over(until):
                        return [{"error": _late(seconds[0])}]
                    if not again:
                        return [{"error": f"chat template: the process that renders it died twice (status {status})"}]
                    again = False  # somebody else's doing, perhaps
                except OSError as error:
                    self._end()
                    raise TokenizerError(f"chat template: cannot start the process that renders it: {error}") from None
                except BaseException:  # Ctrl-C: what it would still write must not answer the next request
                    self._end()
                    raise

    def _running(self) -> _Child:
        if self._child is not None and self._child.process.poll() is not None:
            self._end()
        if self._child is None:
            self._child = _Child()
        return self._child

    def _end(self) -> int | None:
        child, self._child = self._child, None
        if child is None:
            return None
        child.end()
        return child.process.returncode

    def close(self) -> None:
        """End the process, also while it renders."""
        if (child := self._child) is not None:
            child.process.kill()
        if self._lock.acquire(timeout=1.0):
            try:
                self._end()
            finally:
                self._lock.release()

    def forget(self) -> None:
        """After a fork: the process and the threads are the parent's."""
        child, self._child, self._lock = self._child, None, threading.Lock()
        if child is not None:
            child.close()
            child.process.returncode = 0


def _is_over(until: float) -> bool:
    return 0.0 < until <= time.monotonic()


def _late(seconds: float) -> str:
    return f"chat template: it takes more than {seconds:.3g} s for a conversation"


HELPER = Helper()
atexit.register(HELPER.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=HELPER.forget)


def answers(
    source: str,
    conversations: Iterable[tuple[list[dict[str, Any]], bool, Mapping[str, Any]]],
    *,
    special: Sequence[str] | None = None,
    roles: Sequence[str] = (),
    spans: bool = True,
    until: float = float("inf"),
) -> Iterator[dict[str, Any]]:
    """What a template makes of each conversation: `{"text": ...}` and, where `special` is given, more.

    Args:
        conversations: messages, whether the assistant is to speak next, and the template's variables: plain data.
        special: control tokens that messages must not spell.
        roles: the variables that hold tokens of the tokenizer.
        spans: whether to find what the assistant wrote.
        until: time of `time.monotonic` after which nobody waits for the answers: rendering is then ended.

    Raises:
        TokenizerError: when it comes to a conversation that fails, with those before it handed out.
    """
    if len(source) > SOURCE:
        raise TokenizerError(f"chat template: {len(source):,} characters are more than the {SOURCE:,} it may have")
    head = (
        _encoded({"source": source, "special": special, "roles": list(roles), "spans": spans})[:-1]
        + b', "conversations": ['
    )
    for waiting, seconds in _requests(conversations, until):
        while waiting:
            replies = HELPER.ask(head + b",".join(waiting) + b"]}", seconds)
            del waiting[: len(replies)], seconds[: len(replies)]
            for reply in replies:
                if "error" in reply:
                    raise TokenizerError(printable(str(reply["error"])))
                yield reply


def _requests(
    conversations: Iterable[tuple[list[dict[str, Any]], bool, Mapping[str, Any]]], until: float
) -> Iterator[tuple[list[bytes], list[float]]]:
    """Conversations as JSON, some at a time, with the seconds that each may take."""
    waiting: list[bytes] = []
    seconds: list[float] = []
    size = 0
    try:
        for messages, prompt, variables in conversations:
            allowed = min(MOST_SECONDS, SECONDS + A_MESSAGE * len(messages), max(0.001, until - time.monotonic()))
            data = _encoded({"messages": messages, "prompt": prompt, "variables": variables, "seconds": allowed})
            if len(data) > INPUT:
                raise TokenizerError(f"messages: {len(data):,} bytes are more than the {INPUT:,} of a conversation")
            size += len(data)
            if waiting and (len(waiting) == TOGETHER or size > TOGETHER_BYTES):
                yield waiting, seconds
                waiting, seconds, size = [], [], len(data)
            waiting.append(data)
            seconds.append(allowed)
    except Exception:  # those before the one that fails come first
        if waiting:
            yield waiting, seconds
        raise
    if waiting:
        yield waiting, seconds


def _encoded(value: Any) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
    except ValueError as error:  # a number of thousands of digits
        raise TokenizerError(f"messages: {error}") from None
