"""Whether an exported model still is the model that was tuned: its files are compared, and then what it answers.

    tuned, exported -> tokens of rendered chats, special tokens, config, weights -> causes
                    -> greedy answers, KL by token, perplexity -> within the bounds or not

`sides.py` opens what is compared, `files.py` compares what two sides are and names the cause of a difference, and
`answers.py` compares what they say. docs/specialize.md lists the causes with the threads where users met them.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from llmanac.core.errors import CheckpointError, TokenizerError
from llmanac.core.ranges import COUNT, NOT_NEGATIVE, PART, within
from llmanac.core.spec import Spec
from llmanac.recipes.verifying.answers import ComparedAnswers, compared, held_rows
from llmanac.recipes.verifying.files import CauseFound, compare_files, finding, unreadable
from llmanac.recipes.verifying.sides import LocalSide, opened_sides

__all__ = ["CauseFound", "CheckBounds", "Verified", "verify"]


@dataclass(frozen=True, kw_only=True)
class CheckBounds(Spec):
    """What an export may differ by. A bound is exceeded where the 95% interval is beyond it.

    Attributes:
        identical: share of greedy answers that must be the same text, of files with 8 bits a weight or more.
        kl: KL(tuned || exported) in nats a token, of these; kl_coarse: of files with fewer bits.
        score: by how much the share of right answers may fall.
        limit: held-out prompts that are asked; length: tokens of an answer, by default enough for the right ones.
    """

    identical: float = 0.95
    kl: float = 0.02
    kl_coarse: float = 0.3
    score: float = 0.02
    limit: int = 50
    length: int | None = None

    ranges = within(PART, "identical") | within(NOT_NEGATIVE, "kl kl_coarse score") | within(COUNT, "limit length")


@dataclass
class Verified:
    """What was found of one exported file or server in one runner.

    Attributes:
        findings: causes of differences, the most telling first; answers: None where nothing could be asked.
        beyond: bounds that are exceeded, a sentence each.
    """

    name: str
    runner: str
    findings: list[CauseFound]
    answers: ComparedAnswers | None = None
    beyond: list[str] = field(default_factory=list)

    @property
    def faithful(self) -> bool:
        """Whether nothing was found and all bounds hold."""
        return not self.findings and not self.beyond

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "faithful": self.faithful}


def verify(
    tuned: str, exported: Sequence[str], *, rows: str | Path | None = None, base: str | None = None,
    bounds: CheckBounds | None = None, with_llama_cpp: bool = True,
) -> list[Verified]:  # fmt: skip
    """Compare each exported file or server with the tuned model.

    Args:
        tuned: a run's, tuning's, adapter's or model's folder, or a .gguf file.
        exported: folders, .gguf files, or addresses of OpenAI-compatible servers. A .gguf file is also asked in
            llama.cpp where `llama_cpp` can be imported.
        rows: held-out rows (as `llmanac tune` reads them); by default those of the tuning, else built-in prompts.
        base: the model that was tuned; by default the one that an adapter names.

    Raises:
        LlmanacError: the tuned model or the rows cannot be read, or a server does not answer.
    """
    bounds, reference = bounds or CheckBounds(), LocalSide(tuned, base)
    held = held_rows(reference, rows, bounds.limit)
    found = []
    for place in exported:
        try:
            sides = opened_sides(place, with_llama_cpp)
        except (CheckpointError, TokenizerError) as error:
            found.append(Verified(place, "file", [unreadable(place, error)]))
            continue
        for side in sides:
            first = compare_files(reference, side, held.probes) if isinstance(side, LocalSide) else []
            answers, causes = compared(reference, side, held, bounds.length or held.length)
            findings = first + [one for one in causes if one.cause not in {known.cause for known in first}]
            identical, kl = (bounds.identical, bounds.kl) if side.bits >= 8 else (0.0, bounds.kl_coarse)
            beyond = answers.beyond(identical, kl, bounds.score)
            if beyond and not findings and side.bits < 8:
                findings = [finding("too-few-bits", bits=side.bits)]
            found.append(Verified(side.name, side.runner, findings, answers, beyond))
    return found
