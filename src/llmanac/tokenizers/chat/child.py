"""The program that renders chat templates. `process.py` starts it as a process and says what it may take.

It is not imported by llmanac and imports nothing of it, so that it starts in a twentieth of a second. Before it reads
anything it limits its own memory; it ignores Ctrl-C, which is its parent's to answer; it ends when its input closes.

A frame is its length in 8 bytes and JSON in UTF-8 (lone surrogates as they are). A request holds conversations of one
template; each is answered by a frame of its own. An answer with `last` says that this process should be replaced.
"""

import contextlib
import functools
import json
import os
import re
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, BinaryIO

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]


def _confine(memory: int) -> None:
    """Limit this process: its memory in bytes, no files written, no core dump. Where the system has such limits."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name, most in (("AS", memory), ("DATA", memory), ("CORE", 0), ("FSIZE", 0)):
        with contextlib.suppress(AttributeError, ValueError, OSError):
            kind = getattr(resource, f"RLIMIT_{name}")
            hard = resource.getrlimit(kind)[1]
            most = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(kind, (most, most))


if __name__ == "__main__":
    LIMITS = json.loads(sys.argv[1])
    _confine(LIMITS["memory"])
    sys.path += LIMITS["path"]

import jinja2  # noqa: E402 (its place is known only now)
import jinja2.ext  # noqa: E402
from jinja2.sandbox import ImmutableSandboxedEnvironment  # noqa: E402

NONCHARACTERS = [chr(c) for c in range(0xFDD0, 0xFDF0)]
OPEN, CLOSE = "\U0010fffe", "\U0010ffff"  # around what the assistant writes, while a template runs
MOST_SPANS = 100_000
MOST_OF_AN_ERROR = 500  # characters


class Failure(Exception):
    """An error for the user, one sentence."""


class _Generation(jinja2.ext.Extension):
    """`{% generation %}...{% endgeneration %}`: marks what the assistant writes."""

    tags = {"generation"}  # noqa: RUF012 (the name and type that Jinja asks for)

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

    def _mark(self, caller: Any) -> str:
        return OPEN + caller() + CLOSE


def _raise(message: str) -> None:
    raise jinja2.exceptions.TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _words(error: BaseException) -> str:
    return " ".join(str(error)[:MOST_OF_AN_ERROR].split()) or type(error).__name__


def _place(error: BaseException) -> str:
    """The template's line in which an error came up, where that is not what the template itself says."""
    line, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":  # as Jinja calls a template that is no file
            line = trace.tb_lineno
        trace = trace.tb_next
    return f" (line {line})" if line and type(error) is not jinja2.exceptions.TemplateError else ""


def _strings(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _exchanged(value: Any, pattern: re.Pattern[str], stand_in: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return pattern.sub(lambda match: stand_in[match[0][0]] + match[0][1:], value)
    if isinstance(value, dict):
        return {_exchanged(k, pattern, stand_in): _exchanged(v, pattern, stand_in) for k, v in value.items()}
    if isinstance(value, list):
        return [_exchanged(v, pattern, stand_in) for v in value]
    return value


@functools.lru_cache(maxsize=16)
def _tokens(special: tuple[str, ...]) -> tuple[list[str], re.Pattern[str]]:
    """Control tokens, the longest first, and what finds them."""
    tokens = sorted((text for text in special if text), key=len, reverse=True)
    return tokens, re.compile("|".join(map(re.escape, tokens)) or r"(?!)")


def _marked_spans(marked: str) -> Iterable[tuple[int, int]]:
    at, start = 0, 0
    for piece in re.split(f"([{OPEN}{CLOSE}])", marked):
        if piece == OPEN:
            start = at
        elif piece == CLOSE:
            yield start, at
        else:
            at += len(piece)


# Messages, variables, the text that the template makes of them, and how to undo an exchange (None: there was none).
Guarded = tuple[list[dict[str, Any]], dict[str, Any], str, "dict[str, str] | None"]


class CompiledTemplate:
    """One compiled template.

    Args:
        source: Jinja.
        longest: characters that it may write.
    """

    def __init__(self, source: str, longest: int) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
        )
        environment.filters["tojson"] = _to_json  # Jinja's own escapes HTML
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = _now
        try:
            self._template = environment.from_string(source)
        except MemoryError:
            raise
        except jinja2.TemplateSyntaxError as error:
            raise Failure(f"chat template, line {error.lineno}: {_words(error)}") from None
        except Exception as error:  # Python's own compiler has limits too
            raise Failure(f"chat template: too much to read ({_words(error)})") from None
        self._longest = longest
        self._marks = re.search(r"\{%[-+]?\s*generation\s*[-+]?%\}", source) is not None

    def _run(self, messages: list[dict[str, Any]], prompt: bool, variables: Mapping[str, Any]) -> str:
        given = {"tools": None, "documents": None, **variables}
        try:
            text = self._template.render(messages=messages, add_generation_prompt=prompt, **given)
        except MemoryError:
            raise
        except Exception as error:  # a template is a program, and this is whatever it did wrong
            raise Failure(f"chat template: {_words(error)}{_place(error)}") from None
        if len(text) > self._longest:
            raise Failure(f"chat template: it writes more than {self._longest:,} characters")
        return text

    def text(self, messages: list[dict[str, Any]], prompt: bool, variables: Mapping[str, Any]) -> str:
        """The text of a conversation, exactly as the template writes it."""
        return self._run(messages, prompt, variables).replace(OPEN, "").replace(CLOSE, "")

    def rendered(
        self,
        messages: list[dict[str, Any]],
        prompt: bool,
        variables: Mapping[str, Any],
        special: Iterable[str],
        roles: Iterable[str],
        spans: bool,
    ) -> dict[str, Any]:
        """`text` with control tokens of messages exchanged, `restore` to undo that, and the assistant's `spans`.

        Without `{% generation %}` the spans take further renderings for each turn.
        """
        theirs = set(roles)
        outside = {k: v for k, v in variables.items() if k not in theirs}
        held = "".join(_strings([*messages, outside]))
        if OPEN in held or CLOSE in held:
            raise Failure("messages: U+10FFFE and U+10FFFF are noncharacters and cannot be used in a chat")
        tokens, pattern = _tokens(tuple(special))
        plain, given, marked, restore = self._guarded(messages, prompt, variables, theirs, tokens, held)
        text = marked.replace(OPEN, "").replace(CLOSE, "")
        if not spans:
            return {"text": text, "restore": restore, "spans": []}
        found = _marked_spans(marked) if self._marks else self._turns(plain, given, text, pattern)
        parts = [[start, stop] for start, stop in found if start < stop]
        if len(parts) > MOST_SPANS:
            raise Failure(f"chat template: it marks more than {MOST_SPANS:,} parts as the assistant's")
        return {"text": text, "restore": restore, "spans": parts}

    def _guarded(
        self,
        plain: list[dict[str, Any]],
        prompt: bool,
        given: Mapping[str, Any],
        roles: set[str],
        special: Sequence[str],
        held: str,
    ) -> Guarded:
        """Messages and variables with characters exchanged, what the template makes of them, and how to undo it.

        Exchanging single characters is the stronger guard: nothing that is joined or filtered out of messages can then
        spell a token. A template that looks at such a character writes something else for its replacement; then each
        token is guarded by another of its characters, and only if none of them works, by all of its text.
        """
        written = self._run(plain, prompt, given)
        free = [c for c in NONCHARACTERS if c not in held]
        unchanged: Guarded = (plain, dict(given), written, None)

        def guarded(pattern: str, first: Iterable[str]) -> Guarded:
            compiled, stand_in = re.compile(pattern), dict(zip(sorted(set(first)), free, strict=False))
            if not compiled.search(held):
                return unchanged
            if len(stand_in) < len(set(first)):
                raise Failure("messages: too many noncharacters in a chat that spells control tokens")
            other = _exchanged(plain, compiled, stand_in)
            changed = {k: v if k in roles else _exchanged(v, compiled, stand_in) for k, v in given.items()}
            return other, changed, self._run(other, prompt, changed), {v: k for k, v in stand_in.items()}

        def unseen(characters: Iterable[str]) -> Guarded | None:
            """Messages with these exchanged, if the template does not look at them."""
            try:
                found = guarded(f"[{''.join(map(re.escape, sorted(set(characters))))}]", characters)
            except Failure:
                return None
            back = {ord(k): v for k, v in (found[3] or {}).items()}
            return found if found[2].translate(back) == written else None

        if not special:
            return unchanged
        if found := unseen([text[0] for text in special]):
            return found
        apart = {c for c in set("".join(special)) if unseen([c])}
        by = [next((c for c in text if c in apart), "") for text in special]
        if all(by) and (found := unseen(by)):
            return found
        return guarded("|".join(map(re.escape, special)), [text[0] for text in special])

    def _turns(
        self, messages: list[dict[str, Any]], given: Mapping[str, Any], text: str, special: re.Pattern[str]
    ) -> Iterable[tuple[int, int]]:
        """Where the assistant's turns are in the text of a template without `{% generation %}`."""
        for i, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            span = self._turn_by_prefix(messages, i, given, text) or self._turn_by_marks(messages, i, given, text)
            if span is None:
                raise Failure(
                    f"chat template: cannot tell which part of its text messages[{i}] (assistant) is; "
                    "put {% generation %} ... {% endgeneration %} around what the assistant writes"
                )
            start, stop = span
            ends = [match.end() for match in special.finditer(text, start, stop)]
            after = special.match(text, stop)
            if ends and not text[ends[-1] : stop].strip():
                stop = ends[-1]  # a line break behind the turn's end is the template's
            elif after:
                stop = after.end()
            yield start, stop

    def _turn_by_prefix(
        self, messages: list[dict[str, Any]], i: int, given: Mapping[str, Any], text: str
    ) -> tuple[int, int] | None:
        """What comes between the prompt for turn i and the text that ends with it."""
        try:
            before, upto = self._run(messages[:i], True, given), self._run(messages[: i + 1], False, given)
        except Failure:
            return None
        if len(before) < len(upto) and text.startswith(upto) and upto.startswith(before):
            return len(before), len(upto)
        return None

    def _turn_by_marks(
        self, messages: list[dict[str, Any]], i: int, given: Mapping[str, Any], text: str
    ) -> tuple[int, int] | None:
        """Where marks put around the content of turn i come out; None where they change anything else."""
        content = messages[i].get("content")
        if not isinstance(content, str) or not content:
            return None
        changed = [*messages]
        changed[i] = {**messages[i], "content": OPEN + content + CLOSE}
        try:
            marked = self._run(changed, False, given)
        except Failure:
            return None
        spans = list(_marked_spans(marked))
        if len(spans) != 1 or not text.startswith(marked.replace(OPEN, "").replace(CLOSE, "")):
            return None
        return spans[0]


_template = functools.lru_cache(maxsize=16)(CompiledTemplate)


def answer(request: Mapping[str, Any], conversation: Mapping[str, Any], longest: int) -> dict[str, Any]:
    """What a template makes of one conversation. Raises Failure; MemoryError."""
    template = _template(request["source"], longest)
    given = conversation["messages"], conversation["prompt"], conversation["variables"]
    if request["special"] is None:
        return {"text": template.text(*given)}
    return template.rendered(*given, request["special"], request["roles"], request["spans"])


def _encoded(reply: Mapping[str, Any], most: int) -> bytes:
    data = json.dumps(reply, ensure_ascii=False).encode("utf-8", "surrogatepass")
    if len(data) > most:
        raise Failure(f"chat template: it writes more than {most:,} bytes")
    return data


def _alarm(seconds: float) -> None:
    """End this process after so long, should its parent not be there to do so; 0: never."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _held(statm: int | None) -> int:
    """The bytes of address space that this process has; 0 where the system does not tell."""
    return 0 if statm is None else int(os.pread(statm, 40, 0).split()[0]) * resource.getpagesize()


def _frame(data: bytes) -> bytes:
    return len(data).to_bytes(8, "big") + data


def serve(requests: BinaryIO, replies: BinaryIO, *, memory: int, longest: int, most: int) -> None:
    """Answer requests until they end. Limits: bytes of memory, characters of a text, bytes of a reply."""
    too_large = json.dumps({"error": f"chat template: it takes more than {memory >> 20} MiB of memory", "last": True})
    full = _frame(too_large.encode())  # made while there is room
    statm = os.open("/proc/self/statm", os.O_RDONLY) if os.path.exists("/proc/self/statm") else None
    replies.write(_frame(b"{}"))
    replies.flush()
    while len(size := requests.read(8)) == 8:
        data = b""
        try:
            _alarm(60)
            request = json.loads(requests.read(int.from_bytes(size, "big")).decode("utf-8", "surrogatepass"))
            for conversation in request["conversations"]:
                _alarm(1 + 2 * conversation["seconds"])  # the parent's clock is the one that counts
                try:
                    data = _encoded(answer(request, conversation, longest), most)
                except MemoryError:
                    raise
                except Failure as error:
                    data = _encoded({"error": str(error)}, most)
                except Exception as error:  # outside the template: messages that nest too deep
                    data = _encoded({"error": f"chat template: {_words(error)}"}, most)
                last = _held(statm) > memory // 2
                replies.write(_frame(data[:-1] + b', "last": true}' if last else data))
                replies.flush()
                if last:
                    return
        except MemoryError:
            replies.write(full)
            replies.flush()
            return
        _alarm(0)


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        limits = {name: LIMITS[name] for name in ("memory", "longest", "most")}
        with open(0, "rb", closefd=False) as source, open(1, "wb", closefd=False) as sink:
            serve(source, sink, **limits)
