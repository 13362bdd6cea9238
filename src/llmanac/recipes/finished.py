"""A finished run of any form: its folder, its results, and the tables that a terminal or a notebook shows."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmanac.core.pages import Section, table
from llmanac.core.shown import Shown
from llmanac.models.load import load_model
from llmanac.recipes import specialist
from llmanac.recipes.multimodal_report import scores
from llmanac.recipes.report import measured
from llmanac.recipes.rlhf_results import policies
from llmanac.tokenizers.load import load_tokenizer
from llmanac.train.alarms import heard


@dataclass(frozen=True, repr=False)
class Run(Shown):
    """A finished run.

    Attributes:
        folder: everything it wrote (docs/run-folder.md lists the files).
        recipe: the resolved recipe; it states everything.
        results: what `results.json` holds.
    """

    folder: Path
    recipe: Any
    results: dict[str, Any]

    def title(self) -> str:
        return f"{self.results.get('name', 'run')} in {self.folder}"

    def tables(self) -> list[Mapping[str, Any]]:
        return [table for section in sections(self) for table in section.tables]

    def load_model(self, which: str = "model") -> Any:
        """The final model, or with `which="base"` the pretrained one."""
        return load_model(self.folder / which)

    def load_tokenizer(self) -> Any:
        """The run's tokenizer."""
        return load_tokenizer(self.folder / "tokenizer")


def sections(done: Run) -> list[Section]:
    """The tables of a finished run of any form, as a terminal or a notebook shows them."""
    forms = {
        "RecipeSpec": _pretrained, "RlhfSpec": _in_stages, "MultimodalRecipe": _of_pictures,
        "SpecializeSpec": _specialist,
    }  # fmt: skip
    return forms.get(type(done.recipe).__name__, _tuned)(done)


def _pretrained(done: Run) -> list[Section]:
    """Bits per byte next to the baselines; what an assistant answers."""
    return measured(done.results)


def _tuned(done: Run) -> list[Section]:
    """What became of the rows, what was trained, what was measured before and after."""
    found = done.results
    held, log = found["held_out"], done.folder / "rollouts.jsonl"
    moved, total = found["parameters"]["trained"], found["parameters"]["total"]
    rows = [
        *found["rows"].items(),
        ("parameters trained", f"{moved:,} of {total:,} ({moved / total:.2%})"),
        ("steps, tokens", f"{found['steps']:,}, {found['tokens']:,}"),
    ]
    if found["tokens_per_second"]:
        rows.append(("tokens a second", f"{found['tokens_per_second']:,.0f}"))
    if held is not None:
        rows += [(f"before: {held['measures']}", f"{held['before']:.4f}"), ("after", f"{held['after']:.4f}")]
        if change := held["change"]:
            between = f"{change['mean']:+.4f} ({change['low']:+.4f} to {change['high']:+.4f})"
            rows.append(("change, with its 95% interval", between))
        if answers := held.get("answer_loss"):
            rows.append(("loss of the answers, before and after", f"{answers[0]:.4f}, {answers[1]:.4f}"))
    rows += [(f"alarm, {count} {'time' if count == 1 else 'times'}", text) for text, count in heard(log).items()]
    return [Section(str(done.folder), tables=[table(["", ""], rows)])]


def _in_stages(done: Run) -> list[Section]:
    """Each policy on the held-out prompts."""
    said = [
        f"{arm}: alarm, {count} {'time' if count == 1 else 'times'}: {text}"
        for arm in done.results["held_out"]["scores"]
        for text, count in heard(done.folder / arm / "rollouts.jsonl").items()
    ]
    return [policies(done.results), Section("", said)]


def _of_pictures(done: Run) -> list[Section]:
    """The scores of a run of images by side."""
    return [replace(scores(done.results), title=done.results["name"])]


def _specialist(done: Run) -> list[Section]:
    """Scores before and after, and whether each export is the tuned model."""
    return [section for section in specialist.sections(done.results)[:2] if section is not None]
