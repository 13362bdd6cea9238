"""How a run spends its budget: each stage gets what the stages before it left.

Stages that cannot be cut short (reading the text, training the tokenizer) reduce the time for training; a slow
training reduces the time for fine-tuning and measuring. Each keeps a small minimum, so that a run on a slow machine
finishes; less is measured then, and the run prints that. Compiling kernels is done once for a machine and is
not part of the budget.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from llmanac.core.progress import Report, once_seconds, time_without_once
from llmanac.evaluate.bits_per_byte import score_texts
from llmanac.recipes.measures import some_texts

TRAINING_SHARE = 0.93  # of the time that is left once text and tokenizer are there; the rest is for measuring
FLOOR = 0.1  # of the budget: what the trainings get at least, together
LEAST = 0.04  # of the budget: what fine-tuning and measuring get at least, each
SHORTEST, SHORTEST_SHARE = 10.0, 0.15  # seconds, fraction of the budget: the shortest time to plan steps for
ENDING = 0.5  # of the time that loading took: what the report and the end of the process take
PROBE_BYTES = 6_000  # of held-out text, to see how fast a model reads
FEWEST_BYTES = 20_000  # of held-out text that are scored, whatever the time
SCORING_SHARE = 0.3  # of the time to measure: held-out text through every model; the rest is for everything else
FEWEST_QUESTIONS = 14
TRIED = 8  # questions, to see how fast they are answered

now: Callable[[], float] = time_without_once


class Timetable:
    """What a run has spent of its budget, and what its stages may take.

    Args:
        budget: seconds of the run.
        seconds: by stage that has ended, in all sessions; the caller's own, which grows.
        trained: what trainings say of themselves (`planned`): a training that was killed knows more than its stage.
        began: when this session began; until the first stage it loads libraries.
    """

    def __init__(
        self, budget: float, seconds: Mapping[str, float], trained: Mapping[str, Any], began: float | None = None
    ) -> None:
        self.budget, self._seconds, self._trained = budget, seconds, trained
        self._stage = now()
        self._began = self._stage if began is None else began
        self._start = self._stage - self._began
        self._earlier = self._ended(seconds)
        self._once = once_seconds()

    def begin(self) -> None:
        """The next stage begins."""
        self._stage = now()

    @property
    def stage(self) -> float:
        """Seconds of the stage that runs, in this session."""
        return now() - self._stage

    @property
    def spent(self) -> float:
        """Seconds of the budget that are spent, in all sessions."""
        return self._earlier + now() - self._began

    def _ended(self, stages: Iterable[str]) -> float:
        """Seconds of stages, as far as they are known."""
        known = {"pretrain": "pretrain", "fine-tune": "finetune"}
        return sum(
            max(self._seconds.get(name, 0.0), self._trained.get(known.get(name, ""), {}).get("seconds", 0.0))
            for name in stages
        )

    def _left(self, before: Sequence[str]) -> float:
        """Seconds that are left after the stages `before`, whatever was done since."""
        return max(0.0, self.budget - (1 + ENDING) * self._start - self._ended(before))

    def training(self, before: Sequence[str]) -> float:
        """Seconds for all trainings, after the stages `before`."""
        return max(FLOOR * self.budget, TRAINING_SHARE * self._left(before))

    def pretraining(self, before: Sequence[str], later: float) -> float:
        """Seconds for pretraining from here on, where the fraction `later` of the training follows."""
        least = min(SHORTEST, SHORTEST_SHARE * self.budget)
        return max(least, LEAST * self.budget, (1 - later) * self.training(before) - self.stage)

    def finetuning(self, before: Sequence[str], share: float) -> float:
        """Seconds for fine-tuning from here on: its fraction of the training, or what is left if that is less."""
        left = self.budget - self.spent - ENDING * self._start - (1 - TRAINING_SHARE) * self._left(before)
        return max(LEAST * self.budget, min(left, share * self.training(before)))

    def measuring(self) -> float:
        """Seconds for what is measured from here on."""
        return max(LEAST * self.budget, self.budget - self.spent - ENDING * self._start)

    def late(self, before: Sequence[str]) -> str:
        """A warning where more than half of the budget is spent before the training; else nothing."""
        gone = self._start + self._ended(before)
        if gone < 0.5 * self.budget:
            return ""
        text = f"loading, text, tokenizer and pairs took {gone:.0f} s of a budget of {self.budget:.0f} s"
        return f"{text}; {self.training(before):.0f} s are for training" + (
            ", and the run will take longer than its budget" if self._left(before) < FLOOR * self.budget else ""
        )

    def compiled(self) -> str:
        """What compiling took beside the budget, where that can be noticed; else nothing."""
        took = once_seconds() - self._once
        return f"compiling for this machine took {took:.0f} s, once; the budget does not count it" if took >= 1 else ""

    def over(self) -> str:
        """A warning where a finished run took longer than its budget; else nothing."""
        took = self.spent
        if took <= 1.1 * self.budget:
            return ""
        longest = sorted(self._seconds, key=self._seconds.__getitem__)[:-4:-1]
        stages = ", ".join(f"{name} {self._seconds[name]:.0f} s" for name in longest)
        return f"the run took {took:.0f} s, more than its budget of {self.budget:.0f} s: {stages}"


def scored_bytes(run: Any) -> int:
    """How much held-out text a run scores: what its recipe says or what there is time for, settled once."""
    asked: int = run.spec.evaluate.held_out_bytes
    models = [run.base] if run.model is run.base else [run.base, run.model]

    def settle() -> int:
        texts = list(run.corpus.held_out.texts())
        return bytes_that_fit(models, run.tokenizer, texts, asked, SCORING_SHARE * run.time.measuring())

    fitting = _settled(run, "held_out_bytes", settle)
    if fitting < asked:
        run.report(f"measure: {fitting / 1e3:.0f} kB of held-out text are scored, not {asked / 1e3:.0f}: time is short")
    return fitting


def questions_asked(
    run: Any, ask: Callable[[int], object], asked: int, *, ways: int, what: str,
    report: Report = print,
) -> int:  # fmt: skip
    """How many held-out questions a run is asked, settled once.

    Args:
        ask: `ask(n)` has the first n of them answered, in one way.
        asked: how many there would be.
        ways: that each is asked in.
        what: what they are called.
        report: is given a line where time is short.
    """
    fitting = min(asked, _settled(run, what, lambda: _that_fit(ask, asked, ways, run.time.measuring())))
    if fitting < asked:
        report(f"measure: {fitting:,} {what} are asked, not {asked:,}: time is short")
    return fitting


def _settled(run: Any, name: str, settle: Callable[[], int]) -> int:
    """A size that depends on the time left: written down, so that a resumed run measures the same."""
    sizes: dict[str, int] = run.planned.setdefault("measured", {})
    if name not in sizes:
        sizes[name] = settle()
        run.save()
    return sizes[name]


def bytes_that_fit(models: Sequence[Any], tokenizer: Any, texts: Sequence[str], asked: int, seconds: float) -> int:
    """How many of the `asked` bytes of text every model can score in `seconds`; never below `FEWEST_BYTES`."""
    total = sum(len(text.encode("utf-8")) for text in some_texts(texts, asked))
    probe = "".join(texts)[:PROBE_BYTES]
    if total <= FEWEST_BYTES or not probe:
        return asked
    took = []
    for _ in range(2):  # the first one allocates
        begin = now()
        score_texts(models[0], tokenizer, [probe])
        took.append(now() - begin)
    a_byte = took[-1] / len(probe.encode("utf-8"))
    fitting = int(seconds / max(a_byte * len(models), 1e-12))
    if fitting >= total:
        return asked
    shortest = min(len(text.encode("utf-8")) for text in texts)  # documents are not cut
    return min(asked, max(FEWEST_BYTES, fitting, shortest))


def _that_fit(ask: Callable[[int], object], asked: int, ways: int, seconds: float) -> int:
    if asked <= FEWEST_QUESTIONS:
        return asked
    ask(1)  # the first one allocates
    begin = now()
    ask(TRIED)
    each = (now() - begin) / TRIED
    return max(FEWEST_QUESTIONS, min(asked, int(seconds / max(ways * each, 1e-12))))
