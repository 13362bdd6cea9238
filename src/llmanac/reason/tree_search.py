"""Tree search: an answer is written step by step, and a verifier decides which steps are continued.

    beam    n first steps; keep the n / width texts of the highest value, continue each by `width` steps, and so on
    mcts    n times: go down by  mean value + explore * sqrt(ln visits of the parent / visits), add `width` steps there,
            and average their values into all nodes above

A step ends with the text `step` (a new line). The value of an unfinished text is the verifier's own score of it, or
the verifier's score of the answer that one continuation of it ends in (`value = "rollout"`; such answers are
candidates too). The candidate of the highest score is given, the first of equal ones. It is systematic, and its cost
grows with the number of nodes: the tree of all texts has width^depth leaves.

Cost: every node's tokens and rollout, what the verifier reads, and the texts above a node where no prefix cache has
them. Lightman et al. 2023, arXiv:2305.20050 (verifiers of steps); Snell et al. 2024, arXiv:2408.03314, section 5;
Kocsis & Szepesvari 2006 (UCT); Hao et al. 2023, arXiv:2305.14992.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from llmanac.core.errors import SpecError
from llmanac.core.ranges import COUNT, NOT_NEGATIVE, within
from llmanac.generate.engine import Completion, Engine
from llmanac.metrics.answers import extract
from llmanac.reason import Candidate, Cost, Found, Question, ReasoningMethod, ReasonSpec, as_sample, scored
from llmanac.reason._sampling import keep_prefixes, logprob, sampling, written
from llmanac.reason._trees import Search, TreeNode, Wanted, beam, mcts
from llmanac.rewards import Reward

CARD = {
    "title": "Tree search over steps",
    "paper": "https://arxiv.org/abs/2408.03314",
    "reference": "the best leaf of trees that are enumerated",
    "test": "tests/references/test_reason_trees.py::test_the_best_leaf_is_found",
    "aliases": {"mcts": {"algorithm": "mcts"}},
    "titles": {"mcts": "Monte Carlo tree search over steps"},
}
ROLLOUT_SEED = 1 << 20  # added to the seed: a rollout does not repeat the steps that are sampled at its node


@dataclass(frozen=True, kw_only=True)
class Spec(ReasonSpec):
    """Attributes:
    algorithm: beam or mcts; n: first steps of a beam search, expansions of mcts.
    width: steps tried after a text; depth: most steps of an answer. step: the text that ends one.
    value: verifier or rollout; explore: of mcts.
    """

    algorithm: Literal["beam", "mcts"] = "beam"
    width: int = 4
    depth: int = 12
    step: str = "\n"
    value: Literal["verifier", "rollout"] = "rollout"
    explore: float = 1.0

    ranges = within(COUNT, "width depth") | within(NOT_NEGATIVE, "explore")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.step:
            raise SpecError("step: is empty; give the text that ends a step")
        if self.algorithm == "beam" and self.width > self.n:
            raise SpecError(f"width: {self.width} steps of a beam of n = {self.n}; give at most n")

    def build(self, *, engine: Engine, reward: Reward | None = None, **context: Any) -> ReasoningMethod:
        if reward is None:
            raise SpecError("tree-search needs a verifier, which says what steps are worth; name a reward")
        if engine.tokenizer is None:
            raise SpecError("tree-search: this engine has no tokenizer")
        keep_prefixes(engine)
        return TreeSearch(self, engine, reward)

    def search(self, root: TreeNode) -> Search:
        """The search of one question."""
        if self.algorithm == "beam":
            return beam(root, n=self.n, width=self.width, depth=self.depth)
        return mcts(root, n=self.n, width=self.width, depth=self.depth, explore=self.explore)


class TreeSearch:
    """Runs the searches of all questions side by side, so that their nodes are sampled in one batch."""

    def __init__(self, spec: Spec, engine: Engine, reward: Reward) -> None:
        self.spec, self.engine, self.reward = spec, engine, reward

    def __call__(self, questions: Sequence[Question], *, seed: int = 0) -> list[Found]:
        """Raises RequestError for a prompt that does not fit the model's context."""
        runs = [_Run(question, self.spec.search(TreeNode())) for question in questions]
        for run in runs:
            run.wanted = next(run.search)
        while going := [run for run in runs if run.wanted]:
            self._expand(going, seed)
        return [run.found() for run in runs]

    def _expand(self, runs: Sequence[_Run], seed: int) -> None:
        """One round: the steps, then their rollouts, then the scores of all of them together."""
        places = [(run, node, count) for run in runs for node, count in run.wanted]
        grown = self._sample(
            [(run, node.ids, count) for run, node, count in places], seed, stop=(self.spec.step, *self.spec.stop)
        )
        new: list[tuple[_Run, TreeNode, Candidate]] = []
        children: list[list[TreeNode]] = []
        for (run, node, _), done in zip(places, grown, strict=True):
            own = {(*node.ids, *one.ids): one for one in done}  # equal steps are one node
            children.append([])
            for ids, one in own.items():
                child = TreeNode(ids=ids, ended=self._ended(one, ids), parent=node)
                children[-1].append(child)
                new.append((run, child, self._candidate(ids, one)))
        texts = [candidate for _, _, candidate in new]
        if self.spec.value == "rollout":
            open_ = [i for i, (_, child, _) in enumerate(new) if not child.ended]
            rolled = self._sample(
                [(new[i][0], new[i][1].ids, 1) for i in open_], seed + ROLLOUT_SEED, stop=self.spec.stop
            )
            for i, (one,) in zip(open_, rolled, strict=True):
                texts[i] = self._candidate((*new[i][1].ids, *one.ids), one)
        scores = scored(
            self.reward, [as_sample(run.question, text) for (run, _, _), text in zip(new, texts, strict=True)]
        )
        for (run, child, _), text, score in zip(new, texts, scores, strict=True):
            child.value = score.value
            run.cost += Cost(verifier=score.tokens)
            run.candidates.append((child.ended or self.spec.value == "rollout", Candidate(
                **{**vars(text), "score": score.value}
            )))  # fmt: skip
        at = iter(children)
        for run in runs:
            run.step([next(at) for _ in run.wanted])

    def _sample(
        self, places: Sequence[tuple[_Run, tuple[int, ...], int]], seed: int, stop: tuple[str, ...]
    ) -> list[list[Completion]]:
        """Continuations of texts, paid by their runs."""
        asked = [
            ((*run.question.ids, *ids), {"n": n, "max_new_tokens": max(1, self.spec.tokens - len(ids))})
            for run, ids, n in places
        ]
        done = self.engine.sample(asked, **{**sampling(self.spec), "stop": stop}, seed=seed) if asked else []
        for (run, _, _), (own, read) in zip(places, done, strict=True):
            run.cost += Cost(prompt=read, sampled=sum(len(one.ids) for one in own))
        return [own for own, _ in done]

    def _ended(self, one: Completion, ids: tuple[int, ...]) -> bool:
        """Whether a text ends with this step: an end token, a stop text, or no room for more."""
        if one.finish_reason == "length" or one.ids[-1] in self.engine.eos_ids or len(ids) >= self.spec.tokens:
            return True
        assert self.engine.tokenizer is not None
        return not self.engine.tokenizer.decode(one.ids)[len(one.text) :].startswith(self.spec.step)

    def _candidate(self, ids: tuple[int, ...], last: Completion) -> Candidate:
        """The text of all its tokens; what ended the last piece is not part of it, unless it goes on."""
        text = written(self.engine.tokenizer, ids, last)
        return Candidate(
            ids=ids, text=text, answer=extract(text, self.spec.convention), logprob=logprob(last),
            finished=last.finish_reason == "stop",
        )  # fmt: skip


class _Run:
    """One question's search: what it wants next, what it has found and paid."""

    def __init__(self, question: Question, search: Search) -> None:
        self.question, self.search = question, search
        self.wanted: Wanted = []
        self.cost = Cost()
        self.candidates: list[tuple[bool, Candidate]] = []  # whether it is a complete answer

    def step(self, children: list[list[TreeNode]]) -> None:
        try:
            self.wanted = self.search.send(children)
        except StopIteration:
            self.wanted = []

    def found(self) -> Found:
        complete = [one for whole, one in self.candidates if whole] or [one for _, one in self.candidates]
        chosen = max(range(len(complete)), key=lambda i: complete[i].score)
        return Found(candidates=tuple(complete), chosen=chosen, cost=self.cost)
