"""What an application offers to a run: rows to fine-tune on, measurements, a part of the report, an assistant.

An application is a package `apps/NAME/` that `core/registry.py` finds by name. `finetune.pairs` in a recipe names it.
Recipes, the report, the terminal and the server know no more of an application than the two classes here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmanac.core import registry
from llmanac.core.pages import Section
from llmanac.generate.answers import Assistant
from llmanac.generate.engine import Engine


class FineTuningPairs(ABC):
    """The material of one run's fine-tuning.

    Attributes:
        length: tokens of a row.
        chats: whether rows are written with the chat template, so that the model learns it.
    """

    length: int
    chats: bool = False

    @abstractmethod
    def write(self) -> None:
        """Encode the training rows into the run's `data/pairs`, unless they are there."""

    def mixed_in(self, stream: Any) -> Any:
        """The pretraining stream, with rows of the application mixed in where it wants that."""
        return stream

    @abstractmethod
    def measure(self, run: Any) -> dict[str, Any]:
        """Entries of `results.json` about the fine-tuned model; may leave `assistant/` in the run's folder."""


class Application(ABC):
    """One application.

    Attributes:
        special_tokens: what its rows are written with; they become part of the vocabulary.
    """

    special_tokens: tuple[str, ...] = ()

    @abstractmethod
    def pairs(self, run: Any) -> FineTuningPairs:
        """The material of a run (`recipes/stages.Pipeline`, with its text and its split).

        Raises:
            SpecError, DataError: a recipe or a text that the application cannot work with.
        """

    @abstractmethod
    def report(self, results: Mapping[str, Any]) -> ReportPart | None:
        """What the report says about `results.json`; None where the results are of no run of this application."""

    @abstractmethod
    def assistant(self, folder: Path, engine: Engine) -> Assistant:
        """The assistant that `measure` left in the folder of a run.

        Args:
            engine: the run's own, which continues text.

        Raises:
            CheckpointError: a damaged file, by its name.
        """


@dataclass(frozen=True)
class ReportPart:
    """What an application adds to a run's report and model card.

    Attributes:
        what_it_is: the first paragraph.
        kept_weights: about the fine-tuned weights, with `{base}` and `{tuned}`, bits per byte of text.
        scores: a second figure of bars, the application's own score first, and its title and caption.
        sections: after the section on bits per byte.
        card: Markdown for the model card.
    """

    what_it_is: str
    kept_weights: str
    scores: Mapping[str, float] = field(default_factory=dict)
    scores_title: str = ""
    scores_caption: str = ""
    sections: tuple[Section, ...] = ()
    card: str = ""


def find_application(pairs: str) -> Application | None:
    """The application that `finetune.pairs` names; None for a file of pairs."""
    found: Application | None = registry.application(pairs) if pairs in registry.applications() else None
    return found
