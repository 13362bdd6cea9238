"""The ratio of domains changes the loss on each.

Three domains of real text: the documentation of the Python standard library, its source code, and the message
catalogues of Django in eight European languages (`pip install 'llmanac[bench]'`); {sizes} to train on. One model of
{millions:.2f} M parameters per mixture and seed, {tokens:.2f} M tokens each; the rows of the domains are in exact
proportion (`data/pack.py`). Scored on held-out text of each domain (other modules, other catalogues).

DoReMi's weights come from a reference that learns from the domains as large as they are and a proxy that reads equally
many rows of each: in so short a run the excess loss is largest where the proxy sees less than the reference did, in the
largest domain. That is our interpretation of its weights, which these runs do not test; the paper has 280 M parameters,
22 domains and 200,000 steps.
"""

from __future__ import annotations

import dataclasses
import random
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from evidence._messages import compiled
from llmanac.core import files
from llmanac.core.pages import IntervalRow, Section, interval_chart, table
from llmanac.core.spec import make_method
from llmanac.data.clean import clean
from llmanac.data.dedup import drop_duplicates
from llmanac.data.documents import Document
from llmanac.recipes.mixing import Domains, Setting, doremi, train_on

ROWS = ("data/mixing",)
CLAIM = "the ratio of domains in the training text changes the loss on each"
SEEDS = 3
TOLERANCE = 1e-3  # float32 training
WORK = Path(__file__).resolve().parent.parent / "studies" / "mixing"
LANGUAGES = ("de", "fr", "es", "it", "nl", "pt_BR", "sv", "pl")


def measure(seed: int, size: str) -> dict[str, Any]:
    """Bits per byte of each domain, by mixture. An interrupted full run continues from `studies/mixing`."""
    if size == "small":
        with tempfile.TemporaryDirectory() as folder:
            setting = Setting(dim=16, layers=1, heads=2, vocab_size=300, length=32, batch_tokens=128, steps=4)
            data = Domains.prepare(made_up(), Path(folder), setting)
            arms = {"natural": {"letters": 0.5, "numbers": 0.5}, "80% numbers": {"letters": 0.2, "numbers": 0.8}}
            return _measured(data, setting, arms, Path(folder), seed)
    setting = Setting(steps=160)
    data = Domains.prepare(domains(), WORK, setting)
    learned = WORK / f"doremi-{seed}.json"
    if not learned.exists():
        files.write_json(learned, doremi(data, setting, WORK / f"doremi-{seed}", seed=seed))
    return _measured(data, setting, mixtures(data, files.read_json(learned)), WORK, seed)


def _measured(data: Domains, setting: Setting, arms: dict[str, Any], folder: Path, seed: int) -> dict[str, Any]:
    results = []
    for name, weights in arms.items():
        mark = folder / f"{name.replace(' ', '-')}-{seed}.json"
        if not mark.exists():
            model = train_on(data, weights, setting, mark.with_suffix(""), seed=seed, label=f"{name}, seed {seed}")
            files.write_json(mark, {"mixture": name, "weights": weights, "bits": data.losses(model)})
        results.append(files.read_json(mark))
    return {
        "setting": dataclasses.asdict(setting),
        "parameters": sum(p.numel() for p in setting.model(data.tokenizer.vocab_size).parameters()),
        "domains": {name: dataclasses.asdict(one) for name, one in data.sizes.items()},
        "results": results,
    }


def made_up() -> dict[str, list[Document]]:
    """Two domains of generated text, for the small measurement."""
    rng = random.Random(0)
    words = {"letters": [f"{a}{b}" for a in "bcdf" for b in "aeiou"], "numbers": [str(n) for n in range(100, 140)]}
    return {
        name: [Document(f"{name}-{i}", " ".join(rng.choices(pool, k=60)), f"{name}-{i}") for i in range(30)]
        for name, pool in words.items()
    }


def messages() -> Iterator[Document]:
    """One document a catalogue: its translated messages, a line or more each."""
    for path, catalogue in compiled("*.mo"):
        language = path.parts[-3]
        if language in LANGUAGES:
            texts = dict.fromkeys(str(text) for key, text in catalogue.items() if key and text)
            name = "/".join(path.parts[-5:-3])
            yield Document(f"{name}/{language}/{path.stem}", "\n".join(texts), f"{name}/{path.stem}")


def domains() -> dict[str, list[Document]]:
    """The text of each domain, cleaned, each text once."""
    library = make_method("source", {"name": "python-docs"})
    code = make_method("source", {"name": "python-docs", "parts": ["sources"]})
    found = {"docs": library.documents(), "code": code.documents(), "messages": messages()}
    return {
        name: [d for d in drop_duplicates(d.with_text(clean(d.text)) for d in documents) if d.text.strip()]
        for name, documents in found.items()
    }


def mixtures(data: Domains, weights: dict[str, float]) -> dict[str, dict[str, float]]:
    """The arms."""
    names = sorted(data.data)
    found = {
        "natural": make_method("mixture", {"name": "natural", "unit": "bytes"}).shares(data.sizes),
        "uniform": make_method("mixture", "uniform").shares(data.sizes),
        "temperature 0.5": make_method("mixture", {"name": "temperature", "unit": "bytes"}).shares(data.sizes),
        "DoReMi": weights,
    }
    for name in names:
        found[f"80% {name}"] = {other: 0.8 if other == name else 0.2 / (len(names) - 1) for other in names}
    return found


def losses(results: list[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """Bits per byte by mixture and domain, one value a seed; `mean` is over the domains."""
    found: dict[str, dict[str, list[float]]] = {}
    for result in results:
        row = found.setdefault(result["mixture"], {})
        for name, value in {**result["bits"], "mean": statistics.mean(result["bits"].values())}.items():
            row.setdefault(name, []).append(value)
    return found


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    """The page."""
    about = seeds[0]
    results = [result for one in seeds for result in one["results"]]
    found, names = losses(results), [*about["domains"], "mean"]
    rows, dots = [], []
    for mixture, row in found.items():
        weights = [r["weights"] for r in results if r["mixture"] == mixture]
        shares = ", ".join(f"{statistics.mean(w[n] for w in weights):.2f}" for n in about["domains"])
        spread = {n: statistics.stdev(row[n]) if len(row[n]) > 1 else 0.0 for n in names}
        rows.append([mixture, shares, *(f"{statistics.mean(row[n]):.3f} ± {spread[n]:.3f}" for n in names)])
        dots += [IntervalRow(f"{mixture}: {n}", row[n], statistics.mean(row[n]), shade=k)
                 for k, n in enumerate(about["domains"])]  # fmt: skip
    head = ["mixture", f"shares ({', '.join(about['domains'])})", *names]
    chart = interval_chart(dots, "bits per byte", "Loss by mixture and domain")
    spread_is = "Mean over the seeds and their standard deviation. Lower is better."
    return [Section("Bits per byte", [spread_is], [table(head, rows)], [chart])]


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    about = seeds[0]
    return {
        "millions": about["parameters"] / 1e6,
        "tokens": about["setting"]["steps"] * about["setting"]["batch_tokens"] / 1e6,
        "sizes": ", ".join(f"{n} {s['bytes'] / 1e6:.2f} MB" for n, s in about["domains"].items()),
    }
