"""What a run of `recipes/rlhf.py` measured, as results.json and a page: policies on held-out prompts, RL by draw."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, select_autoescape

from llmanac import __version__
from llmanac.core import files
from llmanac.core.device import machine
from llmanac.core.spec import make_method
from llmanac.generate.load import load_engine
from llmanac.models.load import load_model
from llmanac.objectives._rollouts import Rollout
from llmanac.recipes.align import AlignSpec, Sampled
from llmanac.recipes.application import ReportPart, Section, table
from llmanac.recipes.report import TEMPLATES
from llmanac.recipes.report_figures import HELD_OUT, OTHERS, OURS, _pyplot, _svg
from llmanac.rewards import Sample
from llmanac.train.rollouts import Prompt, batched

ANSWERS = 4  # to each held-out prompt
PROMPTS = 128  # held-out prompts that are answered, at most
SHOWN = 5  # of them in the report
COLUMNS = {
    "reward": "reward", "truth": "true reward", "kl_to_start": "KL to where RL began", "tokens": "tokens",
    "finished": "finished", "surprise": "surprise, nats a token",
}  # fmt: skip
RL = ("rl", "without-kl")


def write_results(
    place: Path, name: str, seed: int, asked: AlignSpec, arms: Mapping[str, str], start: str
) -> dict[str, Any]:
    """Answer the held-out prompts with each model of `arms` (name -> folder); write `results.json` and `report.html`.

    Args:
        asked: the RL stage; its rows are the prompts: those held out, or all where none are.
        start: the model that RL began from.
    """
    found: Any = Sampled(asked, place, "cpu", print).read()
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
        "format_version": 1,
        "name": name,
        "version": __version__,
        "seed": seed,
        "machine": machine(),
        "stages": {stage: files.read_table(place / stage / "results.json") for stage in _stages(place)},
        "held_out": {"prompts": len(prompts), "answers": ANSWERS, "scores": scores, f"change_from_{base}": changes},
        "curves": {arm: _curve(place / arm / "rollouts.jsonl") for arm in RL if arm in arms},
        "samples": [
            {"prompt": prompt.text, **{arm: measured[arm]["texts"][number] for arm in arms}}
            for number, prompt in enumerate(prompts[:SHOWN])
        ],
        "next": [f"llmanac chat {place / 'rl'}", f"llmanac generate {place / 'rl'} --prompt ..."],
    }
    files.write_json(place / "results.json", out)
    write_page(place, out)
    return out


def mean_interval(values: np.ndarray) -> dict[str, float]:
    """The mean over prompts, and its 95% interval (normal)."""
    half = 1.959963984540054 * float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.inf
    mean = float(values.mean())
    return {"mean": mean, "low": mean - half, "high": mean + half}


def _measured(asked: AlignSpec, folder: str, start: str, prompts: Sequence[Prompt], seed: int) -> dict[str, Any]:
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
    return [{key: line[key] for key in keep} for line in map(json.loads, path.read_text("utf-8").splitlines())]


def write_page(place: Path, results: dict[str, Any]) -> Path:
    """`report.html` from the results alone."""
    held = results["held_out"]
    some = [key for key in COLUMNS if all(key in row for row in held["scores"].values())]
    cells = [[arm, *(_cell(row[key]) for key in some)] for arm, row in held["scores"].items()]
    base = next(key.removeprefix("change_from_") for key in held if key.startswith("change_from_"))
    moved = [
        [arm, *(_cell(row[key]) if key in row else "" for key in ("reward", "truth"))]
        for arm, row in held[f"change_from_{base}"].items()
    ]
    sections = [
        Section(
            f"{held['prompts']} held-out prompts, {held['answers']} answers each",
            ["Means over prompts with their 95% intervals. The reward is what RL raises; the true reward is what it "
             "stands for, and was never trained on."],
            [table(["", *(COLUMNS[key] for key in some)], cells),
             table([f"change from {base}", "reward", "true reward"], moved)],
        ),
        Section("RL, draw by draw", figures=curve_figures(results["curves"]), caption=_caption(results["curves"])),
        Section("Samples", blocks=[_sample(sample) for sample in results["samples"]]),
        Section("Stages", tables=[table(["stage", "steps", "tokens", "time"], [
            [name, stage["steps"], f"{stage['tokens']:,}", f"{stage['seconds']:.0f} s"]
            for name, stage in results["stages"].items()
        ])]),
        Section("Next", blocks=["\n".join(results["next"])]),
    ]  # fmt: skip
    where = results["machine"]
    page = {
        "title": f"{results['name']}: fine-tuning, reward model, reinforcement learning",
        "subtitle": f"Seed {results['seed']}, on {where['cpu']}, {where['threads']} threads; llmanac "
        f"{results['version']}, torch {where['torch']}.",
        "part": ReportPart(what_it_is=_verdict(results), kept_weights=""),
        "sections": sections,
    }
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=select_autoescape(), trim_blocks=True, lstrip_blocks=True
    )
    return files.write_text(place / "report.html", environment.get_template("report.html").render(page))


def _verdict(results: dict[str, Any]) -> str:
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


def _caption(curves: Mapping[str, Any]) -> str:
    dashed = "; dashed: without the KL penalty" if "without-kl" in curves else ""
    return f"Sampled answers of each draw, smoothed; orange: the true reward{dashed}."


def curve_figures(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Reward and truth, KL, length and surprise over the draws; one line an arm."""
    out = []
    panels = (("reward", "truth"), ("kl_to_reference",), ("tokens",), ("surprise",))
    titles = ("reward and true reward", "KL to where RL began, nats an answer", "tokens", "surprise, nats a token")
    for keys, title in zip(panels, titles, strict=True):
        figure, axis = _pyplot().subplots(figsize=(4.4, 2.6))
        for arm, lines in curves.items():
            for key, color in zip(keys, (OURS, HELD_OUT), strict=False):
                points = [(line["draw"], line[key]) for line in lines if line[key] is not None]
                if points:
                    x, y = map(np.array, zip(*points, strict=True))
                    width = max(1, len(y) // 25)
                    smooth = np.convolve(y, np.ones(width) / width, "valid")
                    style = "-" if arm == "rl" else "--"
                    axis.plot(x[width - 1 :], smooth, style, color=color, linewidth=1.4)
        axis.axhline(0, color=OTHERS, linewidth=0.6)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("draw", fontsize=9)
        axis.tick_params(labelsize=8)
        figure.tight_layout()
        out.append(_svg(figure))
    return out
