"""What a chat model's text tells, whatever API asks: thoughts, text and tool calls, as it grows."""

from collections.abc import Iterator
from typing import Any

from llmanac.web._thoughts import Thoughts
from llmanac.web._tools import Calls

Delta = dict[str, Any]


class Told:
    """Reads one choice.

    Args:
        thoughts, calls: what reads its thought and its tool calls, where it may have any.

    Attributes:
        content: the text outside thoughts and calls.
        ended: the finish_reason in OpenAI's words, once it is over.
    """

    def __init__(self, thoughts: Thoughts | None, calls: Calls | None) -> None:
        self.thoughts, self.calls = thoughts, calls
        self.content = ""
        self.ended: str | None = None

    @property
    def thought(self) -> str:
        return "" if self.thoughts is None else self.thoughts.thought

    @property
    def made(self) -> list[dict[str, Any]]:
        """The tool calls so far, as `message.tool_calls` has them."""
        return [] if self.calls is None else self.calls.made

    def push(self, text: str, reason: str | None) -> Iterator[Delta]:
        """The deltas that more text brings, as OpenAI has them: `{"content": ...}`, `{"reasoning_content": ...}` or
        `{"tool_calls": [...]}`.

        Args:
            reason: why the engine ended the choice; None while it goes on.
        """
        last = reason is not None
        parts: list[tuple[bool, str]] = [(False, text)]
        if self.thoughts is not None:
            parts = list(self.thoughts.push(text, last=last))
        for thought, said in parts:
            if thought:
                yield {"reasoning_content": said}
            elif self.calls is None:
                yield from self._say(said)
            else:
                yield from self._called(said, False)
        if last and self.calls is not None:
            yield from self._called("", True)
        if last:
            self.ended = "tool_calls" if reason == "stop" and self.made else reason

    def _called(self, text: str, last: bool) -> Iterator[Delta]:
        assert self.calls is not None
        for delta in self.calls.push(text, last=last):
            self.content += delta.get("content", "")
            yield delta

    def _say(self, text: str) -> Iterator[Delta]:
        self.content += text
        if text:
            yield {"content": text}
