"""An exercise in the user's own editor: the scaffold is written, the editor started, and every save is checked.

A full-screen editor has the terminal, so its file is checked when it ends; any other is checked at each save, and one
that goes into the background (`code`, `subl`) is waited for until the answer is right.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from llmanac.core import files
from llmanac.core.errors import SpecError
from llmanac.guide.exercise import Exercise, Verdict, check, read_answer

FULL_SCREEN = frozenset({"vi", "vim", "nvim", "nano", "pico", "hx", "helix", "micro", "ed", "joe", "mcedit", "emacs"})
POLL = 0.3  # seconds between looks at the file
AT_ONCE = 3.0  # an editor that ends sooner, without a save, went into the background


def editor() -> list[str]:
    """The command of `$VISUAL` or `$EDITOR`. Raises SpecError where neither is set."""
    given = os.environ.get("VISUAL") or os.environ.get("EDITOR") or ""
    try:
        command = shlex.split(given)
    except ValueError as error:
        raise SpecError(f"EDITOR: {given!r}: {error}") from None
    if not command:
        raise SpecError("--edit: set EDITOR to your editor, for example: export EDITOR=nano")
    return command


def edit(exercise: Exercise, path: Path, kept: Callable[[Verdict], None], say: Callable[[str], None]) -> Verdict | None:
    """Write the scaffold where the file is not there, open it, and check what is saved.

    Args:
        kept: is given each verdict; say: what to tell the user.

    Returns:
        The last verdict; None where nothing was saved.

    Raises:
        SpecError: no editor, or one that cannot be started. SandboxError: answers cannot be checked here.
    """
    command = editor()
    if not path.exists():
        files.write_text(path, exercise.scaffold.lstrip())
    seen, verdict, began = path.stat().st_mtime_ns, None, time.monotonic()
    full, ended, background = Path(command[0]).name in FULL_SCREEN, False, False
    try:
        process = subprocess.Popen([*command, str(path)])
    except OSError as error:
        raise SpecError(f"EDITOR: {command[0]} cannot be started ({error.strerror})") from None
    try:
        while True:
            just_ended = not ended and process.poll() is not None
            ended = ended or just_ended
            changed = path.exists() and path.stat().st_mtime_ns != seen
            if just_ended and not (full or changed or verdict):
                background = process.returncode == 0 and time.monotonic() - began < AT_ONCE
            if changed and (ended or not full):
                seen = path.stat().st_mtime_ns
                verdict = check(exercise, read_answer(path))
                kept(verdict)
                say(f"{'passed' if verdict.passed else 'not right'}: {verdict.right} of {verdict.cases} cases")
                if verdict.message:
                    say(verdict.message)
            elif ended and (not background or (verdict is not None and verdict.passed)):
                return verdict
            else:
                time.sleep(POLL)
    finally:
        if process.poll() is None:
            process.terminate()
