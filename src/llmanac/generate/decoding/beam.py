"""Beam search: the best few continuations are kept at every step, and the best finished one is the answer.

    candidates: (b, v) for each kept text b and token v, with s(b v) = s(b) + log p(v | x, b)
    kept:       the B best that have not ended        finished: those of the B best that ended, scored s / lp(length)

    lp(n) = n^a            (`power`)          lp(n) = ((5 + n) / 6)^a            (`gnmt`, Wu et al. 2016, equation 14)

Without a length penalty (a = 0) longer texts can only lose; a > 0 favours them. n counts generated tokens, the one that
ended the text included. The search ends when B texts are finished and (`early_stopping`) `first`: at once; `heuristic`:
no kept text would beat the worst finished one if it ended now; `never`: nor, for a > 0, if it went on to the largest
length without loss. These rules are those of transformers (False, True and "never").

With `groups` G the B beams search in G groups, one after the other at each step (Vijayakumar et al. 2018). A group's
candidates lose `diversity` for every beam of an earlier group that goes on with the same token at this step (Hamming
diversity); s includes what was lost. One group is plain beam search.

Scores (R, V) of R kept texts -> pairs of a kept text and one that continues it. Methods before it in a request's order
act on log p, which is not normalized again: so do a constraint's mask and transformers' processors.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np

from llmanac.core.errors import LlmanacError, SpecError
from llmanac.core.ranges import COUNT, NOT_NEGATIVE, Range, within
from llmanac.generate.decoding import Array, DecodingSpec, LogitsProcessor, gather, greedy, largest

Generated: TypeAlias = Any  # a text of a search, the `Sequence` of `generate/requests.py`
CARD = {
    "title": "Beam search",
    "paper": "Sutskever et al. 2014, Sequence to Sequence Learning with Neural Networks, section 3.2",
    "reference": "transformers generate(num_beams=...), sequences and scores",
    "aliases": {"length-penalty": {"length_form": "gnmt", "length_penalty": 0.6}, "diverse-beam": {"groups": 4}},
    "titles": {
        "length-penalty": "Beam search with the length penalty of GNMT (Wu et al. 2016)",
        "diverse-beam": "Diverse beam search (Vijayakumar et al. 2018)",
    },
    "test": "tests/references/test_beam.py::test_sequences_and_scores_equal_transformers",
}


@dataclass(frozen=True, kw_only=True)
class Spec(DecodingSpec):
    """beams: B, over all groups; groups: G, which divides it; diversity: of groups; length_penalty: a in [-10, 10]."""

    stochastic: ClassVar[bool] = False
    searches: ClassVar[bool] = True
    beams: int = 4
    groups: int = 1
    diversity: float = 0.5
    length_penalty: float = 1.0
    length_form: Literal["power", "gnmt"] = "power"
    early_stopping: Literal["heuristic", "first", "never"] = "heuristic"

    ranges = within(Range(1, 1024), "beams") | within(COUNT, "groups") | within(NOT_NEGATIVE, "diversity")
    ranges |= within(Range(-10, 10), "length_penalty")  # powers of a length stay far from overflow

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beams % self.groups:
            raise SpecError(f"groups: {self.groups} does not divide the {self.beams} beams")

    def build(self, **dims: Any) -> LogitsProcessor:
        """What one beam takes: its best token."""
        return greedy.keep_best

    def search(self, root: Generated, most: int, ends: int) -> Search:
        """A search from `root` for texts of at most `most` tokens, which `ends` tokens or stop strings may end."""
        return Search(self, root, most, ends)

    def divisor(self, length: int) -> float:
        """lp(length)."""
        base: float = length if self.length_form == "power" else (5 + length) / 6
        return base**self.length_penalty


@dataclass
class BeamGroup:
    """The beams of one group.

    Attributes:
        kept: texts that go on, best first, each with s.
        finished: ended texts, best first, each with s / lp(length).
    """

    kept: list[tuple[float, Generated]]
    finished: list[tuple[float, Generated]] = field(default_factory=list)


class Search:
    """The state of one prompt's search.

    Attributes:
        leaves: the texts that go on, whose next tokens' scores `step` needs; none once it has ended.
    """

    def __init__(self, spec: Spec, root: Generated, most: int, ends: int) -> None:
        self.spec, self.most, self.length = spec, most, 0
        self.size = spec.beams // spec.groups
        self.candidates = (1 + max(1, ends)) * self.size  # so that enough are left where the best all end
        self.groups = [BeamGroup([(0.0, root)]) for _ in range(spec.groups)]
        self.leaves: list[Generated] = [root]

    def step(
        self, logprobs: Array, scores: Array, tops: Sequence[dict[int, float]]
    ) -> list[tuple[Generated, Generated]]:
        """Extend every kept text by a token.

        Args:
            logprobs: (R, V) the model's own, of the next tokens of `leaves`.
            scores: (R, V) the same after the request's methods; -inf for what may not come next.
            tops: alternatives to report for each leaf.

        Returns:
            The new leaves, each after the leaf that it continues, in the order of those.

        Raises:
            LlmanacError: every continuation is ruled out and no text has ended.
        """
        self.length += 1
        rows = {id(leaf): row for row, leaf in enumerate(self.leaves)}
        taken: Counter[int] = Counter()  # by the groups before
        parents: dict[int, int] = {}  # of a new leaf
        for group in self.groups:
            if not group.kept:
                continue
            index = [rows[id(text)] for _, text in group.kept]
            made = self._extend(group, index, logprobs, scores, tops, taken)
            parents |= {id(text): index[parent] for parent, _, text in made}
            group.kept = [] if self._over(group, made) else [(score, text) for _, score, text in made]
            taken.update(text.ids[-1] for _, text in group.kept)
        if not any(group.kept or group.finished for group in self.groups):
            raise LlmanacError("no token is left to choose from: what the request allows has nothing in common")
        old = self.leaves
        kept = [text for group in self.groups for _, text in group.kept]
        self.leaves = sorted(kept, key=lambda text: parents[id(text)])
        return [(old[parents[id(text)]], text) for text in self.leaves]

    def _extend(
        self, group: BeamGroup, index: list[int], logprobs: Array, scores: Array, tops: Any, taken: Counter[int]
    ) -> list[tuple[int, float, Generated]]:
        """Finish those of the group's best candidates that end; the others as (number of the parent, s, text)."""
        own = scores[index]
        if taken:
            own[:, list(taken)] -= self.spec.diversity * np.array(list(taken.values()), own.dtype)
        values, ids = largest(own, self.candidates)
        columns = zip(values.tolist(), ids.tolist(), gather(logprobs[index], ids).tolist(), strict=True)
        found = [
            (group.kept[parent][0] + value, parent, token, logprob)
            for parent, row in enumerate(columns)
            for value, token, logprob in zip(*row, strict=True)
            if value > -math.inf
        ]
        found.sort(key=lambda candidate: -candidate[0])
        going: list[tuple[int, float, Generated]] = []
        for rank, (score, parent, token, logprob) in enumerate(found[: self.candidates]):
            if rank >= self.size and (len(going) == self.size or self.length >= self.most):
                break
            text = group.kept[parent][1].continued(token, logprob, tops[index[parent]])
            if text.finish_reason is None:
                going.append((parent, score, text))
            elif rank < self.size:
                group.finished.append((score / self.spec.divisor(self.length), text))
        group.finished = sorted(group.finished, key=lambda one: -one[0])[: self.size]
        return going

    def _over(self, group: BeamGroup, going: list[tuple[int, float, Generated]]) -> bool:
        """Whether the group's search ends."""
        if len(group.finished) < self.size or not going:
            return not going
        if self.spec.early_stopping == "first":
            return True
        longest = self.spec.early_stopping == "never" and self.spec.length_penalty > 0
        best = going[0][1] / self.spec.divisor(self.most if longest else self.length)
        return best <= group.finished[-1][0]

    def best(self, count: int) -> list[Generated]:
        """The best `count` finished texts of all groups, or as many as there are, best first."""
        found = sorted((one for group in self.groups for one in group.finished), key=lambda one: -one[0])[:count]
        for number, (score, text) in enumerate(found):
            text.score, text.index = score, number
        return [text for _, text in found]
