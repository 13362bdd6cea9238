"""Chat templates: Jinja in its sandbox, configured as `transformers` configures it, and who wrote which character.

A template is untrusted code and messages are untrusted text. So the template runs in a helper process with a time limit
(`process.py`) and sees plain data only. While it runs, the characters that control tokens begin with (or end with,
where the template looks at the former) are replaced by noncharacters in everything that messages say, so that only what
the template itself writes becomes a token, however it joins or filters the messages.
"""

import json
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmanac.core.errors import TokenizerError
from llmanac.tokenizers.chat.process import answers

REASONING = ("reasoning_content", "thinking", "reasoning")
NO_TEMPLATE = (
    "this tokenizer has no chat template, and no control tokens such as <|user|> and <|assistant|> for the usual one; "
    "write Jinja source as `chat_template` into its tokenizer_config.json"
)
DEEPEST = 200  # of tables and lists in each other
Messages = Sequence[Mapping[str, Any]]
Chat = tuple[Messages, bool]  # and whether the assistant is to speak next


def _plain(value: Any, where: str, depth: int = 0) -> Any:
    """The value rebuilt from plain JSON types."""
    if depth > DEEPEST:
        raise TokenizerError(f"{where[:60]}...: lists and tables are nested more than {DEEPEST} deep")
    if value is None or isinstance(value, (bool, str)):
        return str.__str__(value) if isinstance(value, str) else value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, Mapping):
        return {str(k): _plain(v, f"{where}.{k}", depth + 1) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v, f"{where}[{i}]", depth + 1) for i, v in enumerate(value)]
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


@dataclass(frozen=True)
class Rendered:
    """A conversation as text. `restore` undoes the exchange of control tokens in messages (None: there were none);
    `assistant[i]` is 1 where the assistant wrote character i."""

    text: str
    restore: dict[int, str] | None
    assistant: bytearray


class UnfinishedMark:
    """Finds where the last message's text ends in a rendered conversation, so that a model may go on with it."""

    def __init__(self) -> None:
        self._text = secrets.token_hex(12)

    def behind(self, messages: Messages) -> list[Mapping[str, Any]]:
        """The messages with the mark behind the last one. Raises TokenizerError where that one has no text."""
        last = messages[-1] if messages else {}
        if not isinstance(last.get("content"), str):
            raise TokenizerError("messages: the last one has no text that could be continued")
        return [*messages[:-1], {**last, "content": last["content"] + self._text}]

    def cut(self, chat: Rendered) -> Rendered:
        """What comes before the mark. Raises TokenizerError where it is not there exactly once."""
        text, found, rest = chat.text.partition(self._text)
        if not found or self._text in rest:
            raise TokenizerError("messages: the chat template does not show the last one's text once")
        return Rendered(text, chat.restore, chat.assistant[: len(text)])


class ChatTemplate:
    """One chat template, for any thread. Its source is read when it is first rendered."""

    def __init__(self, source: str) -> None:
        self.source = source

    def render(self, messages: Messages, prompt: bool, variables: Mapping[str, Any]) -> str:
        """The text of a conversation, exactly as the template writes it.

        Raises:
            TokenizerError: the template is no Jinja, fails, or takes too much time or memory.
        """
        [answer] = answers(self.source, _plain_chats([(messages, prompt)], _plain(variables, "variables")))
        text: str = answer["text"]
        return text

    def rendered(
        self,
        chats: Iterable[Chat],
        variables: Mapping[str, Any],
        special: Iterable[str],
        *,
        roles: set[str],
        spans: bool = True,
        until: float = float("inf"),
    ) -> Iterator[Rendered]:
        """The text of each conversation, with control tokens distinguished from text that spells them.

        Args:
            special: texts of the control tokens.
            roles: variables that hold the tokenizer's own tokens (`bos_token`, ...): theirs are not exchanged.
            spans: whether to find what the assistant wrote; without, `assistant` is all 0.
            until: time of `time.monotonic` at which rendering is ended.

        Raises:
            TokenizerError: when it comes to a conversation for which the template fails, or does not show where the
                assistant speaks.
        """
        plain = _plain_chats(chats, _plain(variables, "variables"))
        for answer in answers(self.source, plain, special=[*special], roles=[*roles], spans=spans, until=until):
            assistant = bytearray(len(answer["text"]))
            for start, stop in answer["spans"]:
                assistant[start:stop] = b"\1" * (stop - start)
            restore = answer["restore"]
            yield Rendered(answer["text"], None if restore is None else str.maketrans(restore), assistant)


def _plain_chats(
    chats: Iterable[Chat], variables: Mapping[str, Any]
) -> Iterator[tuple[list[dict[str, Any]], bool, Mapping[str, Any]]]:
    for messages, prompt in chats:
        yield _plain_messages(messages), prompt, variables


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
