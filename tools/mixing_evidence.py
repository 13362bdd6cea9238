"""How the loss of each domain changes with the mixture: docs/evidence/mixing/.

    python tools/mixing_evidence.py [--steps 160] [--seeds 3] [--folder studies/mixing]

Three domains of real text that this machine has: the documentation of the Python standard library, its source code,
and the message catalogues of Django in eight European languages (`pip install 'llmanac[bench]'`). One small model a
mixture and seed, the same number of tokens each, scored on held-out text of every domain. A run that was stopped goes
on; what is finished is kept in the folder.
"""

from __future__ import annotations

import argparse
import dataclasses
import gettext
import importlib.util
import json
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmanac.core import files
from llmanac.core.device import machine
from llmanac.core.errors import DataError
from llmanac.core.spec import make_method
from llmanac.data.clean import clean
from llmanac.data.dedup import drop_duplicates
from llmanac.data.documents import Document
from llmanac.lab._svg import COLOURS
from llmanac.recipes.mixing import Domains, Setting, doremi, train_on

ROOT = Path(__file__).resolve().parent.parent
LANGUAGES = ("de", "fr", "es", "it", "nl", "pt_BR", "sv", "pl")


def messages() -> Iterator[Document]:
    """One document a catalogue: its translated messages, a line or more each."""
    found = importlib.util.find_spec("django")
    if found is None or not found.submodule_search_locations:
        raise DataError("django is not installed, whose message catalogues are a domain; pip install 'llmanac[bench]'")
    for path in sorted(Path(found.submodule_search_locations[0]).rglob("*.mo")):
        language = path.parts[-3]
        if language not in LANGUAGES:
            continue
        with open(path, "rb") as handle:
            catalogue = gettext.GNUTranslations(handle)._catalog  # type: ignore[attr-defined]
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


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=ROOT / "studies" / "mixing")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "evidence" / "mixing")
    given = parser.parse_args(arguments)
    setting = Setting(steps=given.steps)
    data = Domains.prepare(domains(), given.folder, setting)
    results: list[dict[str, Any]] = []
    for seed in range(given.seeds):
        learned = given.folder / f"doremi-{seed}.json"
        if not learned.exists():
            files.write_json(learned, doremi(data, setting, given.folder / f"doremi-{seed}", seed=seed))
        for name, weights in mixtures(data, files.read_json(learned)).items():
            mark = given.folder / f"{name.replace(' ', '-')}-{seed}.json"
            if not mark.exists():
                model = train_on(data, weights, setting, mark.with_suffix(""), seed=seed, label=f"{name}, seed {seed}")
                files.write_json(mark, {"mixture": name, "seed": seed, "weights": weights, "bits": data.losses(model)})
            results.append(files.read_json(mark))
            print(json.dumps(results[-1]), flush=True)
    sizes = {name: dataclasses.asdict(size) for name, size in data.sizes.items()}
    parameters = sum(p.numel() for p in setting.model(data.tokenizer.vocab_size).parameters())
    about = {"setting": dataclasses.asdict(setting), "parameters": parameters, "domains": sizes, "machine": machine()}
    files.write_json(given.out / "results.json", {**about, "results": results})
    files.write_text(given.out / "loss.svg", picture(results))
    files.write_text(given.out / "README.md", page(about, results, "python tools/mixing_evidence.py"))
    return 0


def table(results: list[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """Bits per byte by mixture and domain, one value a seed; `mean` is over the domains."""
    found: dict[str, dict[str, list[float]]] = {}
    for result in results:
        row = found.setdefault(result["mixture"], {})
        for name, value in {**result["bits"], "mean": statistics.mean(result["bits"].values())}.items():
            row.setdefault(name, []).append(value)
    return found


def page(about: dict[str, Any], results: list[dict[str, Any]], command: str) -> str:
    found, names = table(results), [*about["domains"], "mean"]
    seeds = len({result["seed"] for result in results})
    tokens = about["setting"]["steps"] * about["setting"]["batch_tokens"]
    sizes = ", ".join(f"{n} {s['bytes'] / 1e6:.2f} MB" for n, s in about["domains"].items())
    lines = [
        "# The ratio of domains changes the loss of each",
        "",
        f"`{command}` made this page. One model of {about['parameters'] / 1e6:.2f} M parameters a mixture and seed, "
        f"{tokens / 1e6:.2f} M tokens each, {seeds} seeds; rows of the domains in exact proportion "
        "(`data/proportional.py`). "
        f"Training text: {sizes}. Scored: held-out text of each domain (other modules, other catalogues).",
        "",
        "Bits per byte, mean over the seeds and, after ±, their standard deviation. Lower is better.",
        "",
        "| mixture | shares (" + ", ".join(about["domains"]) + ") | " + " | ".join(names) + " |",
        "|---|---|" + "---|" * len(names),
    ]
    for mixture, row in found.items():
        weights = [r["weights"] for r in results if r["mixture"] == mixture]
        shares = ", ".join(f"{statistics.mean(w[n] for w in weights):.2f}" for n in about["domains"])
        cells = [f"{statistics.mean(row[n]):.3f} ± {statistics.stdev(row[n]) if seeds > 1 else 0:.3f}" for n in names]
        lines.append(f"| {mixture} | {shares} | " + " | ".join(cells) + " |")
    lines += ["", "![loss by mixture](loss.svg)", "", *findings(found, about), ""]
    return "\n".join(lines)


def findings(found: dict[str, dict[str, list[float]]], about: dict[str, Any]) -> list[str]:
    """What the numbers say, computed from them."""
    means = {mixture: {n: statistics.mean(v) for n, v in row.items()} for mixture, row in found.items()}
    out = []
    for name in about["domains"]:
        order = sorted(means, key=lambda mixture: means[mixture][name])
        best, worst = order[0], order[-1]
        out.append(
            f"- {name}: from {means[best][name]:.3f} ({best}) to {means[worst][name]:.3f} ({worst}), "
            f"{(means[worst][name] / means[best][name] - 1):.0%} apart."
        )
    order = sorted(means, key=lambda mixture: means[mixture]["mean"])
    out.append("- Mean over the domains, best first: " + ", ".join(f"{m} {means[m]['mean']:.3f}" for m in order) + ".")
    learned, even = found.get("DoReMi", {}).get("mean", []), found.get("uniform", {}).get("mean", [])
    if learned and even:
        wins = sum(a < b for a, b in zip(learned, even, strict=True))
        gap = statistics.mean(a - b for a, b in zip(learned, even, strict=True))
        out.append(
            f"- DoReMi against uniform, mean over the domains: {gap:+.3f}, lower in {wins} of {len(even)} seeds."
        )
        if gap > 0:
            out.append(
                "- This contradicts what DoReMi is for. Its reference learns from the domains as large as they are, "
                "its proxy from equally many rows of each, so that in so short a run the excess loss is largest where "
                "the proxy sees less than the reference did: in the largest domain, which needs it least. That is our "
                "reading of the weights, not something these runs isolate; the paper's are of 280 M parameters, 22 "
                "domains and 200,000 steps."
            )
    return out


def picture(results: list[dict[str, Any]]) -> str:
    """A row a mixture, a dot a seed and domain."""
    found = table(results)
    names = [name for name in next(iter(found.values())) if name != "mean"]
    values = [v for row in found.values() for n in names for v in row[n]]
    low, high = min(values), max(values)
    width, left, step = 720, 150, 28

    def x(value: float) -> float:
        return left + (value - low) / (high - low) * (width - left - 40)

    parts = []
    for place, (mixture, row) in enumerate(found.items()):
        y = 44 + place * step
        parts.append(f'<text x="{left - 14}" y="{y + 4}" text-anchor="end">{mixture}</text>')
        parts.append(f'<line x1="{left}" y1="{y}" x2="{width - 30}" y2="{y}" stroke="#ddd"/>')
        for k, name in enumerate(names):
            parts += [f'<circle cx="{x(v):.1f}" cy="{y}" r="4" fill="{COLOURS[k]}" opacity="0.7"/>' for v in row[name]]
    for k, name in enumerate(names):
        parts.append(f'<circle cx="{left + 110 * k}" cy="16" r="4" fill="{COLOURS[k]}"/>')
        parts.append(f'<text x="{left + 110 * k + 9}" y="20">{name}</text>')
    bottom = 44 + len(found) * step
    parts.append(f'<text x="{left}" y="{bottom + 8}">{low:.2f}</text>')
    parts.append(f'<text x="{width - 30}" y="{bottom + 8}" text-anchor="end">{high:.2f} bits per byte</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {bottom + 16}" font-family="sans-serif" '
        'font-size="12">\n<rect width="100%" height="100%" fill="white"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


if __name__ == "__main__":
    sys.exit(main())
