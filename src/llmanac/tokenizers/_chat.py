"""Chat templates: Jinja in its sandbox, configured as `transformers` configures it, and who wrote which character.

A template is code from a stranger and messages are text from another one. So the template runs in a sandbox with a
clock (`_sandbox`) and sees plain data only. And while it runs, the characters that control tokens begin with (or end
with, where the template looks at the former) are exchanged for noncharacters in all that messages say, so that only
what the template itself writes becomes a token, however it joins or filters the messages.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

import jinja2
import jinja2.ext

from llmanac.core.errors import TokenizerError
from llmanac.tokenizers._sandbox import Sandbox

NONCHARACTERS = [chr(c) for c in range(0xFDD0, 0xFDF0)]
OPEN, CLOSE = "\U0010fffe", "\U0010ffff"  # around what the assistant writes, while a template runs
REASONING = ("reasoning_content", "thinking", "reasoning")
Messages = Sequence[Mapping[str, Any]]


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
    if len(form) > 200 or re.search(r"\d{3}", form):  # C's strftime takes widths
        _raise("strftime_now: of such a form")
    return datetime.now().strftime(form)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@lru_cache(maxsize=32)
def _compile(source: str) -> jinja2.Template:
    environment = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols])
    environment.filters["tojson"] = _to_json  # Jinja's own escapes HTML
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = _now
    try:
        return environment.compiled(source)
    except jinja2.TemplateSyntaxError as error:
        raise TokenizerError(f"chat template, line {error.lineno}: {error.message}") from None
    except (RecursionError, MemoryError, OverflowError, SyntaxError, ValueError) as error:
        raise TokenizerError(f"chat template: too much to read ({error or type(error).__name__})") from None


def _plain(value: Any, where: str) -> Any:
    """The value rebuilt from plain JSON types, so that a template can reach no method of ours."""
    if value is None or isinstance(value, (bool, str)):
        return str.__str__(value) if isinstance(value, str) else value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, Mapping):
        return {str(k): _plain(v, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v, f"{where}[{i}]") for i, v in enumerate(value)]
    raise TokenizerError(f"{where}: {type(value).__name__} is not text, a number, a list or a table")


def _plain_messages(messages: Messages) -> list[dict[str, Any]]:
    out = []
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping) or "role" not in message:
            raise TokenizerError(f"messages[{i}]: expected a table with `role`, got {str(message)[:60]!r}")
        plain = _plain({k: v for k, v in message.items() if v is not None}, f"messages[{i}]")
        reasoning = next((plain[name] for name in REASONING if name in plain), None)
        if reasoning is not None:  # templates read one of two names for it
            plain = {"thinking": reasoning, **plain, "reasoning_content": reasoning}
        out.append(plain)
    return out


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


@dataclass(frozen=True)
class Rendered:
    """A conversation as text. `restore` undoes the exchange of control tokens in messages (None: there were none);
    `assistant[i]` is 1 where the assistant wrote character i."""

    text: str
    restore: dict[int, str] | None
    assistant: bytearray


class ChatTemplate:
    """One compiled chat template. Raises TokenizerError for source that is not Jinja."""

    def __init__(self, source: str) -> None:
        self._template = _compile(source)
        self._sandbox: Sandbox = self._template.environment  # type: ignore[assignment]
        self._marks = re.search(r"\{%[-+]?\s*generation\s*[-+]?%\}", source) is not None

    def _run(self, messages: list[dict[str, Any]], prompt: bool, variables: Mapping[str, Any]) -> str:
        given = {"tools": None, "documents": None, **variables}
        try:
            self._sandbox.begin_text()
            return self._template.render(messages=messages, add_generation_prompt=prompt, **given)
        except Exception as error:  # a template is a program, and this is whatever it did wrong
            raise TokenizerError(f"chat template: {error or type(error).__name__}") from None

    def render(self, messages: Messages, prompt: bool, variables: Mapping[str, Any]) -> str:
        """The text of a conversation, exactly as the template writes it."""
        self._sandbox.begin(len(messages))
        text = self._run(_plain_messages(messages), prompt, _plain(variables, "variables"))
        return text.replace(OPEN, "").replace(CLOSE, "")

    def rendered(
        self, messages: Messages, prompt: bool, variables: Mapping[str, Any], special: Iterable[str], *, roles: set[str]
    ) -> Rendered:
        """The text with its control tokens told from spelled ones, and who wrote what.

        Args:
            special: texts of the control tokens.
            roles: variables that hold the tokenizer's own tokens (`bos_token`, ...): theirs are not exchanged.

        Raises:
            TokenizerError: the template fails, or does not show where the assistant speaks.
        """
        self._sandbox.begin(len(messages))  # one clock for all that follows
        plain = _plain_messages(messages)
        given = _plain(variables, "variables")
        outside = {k: v for k, v in given.items() if k not in roles}
        held = "".join(_strings([*plain, outside]))
        if OPEN in held or CLOSE in held:
            raise TokenizerError("messages: U+10FFFE and U+10FFFF are noncharacters and cannot be used in a chat")
        special = sorted((text for text in special if text), key=len, reverse=True)
        pattern = re.compile("|".join(map(re.escape, special)) or r"(?!)")
        plain, given, marked, restore = self._guarded(plain, prompt, given, roles, special, held)
        text = marked.replace(OPEN, "").replace(CLOSE, "")
        spans = _marked_spans(marked) if self._marks else self._turns(plain, given, text, pattern)
        assistant = bytearray(len(text))
        for start, stop in spans:
            assistant[start:stop] = b"\1" * (stop - start)
        return Rendered(text, restore, assistant)

    def _guarded(
        self, plain: Any, prompt: bool, given: dict[str, Any], roles: set[str], special: Sequence[str], held: str
    ) -> tuple[Any, dict[str, Any], str, dict[int, str] | None]:
        """Messages and variables with characters exchanged, what the template makes of them, and how to undo it.

        Exchanging single characters is the stronger guard: nothing that is joined or filtered out of messages can then
        spell a token. A template that looks at such a character writes something else for its stand-in; then each token
        is guarded by another of its characters, and only where it has none that will do, by its whole spelling.
        """
        written = self._run(plain, prompt, given)
        free = [c for c in NONCHARACTERS if c not in held]

        def guarded(pattern: str, first: Iterable[str]) -> tuple[Any, dict[str, Any], str, dict[int, str] | None]:
            compiled, stand_in = re.compile(pattern), dict(zip(sorted(set(first)), free, strict=False))
            if not compiled.search(held):
                return plain, given, written, None
            if len(stand_in) < len(set(first)):
                raise TokenizerError("messages: too many noncharacters in a chat that spells control tokens")
            other = _exchanged(plain, compiled, stand_in)
            changed = {k: v if k in roles else _exchanged(v, compiled, stand_in) for k, v in given.items()}
            return other, changed, self._run(other, prompt, changed), {ord(v): k for k, v in stand_in.items()}

        def unseen(characters: Iterable[str]) -> tuple[Any, dict[str, Any], str, dict[int, str] | None] | None:
            """Messages with these exchanged, if the template does not look at them."""
            try:
                found = guarded(f"[{''.join(map(re.escape, sorted(set(characters))))}]", characters)
            except TokenizerError:
                self._sandbox.refuse_late()
                return None
            return found if found[3] is None or found[2].translate(found[3]) == written else None

        if not special:
            return plain, given, written, None
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
        """Where the assistant's turns stand in the text of a template without `{% generation %}`."""
        for i, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            span = self._turn_by_prefix(messages, i, given, text) or self._turn_by_marks(messages, i, given, text)
            if span is None:
                raise TokenizerError(
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
        except TokenizerError:
            self._sandbox.refuse_late()
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
        except TokenizerError:
            self._sandbox.refuse_late()
            return None
        spans = list(_marked_spans(marked))
        if len(spans) != 1 or not text.startswith(marked.replace(OPEN, "").replace(CLOSE, "")):
            return None
        return spans[0]


def _marked_spans(marked: str) -> Iterable[tuple[int, int]]:
    at, start = 0, 0
    for piece in re.split(f"([{OPEN}{CLOSE}])", marked):
        if piece == OPEN:
            start = at
        elif piece == CLOSE:
            yield start, at
        else:
            at += len(piece)


def default_template(special: Iterable[str], *, eos: str | None, no_roles: Iterable[str | None]) -> str | None:
    """A chat template for the control tokens at hand: role tokens (`<|user|>`, ...), or ChatML, or None.

    Each turn is closed by the token that ends a text (by `<|im_end|>` in ChatML), so a model that was taught it stops
    by itself. `no_roles` are tokens that no message's role may write (`<|end|>`).
    """
    known = set(special)
    if {"<|im_start|>", "<|im_end|>"} <= known:
        head = "{{ '<|im_start|>' + message['role'] + '\\n' }}"
        prompt, end = "{{ '<|im_start|>assistant\\n' }}", "'<|im_end|>'"
        tail, check = "{{ '\\n' }}", ""
    elif eos is not None and {"<|user|>", "<|assistant|>"} <= known:
        roles = sorted(text[2:-2] for text in known - set(no_roles) - {eos} if re.fullmatch(r"<\|\w+\|>", text))
        head, prompt = "{{ '<|' + message['role'] + '|>' }}", "{{ '<|assistant|>' }}"
        end, tail = "eos_token", ""
        check = (
            "{% if message['role'] not in " + json.dumps(roles) + " %}"
            "{{ raise_exception('no token <|' + message['role'] + '|> for the role ' + message['role']) }}{% endif %}"
        )
    else:
        return None
    return (
        "{{ bos_token if bos_token is defined and bos_token != eos_token else '' }}"
        "{% for message in messages %}" + check + head + "{% if message['role'] == 'assistant' %}"
        "{% generation %}{{ message['content'] + " + end + " }}{% endgeneration %}"
        "{% else %}{{ message['content'] + " + end + " }}{% endif %}" + tail + "{% endfor %}"
        "{% if add_generation_prompt %}" + prompt + "{% endif %}"
    )
