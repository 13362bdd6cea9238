"""Progress with a rate and the time left, in a terminal, a notebook or a log file.

A terminal and a notebook get one live line, anything else a plain line every ten seconds. Nothing is printed for work
that ends within two seconds.
"""

import contextlib
import functools
import sys
import threading
import time
from collections.abc import Callable, Iterator

QUIET_SECONDS = 2.0
LINE_SECONDS = 10.0
Report = Callable[[str], object]  # is given lines for the user, one at a time


def _clock(seconds: float) -> str:
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _quantity(value: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= size:
            return f"{value / (1e3 if unit == 'k' else size):.1f}{unit}"
    return f"{value:.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"


def _rate(rate: float, unit: str) -> str:
    """`12 steps/s`; below one a second `4.2 s a step`."""
    if not rate:
        return ""  # nothing is done yet
    return f"{_quantity(rate)} {unit}/s" if rate >= 1 else f"{1 / rate:.3g} s a {unit.removesuffix('s')}"


class Progress:
    """One running task: `advance` it, and give it short notes to show (`loss=2.31`)."""

    def __init__(self, label: str, total: float | None, unit: str) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done, self.start = 0.0, time.monotonic()
        self.notes = ""
        self._last = self.start
        self._live = sys.stderr.isatty() or "ipykernel" in sys.modules
        self._shown: float | None = None  # what was done by the last line that was shown
        self._width = 0

    def advance(self, amount: float = 1, **notes: object) -> None:
        """Add to what is done; notes replace the earlier ones."""
        self.done += amount
        self._note(notes)

    def update(self, done: float, **notes: object) -> None:
        """Set what is done (for work measured in seconds, say)."""
        self.done = done
        self._note(notes)

    def _note(self, notes: dict[str, object]) -> None:
        if notes:
            self.notes = "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in notes.items())
        now = time.monotonic()
        every = 0.2 if self._live else LINE_SECONDS
        if now - self.start >= QUIET_SECONDS and now - self._last >= every:
            self._last = now
            self._show(self.line())

    def line(self) -> str:
        """The text of the line: label, share done, rate, time left, notes."""
        seconds = time.monotonic() - self.start
        rate = self.done / seconds if seconds else 0.0
        parts = [self.label]
        if self.total:
            share = min(1.0, self.done / self.total)
            left = (self.total - self.done) / rate if rate else float("nan")
            parts.append(f"{share:4.0%}")
            if self.unit != "s":
                parts.append(_rate(rate, self.unit))
            parts.append(f"{_clock(left)} left" if rate else "")
        else:
            parts.append(f"{_quantity(self.done)} {self.unit}  {_rate(rate, self.unit)}  {_clock(seconds)}")
        return "  ".join(p for p in [*parts, self.notes] if p)

    def _show(self, text: str) -> None:
        self._shown = self.done
        end = "" if self._live else "\n"
        start = "\r" if self._live else ""
        padded = text.ljust(self._width) if self._live else text  # covers what the last line left behind
        self._width = len(text)
        print(f"{start}{padded}", end=end, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the last state on the screen, if anything was shown: a log file is not left at "0%" either."""
        if self._shown is None or (not self._live and self._shown == self.done):
            return
        self._show(self.line())
        if self._live:
            print(file=sys.stderr)


@contextlib.contextmanager
def progress(label: str, total: float | None = None, unit: str = "it") -> Iterator[Progress]:
    """`with progress("encode", total=len(texts), unit="texts") as bar: ... bar.advance()`."""
    bar = Progress(label, total, unit)
    try:
        yield bar
    finally:
        bar.close()


@functools.cache
def say_once(text: str) -> None:
    """One line on standard error, once a process."""
    print(text, file=sys.stderr, flush=True)


_once = 0.0  # seconds inside `announced`


def once_seconds() -> float:
    """Seconds that this process spent on what is done once for a machine (`announced`)."""
    return _once


def time_without_once() -> float:
    """`time.monotonic()` without `once_seconds`: the clock of budgets."""
    return time.monotonic() - _once


@contextlib.contextmanager
def announced(text: str, done: int = 0, now: str = "") -> Iterator[None]:
    """Say on standard error what is done once for a machine (compiling) and cannot say so itself, if it takes more than
    two seconds: a line once a process, or in a terminal one that lives: seconds, how many are done, which is at work.
    Budgets do not count it.
    """
    global _once
    begin, ended = time.monotonic(), threading.Event()
    live = sys.stderr.isatty()

    def speak() -> None:
        if not live:
            if not ended.wait(QUIET_SECONDS):
                say_once(text)
            return
        width = 0
        while not ended.wait(0.2):
            seconds = _once + time.monotonic() - begin
            if seconds >= QUIET_SECONDS:
                line = f"{text}: {seconds:.0f} s, {done} done, {now}"
                width = max(width, len(line))
                print(f"\r{line.ljust(width)}", end="", file=sys.stderr, flush=True)
        if width:  # what comes next begins on a clean line
            print(f"\r{' ' * width}\r", end="", file=sys.stderr, flush=True)

    speaker = threading.Thread(target=speak, daemon=True)
    speaker.start()
    try:
        yield
    finally:
        ended.set()
        speaker.join()
        _once += time.monotonic() - begin
