"""Long chain of thought with a forced budget: the model thinks for as many tokens as it is given, then it answers.

    prompt | thought, least to `tokens` tokens | ending | answer, at most `answer_tokens`

A thought ends by itself at an end token or where it begins to write the ending. Before `least` tokens this is not
accepted: what ended it is dropped, the text `wait` is put there, and the model goes on. At `tokens` tokens it is cut.
Then the text `ending` is put behind it, and the answer is sampled. With least = tokens every thought has exactly that
many tokens. Several samples (n) are decided by voting.

A longer thought can correct an error, and can lose a right answer; what is gained ends where the model has no further
step to write, and at its context. Cost: the prompt, thought, what was forced, and answer.
Muennighoff et al. 2025, arXiv:2501.19393 (budget forcing).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from llmanac.core.errors import RequestError, SpecError
from llmanac.core.ranges import COUNT, within
from llmanac.generate.engine import Completion, Engine
from llmanac.metrics.answers import convention, extract
from llmanac.reason import Candidate, Cost, Found, Question, ReasoningMethod, ReasonSpec
from llmanac.reason._sampling import equal_answers, keep_prefixes, logprob, sampling, written
from llmanac.rewards import Reward

CARD = {
    "title": "Long chain of thought with a forced budget",
    "paper": "https://arxiv.org/abs/2501.19393",
    "reference": "the engine's own greedy continuation with the same tokens put in by hand; counts of tokens",
    "test": "tests/references/test_reason.py::test_budgets_are_forced_exactly",
}


@dataclass(frozen=True, kw_only=True)
class Spec(ReasonSpec):
    """Attributes:
    tokens: of the longest thought; least: of the shortest. wait, ending: the texts that are put in.
    answer_tokens: of the longest answer behind the ending.
    """

    n: int = 1
    least: int = 0
    wait: str = "\nWait, "
    ending: str = "\n#### "
    answer_tokens: int = 16

    ranges = within(COUNT, "answer_tokens")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.least <= self.tokens:
            raise SpecError(f"least: {self.least} is not between 0 and tokens = {self.tokens}")
        if not self.wait.strip() or not self.ending.strip():
            raise SpecError("wait, ending: must be texts")

    def build(self, *, engine: Engine, reward: Reward | None = None, **context: Any) -> ReasoningMethod:
        if engine.tokenizer is None:
            raise SpecError("long-cot: this engine has no tokenizer")
        keep_prefixes(engine)
        return LongThought(self, engine)


@dataclass
class _Thought:
    """One sample of a question."""

    question: Question
    ids: list[int] = field(default_factory=list)
    logprob: float = 0.0
    going: bool = True


class LongThought:
    """See the module."""

    def __init__(self, spec: Spec, engine: Engine) -> None:
        assert engine.tokenizer is not None
        self.spec, self.engine, self.tokenizer = spec, engine, engine.tokenizer
        self.wait, self.ending = (list(map(int, self.tokenizer.encode(text))) for text in (spec.wait, spec.ending))

    def __call__(self, questions: Sequence[Question], *, seed: int = 0) -> list[Found]:
        """Raises RequestError where prompt, thought, ending and answer do not fit the model's context."""
        spec, context = self.spec, self.engine.model.max_length
        for question in questions:
            need = len(question.ids) + spec.tokens + len(self.ending) + spec.answer_tokens
            if context is not None and need > context:
                raise RequestError(f"tokens: {need} of prompt, thought and answer do not fit the context of {context}")
        costs = [Cost() for _ in questions]
        rows = [[_Thought(question) for _ in range(spec.n)] for question in questions]
        turn = 0
        while going := [(i, k, t) for i, own in enumerate(rows) for k, t in enumerate(own) if t.going]:
            asked = [self._request(t, k, turn, seed) for _, k, t in going]
            options = {**sampling(spec), "stop": (spec.ending.strip(), *spec.stop)}
            for (i, _, thought), ((done,), read) in zip(going, self.engine.sample(asked, **options), strict=True):
                costs[i] += Cost(prompt=read, sampled=len(done.ids))
                self._grow(thought, done)
            turn += 1
        every = [(i, k, t) for i, own in enumerate(rows) for k, t in enumerate(own)]
        asked = [
            (
                (*t.question.ids, *t.ids, *self.ending),
                {"max_new_tokens": spec.answer_tokens, "seed": _seed(seed, k, -1)},
            )
            for _, k, t in every
        ]
        answers: list[list[Candidate]] = [[] for _ in questions]
        for (i, _, thought), ((done,), read) in zip(every, self.engine.sample(asked, **sampling(spec)), strict=True):
            costs[i] += Cost(prompt=read, sampled=len(done.ids))
            answers[i].append(self._candidate(thought, done))
        return [self._found(own, cost) for own, cost in zip(answers, costs, strict=True)]

    def _request(self, thought: _Thought, number: int, turn: int, seed: int) -> tuple[Sequence[int], dict[str, Any]]:
        left = self.spec.tokens - len(thought.ids)
        return (*thought.question.ids, *thought.ids), {"max_new_tokens": left, "seed": _seed(seed, number, turn)}

    def _grow(self, thought: _Thought, done: Completion) -> None:
        """Add what was thought; where it ended too early, what ended it is dropped and it goes on behind `wait`."""
        spec = self.spec
        thought.logprob += logprob(done)
        ended = done.finish_reason == "stop"
        thought.ids += self._before_the_end(done) if ended else done.ids
        if ended and len(thought.ids) < spec.least:
            thought.ids = [*thought.ids, *self.wait][: spec.tokens]
        else:
            thought.going = False
        thought.going = thought.going and len(thought.ids) < spec.tokens

    def _before_the_end(self, done: Completion) -> list[int]:
        """The tokens that lie completely before the end token or stop text, and white space that the ending has too."""
        ids, text = list(done.ids), done.text
        if self.spec.ending[0].isspace():
            text = text.rstrip()
        while ids and not (ids[-1] not in self.engine.eos_ids and text.startswith(self.tokenizer.decode(ids))):
            ids.pop()
        return ids

    def _candidate(self, thought: _Thought, done: Completion) -> Candidate:
        ids = (*thought.ids, *self.ending, *done.ids)
        text = written(self.tokenizer, ids, done)
        answer = extract(self.spec.ending + done.text, self.spec.convention)
        return Candidate(
            ids=ids, text=text, answer=answer, logprob=thought.logprob + logprob(done),
            finished=done.finish_reason == "stop",
        )  # fmt: skip

    def _found(self, own: Sequence[Candidate], cost: Cost) -> Found:
        matrix = equal_answers([one.answer for one in own], convention(self.spec.convention).equal)
        return Found(candidates=tuple(own), chosen=int(matrix.sum(1).argmax()), cost=cost, support=matrix)


def _seed(seed: int, number: int, turn: int) -> int:
    """A seed of each sample and turn: the engine's streams are named by seed and prompt."""
    return seed * 1_000_003 + number * 1009 + turn + 1
