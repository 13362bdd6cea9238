"""Errors that a user can act on. The command line prints one as a sentence; it never shows a traceback for these."""

from __future__ import annotations

import contextlib
import difflib
import re
import reprlib
from collections.abc import Iterable, Iterator


class LlmanacError(Exception):
    """An error that the user can fix: the message names the file, line, field or flag, and says what to do."""


class SpecError(LlmanacError, ValueError):
    """A recipe, patch or Spec that cannot be built; the message starts with the dotted path of the field."""


class DataError(LlmanacError, ValueError):
    """Input text that cannot be used; the message names the file and, where there is one, the line."""


class TokenizerError(LlmanacError, ValueError):
    """A vocabulary or tokenizer file that cannot be used."""


class CheckpointError(LlmanacError, RuntimeError):
    """A checkpoint that is missing, truncated, or does not fit the model; the message names the file."""


class TrainingError(LlmanacError, RuntimeError):
    """A training that cannot go on (a loss that is not finite); the message names the step and what was saved."""


class RequestError(LlmanacError, ValueError):
    """A request to the engine or the server that cannot be served (a prompt longer than the context, ...)."""


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = 80
_SHORT.maxlevel = 4


def shown(value: object) -> str:
    """A value of an untrusted file for a message: its `repr`, shortened where it is long or deeply nested."""
    return _SHORT.repr(value)


def nearest(name: str, known: Iterable[str]) -> str:
    """`'; did you mean 'rope'?'`, or nothing when no known name is close."""
    match = difflib.get_close_matches(name, list(known), n=1) if len(name) < 200 else []
    return f"; did you mean {match[0]!r}?" if match else ""


def printable(text: str) -> str:
    """Text of others for a message: control characters and lone surrogates are written as `\\x1b`, `\\ud800`."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


# control characters but tab and newline, marks of the direction of writing, lone surrogates
UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def for_terminal(text: str) -> str:
    """Text of others in any language, for a terminal: what would control it, or turn lines around, as `\\x1b`."""
    return UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def described(error: BaseException) -> str:
    """An exception of a user's own code for a message: its class and what it says, shortened and printable."""
    try:
        text = str(error)
    except Exception:
        text = "(its text cannot be read)"
    return printable(f"{type(error).__name__}: {text[:500]}" if text else type(error).__name__)


@contextlib.contextmanager
def users_code(what: str, kind: type[LlmanacError] = DataError) -> Iterator[None]:
    """While inside, an exception of a user's own code becomes a `kind` that begins with `what`; so does `exit()`."""
    try:
        yield
    except LlmanacError:
        raise
    except (Exception, SystemExit) as error:
        raise kind(f"{what} raised {described(error)}") from error
