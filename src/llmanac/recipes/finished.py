"""A finished run of any form: its folder, its results, and the tables that a terminal or a notebook shows.

What a run of `recipes/rlhf.py` measured, as results.json and a page: policies on held-out prompts, RL by draw.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from llmanac.core import files
from llmanac.core.pages import Chart, Line, Section, line_chart, table
from llmanac.core.shown import Shown
from llmanac.core.spec import make_method
from llmanac.generate.load import load_engine
from llmanac.metrics.statistics.estimates import estimate
from llmanac.models.load import load_model
from llmanac.objectives.policy_gradient import Rollout
from llmanac.recipes import specialist
from llmanac.recipes.align import AlignSpec, SampledAlignment
from llmanac.recipes.multimodal_report import scores
from llmanac.recipes.report import heading, made_on, measured, run_page
from llmanac.rewards import Sample
from llmanac.tokenizers.load import load_tokenizer
from llmanac.train.alarms import heard
from llmanac.train.metrics import read_log
from llmanac.train.rollouts import RolloutPrompt, batched

ANSWERS = 4  # to each held-out prompt
PROMPTS = 128  # held-out prompts that are answered, at most
SHOWN = 5  # of them in the report
COLUMNS = {
    "reward": "reward", "truth": "true reward", "kl_to_start": "KL to where RL began", "tokens": "tokens",
    "finished": "finished", "surprise": "surprise, nats a token",
}  # fmt: skip
RL = ("rl", "without-kl")


def results_of(
    place: Path, name: str, seed: int, asked: AlignSpec, arms: Mapping[str, str], start: str
) -> dict[str, Any]:
    """Answer the held-out prompts with each model of `arms` (name -> folder); write `report.html`.

    Args:
        asked: the RL stage; its rows are the prompts: those held out, or all where none are.
        start: the model that RL began from.
    """
    found: Any = SampledAlignment(asked, place, "cpu", print).read()
    prompts = (found.held_out or found.train)[:PROMPTS]
    measured = {arm: _measured(asked, folder, start, prompts, seed) for arm, folder in arms.items()}
    scores = {
        arm: {key: mean_interval(np.array(values).mean(1)) for key, values in rows.items() if key in COLUMNS}
        for arm, rows in measured.items()
    }
    base = "sft" if "sft" in arms else "start"
    changes = {
        arm: {
            key: mean_interval(np.subtract(measured[arm][key], measured[base][key]).mean(1))
            for key in ("reward", "truth")
            if key in measured[arm]
        }
        for arm in RL
        if arm in arms
    }
    out = {
        **heading(name, seed),
        "stages": {stage: files.read_table(place / stage / "results.json") for stage in _stages(place)},
        "held_out": {"prompts": len(prompts), "answers": ANSWERS, "scores": scores, f"change_from_{base}": changes},
        "curves": {arm: _curve(place / arm / "rollouts.jsonl") for arm in RL if arm in arms},
        "samples": [
            {"prompt": prompt.text, **{arm: measured[arm]["texts"][number] for arm in arms}}
            for number, prompt in enumerate(prompts[:SHOWN])
        ],
        "next": [f"llmanac chat {place / 'rl'}", f"llmanac generate {place / 'rl'} --prompt ..."],
    }
    write_page(place, out)
    return out


def mean_interval(values: np.ndarray) -> dict[str, float]:
    """The mean over prompts, and its 95% interval (normal)."""
    if len(values) < 2:
        return {"mean": float(values.mean()), "low": -math.inf, "high": math.inf}
    found = estimate(values)
    return {"mean": found.mean, "low": found.low, "high": found.high}


def _measured(asked: AlignSpec, folder: str, start: str, prompts: Sequence[RolloutPrompt], seed: int) -> dict[str, Any]:
    """(prompts, ANSWERS) of each column for one policy, and the text of the first answer to each."""
    assert asked.reward is not None
    objective: Any = make_method("objective", "policy-gradient").build()
    temperature = asked.objective.temperature  # type: ignore[attr-defined]
    engine = load_engine(folder)
    found = engine.generate(
        [list(p.ids) for p in prompts], n=ANSWERS, seed=seed, logprobs=0, temperature=temperature,
        max_new_tokens=asked.sampling.tokens,
    )  # fmt: skip
    owners = [prompt for prompt in prompts for _ in range(ANSWERS)]
    samples, rows = [], []
    for prompt, answer in zip(owners, found, strict=True):
        ended, count = answer.finish_reason == "stop", len(answer.token_logprobs)
        samples.append(Sample(row=prompt.row, prompt=prompt.text, text=answer.text, finished=ended, tokens=count))
        logs = np.array([token.sampled for token in answer.token_logprobs])
        ids = tuple(token.id for token in answer.token_logprobs)
        rows.append(Rollout(prompt=prompt.ids, completion=ids, logprobs=logs))
    frozen = load_model(start)
    reference = batched(lambda batch: objective.log_probabilities(frozen, batch)[0], objective, frozen)(rows)
    columns = {
        "reward": [score.value for score in asked.reward.build()(samples)],
        "kl_to_start": [float((row.logprobs - logs).sum()) for row, logs in zip(rows, reference, strict=True)],
        "tokens": [float(sample.tokens) for sample in samples],
        "finished": [float(sample.finished) for sample in samples],
        "surprise": [float(-row.logprobs.mean()) for row in rows],
    }
    if asked.truth is not None:
        columns["truth"] = [score.value for score in asked.truth.build()(samples)]
    shaped: dict[str, Any] = {
        key: np.reshape(columns[key], (-1, ANSWERS)).tolist() for key in COLUMNS if key in columns
    }
    return {**shaped, "texts": [sample.text for sample in samples[::ANSWERS]]}


def _stages(place: Path) -> list[str]:
    return [name for name in ("sft", "reward-model", *RL) if (place / name / "results.json").is_file()]


def _curve(path: Path) -> list[dict[str, Any]]:
    keep = ("draw", "reward", "truth", "kl_to_reference", "tokens", "surprise")
    return [{key: line[key] for key in keep} for line in read_log(path)]


def write_page(place: Path, results: dict[str, Any]) -> Path:
    """`report.html` from the results alone."""
    sections = [
        policies(results),
        Section("RL, draw by draw", charts=curve_charts(results["curves"])),
        Section("Samples", blocks=[_sample(sample) for sample in results["samples"]]),
        Section("Stages", tables=[table(["stage", "steps", "tokens", "time"], [
            [name, stage["steps"], f"{stage['tokens']:,}", f"{stage['seconds']:.0f} s"]
            for name, stage in results["stages"].items()
        ])]),
    ]  # fmt: skip
    subtitle = f"Fine-tuning, reward model, reinforcement learning. Seed {results['seed']}, on {made_on(results)}"
    return files.write_text(place / "report.html", run_page(results, subtitle, _verdict(results), sections))


def policies(results: Mapping[str, Any]) -> Section:
    """Each policy on the held-out prompts."""
    held = results["held_out"]
    some = [key for key in COLUMNS if all(key in row for row in held["scores"].values())]
    cells = [[arm, *(_cell(row[key]) for key in some)] for arm, row in held["scores"].items()]
    base = next(key.removeprefix("change_from_") for key in held if key.startswith("change_from_"))
    moved = [
        [arm, *(_cell(row[key]) if key in row else "" for key in ("reward", "truth"))]
        for arm, row in held[f"change_from_{base}"].items()
    ]
    return Section(
        f"{held['prompts']} held-out prompts, {held['answers']} answers each",
        ["Means over prompts with their 95% intervals. The reward is what RL raises; the true reward is what it stands "
         "for, and was never trained on."],
        [table(["", *(COLUMNS[key] for key in some)], cells),
         table([f"change from {base}", "reward", "true reward"], moved)],
    )  # fmt: skip


def _verdict(results: Mapping[str, Any]) -> str:
    """What RL did to the reward and to the truth, in a sentence each."""
    said = []
    for arm, change in next(v for k, v in results["held_out"].items() if k.startswith("change_from_")).items():
        name = "RL" if arm == "rl" else "RL without the KL penalty"
        words = f"{name} changed the reward by {change['reward']['mean']:+.2f}"
        if "truth" in change:
            truth = change["truth"]
            words += f" and the true reward by {truth['mean']:+.3f} ({truth['low']:+.3f} to {truth['high']:+.3f})"
            if change["reward"]["mean"] > 0 and truth["mean"] <= 0:
                words += ": it optimised the reward beyond what it stands for"
        said.append(words + ".")
    return " ".join(said)


def _cell(value: Mapping[str, float]) -> str:
    half = value["high"] - value["mean"]
    return f"{value['mean']:.3f}" + (f" ± {half:.3f}" if math.isfinite(half) else "")


def _sample(sample: Mapping[str, str]) -> str:
    return "\n".join(f"{name:>12}  {text.strip()}" for name, text in sample.items())


def curve_charts(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Chart]:
    """Reward and truth, KL, length and surprise over the draws; one line an arm."""
    panels = {
        "reward and true reward": {"reward": "reward", "truth": "true reward"},
        "KL to where RL began, nats an answer": {"kl_to_reference": "KL"},
        "tokens": {"tokens": "tokens"},
        "surprise, nats a token": {"surprise": "surprise"},
    }
    out = []
    for title, keys in panels.items():
        lines = [
            Line(f"{name}, {arm}", points, shade=shade, style="-" if arm == "rl" else "--")
            for arm, draws in curves.items()
            for shade, (key, name) in enumerate(keys.items())
            if (points := _smooth([(draw["draw"], draw[key]) for draw in draws if draw[key] is not None]))
        ]
        caption = f"{title[:1].upper()}{title[1:]}: sampled answers of each draw, smoothed."
        out += [line_chart(lines, "draw", title, caption)] if lines else []
    return out


def _smooth(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Means over a moving window of a 25th of the draws."""
    width = max(1, len(points) // 25)
    means = np.convolve([y for _, y in points], np.ones(width) / width, "valid") if points else ()
    return list(zip([x for x, _ in points[width - 1 :]], map(float, means), strict=True))


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
