"""Errors that a user can act on. The command line prints one as a sentence; it never shows a traceback for these."""

import contextlib
import difflib
import re
import reprlib
from collections.abc import Iterable, Iterator
from typing import Any

# how a message begins that names a field, an option or an argument by its dotted path
_FIELD = re.compile(r"([A-Za-z_][\w.\[\]]*): ")


class LlmanacError(Exception):
    """An error that the user can fix: the message names the file, line, field or flag, and says what to do.

    Programs read these attributes, never the message.

    Args:
        message: begins with the field's dotted path and a colon where there is one.

    Attributes:
        place: the file that the message begins with, and its line where it is known; None where none was given.
        field: the field that the message names; reason: what it says of it.
        code: the reason in one word, where it has one.
    """

    def __init__(self, message: object = "", *, place: object = None, code: str | None = None) -> None:
        text = str(message)
        named = _FIELD.match(text)
        self.place, self.code = place, code
        self.field = None if named is None else named[1]
        self.reason = text if named is None else text[named.end() :]
        super().__init__(text if place is None else f"{place}: {text}")

    def __reduce__(self) -> tuple[Any, ...]:  # whatever a subclass is made from: it crosses processes as it is
        return _as_it_was, (type(self), self.args, self.__dict__)


def _as_it_was(kind: type[LlmanacError], args: tuple[Any, ...], state: dict[str, Any]) -> LlmanacError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


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


def too_long(field: str, tokens: int, context: int) -> RequestError:
    """The error for a request of more tokens than the model reads."""
    message = f"{field}: {tokens} tokens do not fit the model's context of {context}; shorten it"
    return RequestError(message, code="context_length_exceeded")


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
