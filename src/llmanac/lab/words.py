"""The text of a study: numbers with units, verdicts, the one-line summary, warnings."""

from collections.abc import Mapping
from typing import Any

from llmanac.core import catalogue
from llmanac.core.pages import nice_number
from llmanac.lab.budget import format_duration

Result = Mapping[str, Any]
BYTES = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))
UNIFORM = 8  # bits per byte of a model that knows nothing
DRIFT = 0.05  # `--hold time`: by how much measured times may differ before the page says so


def quantity(value: float | None, unit: str) -> str:
    """A number with its unit, `-` where there is none."""
    if value is None:
        return "-"
    if unit == "s":
        return format_duration(value)
    if unit in ("B", "B/s"):
        for size, name in BYTES:
            if abs(value) >= size:
                return f"{value / size:.3g} {name}{unit.removeprefix('B')}"
    if unit in ("", "token/s") and abs(value) >= 100:
        text = f"{value:,.0f}" if abs(value) < 1e6 else nice_number(value)
    else:
        text = nice_number(value)
    return f"{text} {unit}".strip()


def percent(fraction: float | None) -> str:
    """A signed relative difference."""
    return "-" if fraction is None else f"{100 * fraction:+.2f}%"


def p_value(p: float | None) -> str:
    """A p-value to three places."""
    if p is None:
        return "-"
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def plural(count: int, word: str) -> str:
    """`1 seed`, `3 seeds`."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def verdict(comparison: Mapping[str, Any], replicate: str) -> str:
    """The verdict, what an inconclusive one would need, and whether a count does better than what is compared."""
    found = _verdict(comparison, replicate)
    return f"{found}, {comparison['beaten']}" if comparison.get("beaten") else found


def _verdict(comparison: Mapping[str, Any], replicate: str) -> str:
    word = comparison["verdict"]
    if comparison.get("refused"):
        return f"{word} ({comparison['refused']})"
    if word == "too few":
        return f"too few {replicate}s ({comparison['further']} more)"
    if word == "none":  # kept studies, of an earlier rule
        return f"no verdict (fewer than 3 {replicate}s)"
    if word == "inconclusive":
        if comparison["further"] is None:
            return f"inconclusive (no number of {replicate}s that is worth running would settle it)"
        more = comparison["further"]
        return f"inconclusive (about {more:,} more {replicate}{'' if more == 1 else 's'})"
    return str(word)


def interval(comparison: Mapping[str, Any]) -> str:
    """The relative 95% interval, or the absolute one where the baseline is zero."""
    if comparison["low"] is None:
        return "-"
    if comparison["relative_low"] is None:
        return f"{comparison['low']:+.4g} to {comparison['high']:+.4g}"
    return f"{percent(comparison['relative_low'])} to {percent(comparison['relative_high'])}"


def difference(comparison: Mapping[str, Any]) -> str:
    """The difference, relative where that has a meaning."""
    if comparison["relative"] is None:
        return f"{comparison['difference']:+.4g}"
    return percent(comparison["relative"])


def title(result: Result) -> str:
    """The title of the page."""
    labels = ", ".join(arm["label"] for arm in result["arms"])
    return f"{result['kind']}: {labels}"


def label(metric: Mapping[str, Any]) -> str:
    """The name of a metric or a cost for a reader."""
    return str(metric["title"] or metric["name"].replace("_", " "))


def primary(result: Result) -> Mapping[str, Any]:
    """The metric that the verdict is on."""
    return result["metrics"][0]


def replicates(result: Result) -> int:
    """How many replicates every arm has."""
    values: dict[str, list[float]] = next(iter(result["values"].values()), {})
    return min(map(len, values.values()), default=0)


def held_words(result: Result) -> str:
    """What was held equal."""
    hold = result.get("hold")
    if hold is None:
        return str(result.get("held", "one artefact, hashed"))
    names = {"params": "equal parameters", "flops": "equal training FLOPs", "time": "equal training time"}
    plan = result.get("plan") or {}
    steps, speed = plan.get("steps", {}), plan.get("speed", {})
    if any(not found["step_seconds"] for found in speed.values()):
        return "counting reads the text once, training takes equal steps of the same rows"
    tokens = "equal tokens" if len(set(steps.values())) > 1 else "equal tokens (the same steps of the same rows)"
    return names.get(hold, tokens)


def sentences(result: Result) -> list[str]:
    """One sentence an arm, on the first metric."""
    metric, out = primary(result), []
    name = label(metric)
    for c in result["comparisons"].get(metric["name"], []):
        what = f"{c['arm']} against {result['baseline']}: {verdict(c, result['replicate'])}"
        untuned = ", untuned" if _untuned(result) and c["low"] is not None else ""
        between = "no interval" if c["low"] is None else f"95% interval {interval(c)}"
        out.append(f"{what}, {name} {difference(c)} ({between}{untuned}).")
    if result["baseline"] in result["failed"]:
        out.append(f"Nothing can be compared: {result['baseline']}, the baseline, failed.")
    for arm, messages in result["failed"].items():
        out.append(f"{arm}: failed in {plural(len(messages), 'run')}, so it has no verdict ({messages[0]}).")
    return out + transfer(result["kind"])


def transfer(kind: str) -> list[str]:
    """What verdicts of an axis are worth at a larger scale, where the study of it has cells: one sentence or none."""
    known = catalogue.evidence().get("transfer", {})
    if kind not in known:
        return []
    (pairs, kept), (every, held, low, high) = known[kind], known[""]
    return [
        f"Of {plural(pairs, 'verdict')} like this, {kept} kept their sign at four times the size; of all kinds {held} "
        f"of {every} ({low:.0%} to {high:.0%}; docs/evidence/transfer_of_verdicts)."
    ]


def _untuned(result: Result) -> bool:
    return bool(result.get("hold")) and not result.get("tune")


def worse_than_uniform(result: Result) -> str:
    """A sentence on the arms that need more bits than a uniform model, or infinitely many; else empty."""
    values = result["values"].get("bits_per_byte", {})
    worse = [arm for arm, found in values.items() if found and not sum(found) / len(found) <= UNIFORM]
    if not worse:
        return ""
    return (
        f"{', '.join(worse)}: more than the {UNIFORM} bits per byte of a uniform distribution; a "
        "model without smoothing (mle, as the bigram) gives almost no probability to unseen tokens, and these dominate "
        "the mean"
    )


def adjusted(result: Result) -> str:
    """A sentence where an interval without zero is inconclusive, since only verdicts are adjusted; else empty."""
    found = [c for metric in result["metrics"] for c in result["comparisons"].get(metric["name"], [])]
    if any(c["verdict"] == "inconclusive" and c["low"] * c["high"] > 0 for c in found):
        return (
            "Verdicts and p are adjusted over the arms (Holm), intervals are not: one without zero can be inconclusive."
        )
    return ""


def warnings(result: Result) -> list[str]:
    """What a reader must know before the numbers."""
    out = []
    if (floors := result.get("floors")) and floors["beaten"]:
        out.append(
            f"A count beats {', '.join(floors['beaten'])}: gzip needs {floors['gzip']:.3f} bits per byte of this text, "
            f"a byte 5-gram {floors['ngram-5']:.3f}. What is better at this level may change with training."
        )
    if result["kind"] == "tokenizer" and len({cost.get("vocabulary") for cost in result["costs"].values()}) > 1:
        out.append(
            "The vocabularies differ in size, and a larger one has longer tokens by itself: compare bytes a token at "
            "equal vocabularies."
        )
    if result.get("stopped"):
        out.append(f"{result['stopped']}.")
    if result["kind"] == "recipe":
        out.append(
            "Whole-recipe comparison: many things differ between the arms, on purpose. It shows which recipe is better "
            "here, not which part of it is the reason."
        )
    if _untuned(result):
        moved = [
            f"{arm['label']} ({old:g} -> {new:g})"
            for arm in result["arms"]
            for path, (old, new) in arm["held"].items()
            if path == "train.optimizer.lr"
        ]
        but = f", except {', '.join(moved)}, which trains the model's own weights" if moved else ""
        out.append(
            f"Untuned: every arm ran with its recipe's own learning rate{but}; --tune lr=3 gives each the same sweep."
        )
    if result.get("tune") and result["tune"]["at_the_edge"]:
        edge = ", ".join(result["tune"]["at_the_edge"])
        out.append(f"The best learning rate of {edge} is at the edge of the sweep; a wider one may do better.")
    load, cores = result.get("load", {}).get("after"), result.get("load", {}).get("cores") or 0
    if load and load > cores + 0.5:
        out.append(
            f"The machine was busy (load {load} on {cores} cores): times on this page are unreliable"
            + (", and equal time was the condition." if result.get("hold") == "time" else ".")
        )
    for name, floors in result.get("probes", {}).items():
        said = ", ".join(f"{floor} {floors[floor]:.1%}" for floor in ("majority", "bag of words", "before training"))
        below = floors["best"] <= floors["bag of words"]
        out.append(f"{name}: {said}." + (" No arm is above the bag of words: no verdict." if below else ""))
    if written := result.get("generation"):
        text = written["text"]
        out.append(
            f"What the arms write is judged by {written['judge']}; the held-out passages themselves: "
            f"{text['judged']:.3f} bit/B, {text['distinct_2']:.3f} of their bigrams are different."
        )
        if written["degenerate"]:
            out.append(f"{', '.join(written['degenerate'])}: repeats itself, so what it writes gets no verdict.")
    out += [*result.get("notes", ()), *_unequal(result)]
    if result["replicate"] == "prompt":
        out.append("Prompts come from fewer than ten documents, so they are not independent: intervals are too narrow.")
    return out


def _unequal(result: Result) -> list[str]:
    """Quantities that should be equal and are not."""
    costs, baseline = result["costs"], result["baseline"]
    if baseline not in costs or not result.get("hold"):
        return []
    field = {"params": "parameters", "flops": "train_flops", "time": "seconds", "tokens": "tokens"}[result["hold"]]
    limit = {"time": DRIFT}.get(result["hold"], 0.01)
    wanted = costs[baseline].get(field)
    out = []
    for arm, found in costs.items():
        value = found.get(field)
        if wanted and value and abs(value / wanted - 1) > limit:
            out.append(f"{arm} came out at {value / wanted - 1:+.1%} {field.replace('_', ' ')} of {baseline}'s.")
    return out


def summary(result: Result) -> str:
    """The study in one line."""
    metric = primary(result)
    values = result["values"].get(metric["name"], {})
    parts = [f"{arm} {sum(v) / len(v):.4g}" for arm, v in values.items()]
    count = len(next(iter(values.values()), []))
    said = [
        f"{c['arm']} {verdict(c, result['replicate'])} ({difference(c)})"
        for c in result["comparisons"].get(metric["name"], [])
    ]
    said += [f"{arm} failed ({reason(why[0])})" for arm, why in result["failed"].items() if arm != result["baseline"]]
    against = f"Against {result['baseline']}: {'; '.join(said) or 'nothing to compare'}."
    if result["baseline"] in result["failed"]:
        why = "; ".join(f"{arm} failed ({reason(found[0])})" for arm, found in result["failed"].items())
        against = f"Nothing can be compared with the baseline {result['baseline']}: {why}."
    return (
        f"{result['kind']} ({held_words(result)}, {plural(count, result['replicate'])}): {label(metric)} "
        f"{', '.join(parts) or '-'}. {against}"
    )


def settings_words(base: Mapping[str, Any]) -> str:
    """The numerical settings of a base that has trained, in which the arms are equal; empty where they are open."""
    train = base.get("train", {})
    if train.get("dtype", "auto") == "auto" or train.get("attention", "auto") == "auto":
        return ""
    return f"{train['dtype']}, attention form {train['attention']}"


def reason(message: str) -> str:
    """Why a run failed, without the advice and the files."""
    return message.partition(";")[0]
