"""`report.html` and the model's `README.md` of a run, from its `results.json` alone."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmanac import __version__
from llmanac.core import files, registry
from llmanac.core.device import machine
from llmanac.core.pages import Chart, Line, Section, bar_chart, line_chart, render_page, render_template, table
from llmanac.models.card import write_card
from llmanac.recipes.application import ReportPart

CARD = Path(__file__).with_name("templates") / "MODEL_CARD.md"
PLAIN = ReportPart(
    what_it_is="This is a small language model trained from nothing on the text named below. It continues text in that "
    "style; it was not made to answer questions, and what it says is not to be relied on.",
    kept_weights="The base weights are kept next to the fine-tuned ones: {base} and {tuned} bits per byte of text.",
)

GREEDY = "Greedy continuations by the base weights, unedited; a model of this size soon repeats itself."


def _part(results: dict[str, Any]) -> ReportPart:
    """The part of the application whose results these are."""
    parts = (registry.application(name).report(results) for name in registry.applications())
    return next((part for part in parts if part is not None), PLAIN)


def write_report(folder: Path, results: dict[str, Any]) -> Path:
    """Write `report.html` and `model/README.md` into a run's folder; returns the report's path."""
    part, spent = _part(results), sum(results["seconds"].values())
    subtitle = f"Seed {results['seed']}, {_duration(spent)} of {results['budget']} on {made_on(results)}"
    page = run_page(results, subtitle, part.what_it_is, _sections(results, part))
    path = files.write_text(folder / "report.html", page)
    write_card(
        folder / "model", render_template(CARD, **results, part=part),
        [("held-out documents", "bits per byte", results["bits_per_byte"]["this model"])],
    )  # fmt: skip
    return path


def heading(name: str, seed: int) -> dict[str, Any]:
    """What `results.json` of every form of run begins with."""
    return {"format_version": 1, "name": name, "version": __version__, "seed": seed, "machine": machine()}


def run_page(results: Mapping[str, Any], subtitle: str, lead: str, sections: Iterable[Section | None]) -> str:
    """The page of a run of any kind: what it is, its sections, and what to do next."""
    last = Section("Next", blocks=["\n".join(results["next"])])
    return render_page(f"{results['name']}: report of a run", subtitle, [lead], [*sections, last])


def made_on(results: Mapping[str, Any]) -> str:
    """The machine and the versions."""
    where = results["machine"]
    return f"{where['cpu']}, {where['threads']} threads; llmanac {results['version']}, torch {where['torch']}."


def measured(results: dict[str, Any]) -> list[Section]:
    """The sections with tables of scores: of the language model, and those of the application."""
    part = _part(results)
    return [_quality(results, part), *(section for section in part.sections if section.tables)]


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def _sections(results: dict[str, Any], part: ReportPart) -> list[Section | None]:
    completions = [f"{c['prompt']}⟶{c['text']}" for c in results.get("completions") or ()]
    times = [[name, _duration(value)] for name, value in results["seconds"].items()]
    return [
        _bars(results, part),
        _quality(results, part),
        *part.sections,
        _curve(results, part),
        _data(results),
        Section("Where the time went", tables=[table(["stage", "time"], times)]),
        Section("Completions", [GREEDY], blocks=completions) if completions else None,
    ]


def _bars(results: dict[str, Any], part: ReportPart) -> Section:
    caption = f"Bits per byte of the language model next to its baselines. {part.scores_caption}".rstrip()
    scores = dict(sorted(results["bits_per_byte"].items(), key=lambda item: item[1]))
    return Section("In short", charts=[score_bars(scores, caption, part.scores, part.scores_title)])


def score_bars(
    bits: Mapping[str, float], caption: str, others: Mapping[str, float] | None = None, title: str = ""
) -> Chart:
    """Bits per byte as bars, and below them the scores of an application; the run's own are highlighted."""
    panels = {"bits per byte, held-out documents (lower is better)": bits} | ({title: others} if others else {})
    own = next(iter(others or ()), "")
    bars = {label: {name: {"": value} for name, value in found.items()} for label, found in panels.items()}
    return bar_chart(bars, caption, ours=("this model", own))


def _quality(results: dict[str, Any], part: ReportPart) -> Section:
    scores: dict[str, float] = results["bits_per_byte"]
    rows = sorted(scores.items(), key=lambda item: item[1])
    ours = next(i for i, (name, _) in enumerate(rows) if name == "this model")
    best = rows[0][0] == "this model"
    verdict = "below every baseline" if best else f"not below {rows[0][0]}"
    said = [
        "How many bits the model needs for each byte of documents it never saw (lower is better); the others were "
        f"given the same training text. The model is {verdict}."
    ]
    if "after fine-tuning" in results.get("base_kept", {}):
        kept = results["base_kept"]
        base, tuned = (f"{kept[name]:.3f}" for name in ("base", "after fine-tuning"))
        said.append(part.kept_weights.format(base=base, tuned=tuned))
    cells = [[name, f"{value:.3f}"] for name, value in rows]
    return Section("Bits per byte on held-out documents", said, [table(["", "bits per byte"], cells, ours)])


def _curve(results: dict[str, Any], part: ReportPart) -> Section:
    stages: list[tuple[str, dict[str, Any]]] = [(n, results[n]) for n in ("pretrain", "finetune") if n in results]
    rows = [
        [
            name,
            stage["steps"],
            f"{stage['tokens'] / 1e6:.2f} M",
            _duration(stage["seconds"]),
            f"{stage['tokens'] / stage['seconds']:,.0f}",
            f"{stage['loss']:.3f}",
        ]
        for name, stage in stages
    ]
    pretrain = results["pretrain"]
    words = [
        f"{results['model']['parameters'] / 1e6:.2f} M parameters. Size and steps that the recipe leaves open follow "
        "from the budget and the measured speed.",
        _speed(pretrain),
    ]
    return Section(
        "Training",
        words,
        [table(["", "steps", "tokens", "time", "tokens/s", "last loss"], rows)],
        loss_charts(stages, "loss, nats per token"),
    )


def loss_charts(stages: Iterable[tuple[str, Mapping[str, Any]]], y_label: str) -> list[Chart]:
    """The loss curve of each stage that has one."""
    out = []
    for name, stage in stages:
        points = [(point["step"], point["loss"]) for point in stage["curve"]]
        if not points:
            continue
        held_out = [(p["step"], p["held_out"]) for p in stage["curve"] if p.get("held_out") is not None]
        caption = f"Training loss of {name}, smoothed"
        caption += "; dots are held-out loss where it was measured." if held_out else "."
        line = Line(name, list(zip([x for x, _ in points], _smooth([y for _, y in points]), strict=True)))
        lines = [line, *([Line("held out", held_out, style="o")] if held_out else [])]
        out.append(line_chart(lines, "step", y_label, caption))
    return out


def _smooth(values: Sequence[float], keep: float = 0.9) -> list[float]:
    out: list[float] = []
    for value in values:
        out.append(value if not out else keep * out[-1] + (1 - keep) * value)
    return out


def _speed(stage: dict[str, Any]) -> str:
    how = f"in {stage['dtype']}, attention form {stage['attention']}"
    if not stage["peak_flops"] or not 0 < (stage["mfu"] or 0) <= 1:  # above 1 the peak was measured on a busy machine
        return f"Trained {how}."
    peak = f"{stage['peak_flops'] / 1e9:.0f} GFLOP/s"
    return (
        f"Trained {how}, at {stage['mfu']:.0%} of the {peak} that this machine's matrix products reach (counted FLOPs)."
    )


def _data(results: dict[str, Any]) -> Section:
    data = results["data"]
    rows = [
        ["documents", f"{data['train']['documents']:,}", f"{data['held_out']['documents']:,}"],
        ["bytes", f"{data['train']['bytes']:,}", f"{data['held_out']['bytes']:,}"],
        ["tokens", f"{results['tokens']['train']:,}", f"{results['tokens']['held_out']:,}"],
    ]
    licences = ", ".join(f"{name} ({size / 1e6:.2f} MB)" for name, size in data["train"]["licenses"].items())
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in data["dropped"].items() if count) or "nothing"
    passed = [
        [s["name"], f"{s['documents_in']:,}", f"{s['documents_out']:,}", f"{s['bytes_in']:,}", f"{s['bytes_out']:,}"]
        for s in data.get("stages", ())
    ]
    heads = ["stage", "documents in", "out", "bytes in", "out"]
    related = data["held_out_by"].get("related_groups", 0)
    together = f"{related} groups share text with another and stay on its side of the split. " if related else ""
    return Section(
        "Text",
        [
            f"A vocabulary of {results['tokens']['vocabulary']:,} tokens takes "
            f"{results['tokens']['bytes_per_token']:.2f} bytes a token on held-out documents. Dropped: {dropped}.",
            f"{together}Licences: {licences}.",
        ],
        [table(["", "training", "held out"], rows), *([table(heads, passed)] if passed else [])],
    )
