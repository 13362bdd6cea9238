"""The thoughts of reasoning models: `reasoning_content` beside the answer, and a budget of tokens for them.

A model has thoughts where its chat template names their markers (`<think>` of DeepSeek, Qwen and SmolLM, `[THINK]` of
Magistral). A thought begins in the prompt, where the template writes the opening marker, or with the reply.
"""

from collections.abc import Callable, Iterator
from typing import Any, Literal

from llmanac.generate.constrain.thinking import Markers, Thinking
from llmanac.generate.engine import Engine, Options

MARKERS = (Markers("<think>", "</think>"), Markers("[THINK]", "[/THINK]"))


def markers_of(template: str | None) -> Markers | None:
    """The markers that a chat template (Jinja source) names; None where it has no thoughts."""
    return next((found for found in MARKERS if template is not None and found.closing in template), None)


Place = Literal["before", "inside", "behind"]
Around = Callable[[Any], Any]


def place_of(engine: Engine, markers: Markers, ids: list[int]) -> Place:
    """Where a prompt ends: before a thought that the model may begin, inside one, or behind one."""
    tail = "" if engine.tokenizer is None else engine.tokenizer.decode(ids[-16:]).rstrip()
    return "inside" if tail.endswith(markers.opening) else "behind" if tail.endswith(markers.closing) else "before"


def thinking(engine: Engine, options: Options, markers: Markers, inside: bool, budget: int | None) -> Around:
    """What makes the constraint of a text of that of its answer; the thought before it has at most `budget` tokens."""
    tokenizer, size = engine.tokenizer, engine.model.vocab_size
    assert tokenizer is not None
    ends = engine.eos_ids | frozenset(options.get("stop_ids") or ())

    def around(answer: Any) -> Any:
        return Thinking(tokenizer, markers, begun=inside, budget=budget, answer=answer, ends=ends, size=size)

    return around


class Thoughts:
    """Tells a choice's thought from its answer as its text grows, without the white space around either.

    Attributes:
        thought: the thought so far.
    """

    def __init__(self, markers: Markers, inside: bool) -> None:
        self.thought = ""
        self._markers = markers
        self._state = "thought" if inside else "start"
        self._waiting = ""

    def push(self, text: str, *, last: bool = False) -> Iterator[tuple[bool, str]]:
        """What more text brings: whether it is of the thought, and the text."""
        self._waiting += text
        if self._state == "start":
            opening, so_far = self._markers.opening, self._waiting.lstrip()
            if so_far.startswith(opening):
                self._waiting, self._state = so_far[len(opening) :], "thought"
            elif last or not opening.startswith(so_far):
                self._state = "answer"
        if self._state == "thought":
            yield from self._thinking(last)
        if self._state == "behind":
            self._waiting = self._waiting.lstrip()
            self._state = "answer" if self._waiting else "behind"
        if self._state == "answer" and self._waiting:
            said, self._waiting = self._waiting, ""
            yield False, said

    def _thinking(self, last: bool) -> Iterator[tuple[bool, str]]:
        inside, closed, rest = self._waiting.partition(self._markers.closing)
        if not self.thought:
            inside = inside.lstrip()
        said = inside.rstrip()
        if not closed and not last:
            said = said[: len(said) - overlap(said, self._markers.closing)].rstrip()
        self._waiting = rest if closed else inside[len(said) :]
        if closed or last:
            self._state = "behind"
            self._waiting = self._waiting if closed else ""
        if said:
            self.thought += said
            yield True, said


def overlap(text: str, marker: str) -> int:
    """How many characters at the end of a text may be the beginning of the marker."""
    return next((n for n in range(min(len(marker) - 1, len(text)), 0, -1) if text.endswith(marker[:n])), 0)
