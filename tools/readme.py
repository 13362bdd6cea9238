"""Put measured numbers into README.md and docs/benchmarks.md: tables and picture come from the files of docs/evidence/.

python tools/readme.py            rewrite the parts between the markers, and docs/quickstart.svg
python tools/readme.py --check    exit with 1 where a page or the picture differs from the files
"""

from __future__ import annotations

import argparse
import html
import json
import statistics
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
EVIDENCE = ROOT / "docs" / "evidence"
PICTURE = ROOT / "docs" / "quickstart.svg"
SORTS = {
    "unknown name": "about a name that is not there",
    "not stated": "about what the documentation of a name leaves open",
    "off topic": "about something else altogether",
}
BENCHMARKS = (
    "tokenizer", "training", "scan", "attention", "decode", "quantize", "retrieve", "ngram", "extract", "filter",
    "dedup", "build", "evaluate", "sandbox", "adapt", "align", "constrain", "reason", "decoding", "serve",
    "retrieve_large",
)  # fmt: skip
SHOWN = (  # the rows of README.md
    "bpe-train-32k", "bpe-encode", "unigram-train", "train-bf16", "ngram-query", "bm25-query", "extract-f1",
    "dedup-minhash",
)  # fmt: skip
UNLIKE = {  # rows whose two sides do not compute the same, and how they differ
    "hf-b1": "ours Q8_0, theirs float32",
    "window-16k": "ours with a window of 512 keys, theirs with all keys",
}
MADE_BY = {"large-query": "large-index"}  # rows of another row's measurement
HEAD = ["| | ours | theirs | ratio | command |", "|---|---|---|---|---|"]


def runs() -> list[dict[str, Any]]:
    """The quickstart runs that are kept, one a seed."""
    return [json.loads(path.read_text("utf-8")) for path in sorted((EVIDENCE / "quickstart").glob("seed-*.json"))]


def spread(values: list[float]) -> str:
    """The mean, and the range where there are several."""
    mean = statistics.mean(values)
    return f"{mean:.3f} ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 else f"{mean:.3f}"


def quickstart_table(found: list[dict[str, Any]]) -> list[str]:
    lines = [
        f"The quickstart at its default budget, {_seeds(len(found))}; `llmanac run quickstart --seed N`:",
        "",
        "| on held-out modules | |",
        "|---|---|",
    ]
    names = sorted(found[0]["bits_per_byte"], key=lambda name: statistics.mean(r["bits_per_byte"][name] for r in found))
    for name in names:
        lines.append(f"| bits per byte, {name} | {spread([r['bits_per_byte'][name] for r in found])} |")
    for name in found[0]["answers"]["scores"]:
        lines.append(f"| answers, F1, {name} | {spread([r['answers']['scores'][name]['f1'] for r in found])} |")
    lines.append(f"| refused of questions that can be answered | {_refused(found, 'refused_answerable')} |")
    lines.append(f"| refused of questions that cannot be answered | {_refused(found, 'refused_unanswerable')} |")
    for sort in found[0]["answers"]["refused"]:
        lines.append(f"| ... {SORTS[sort]} | {spread([r['answers']['refused'][sort] for r in found])} |")
    return lines


def _refused(found: list[dict[str, Any]], key: str) -> str:
    return spread([r["answers"][key] for r in found])


def _seeds(count: int) -> str:
    return f"{count} seeds, mean (lowest to highest)" if count > 1 else "one seed"


def benchmarks() -> list[dict[str, Any]]:
    """The benchmark results that are kept, one document a subject."""
    paths = [EVIDENCE / "benchmarks" / f"{name}.json" for name in BENCHMARKS]
    return [json.loads(path.read_text("utf-8")) for path in paths if path.is_file()]


def benchmark_rows(found: list[dict[str, Any]]) -> dict[str, str]:
    """A row of the table for each result, by name."""
    lines = {}
    for document in found:
        for row in document["results"]:
            name = row["name"]
            theirs = "not installed" if row["theirs"] is None else f"{row['theirs']:.4g} {row['unit']}"
            ours = f"{row['ours']:.4g} {row['unit']}"
            only = "extract-f1-sets" if name.startswith("extract-f1-") else MADE_BY.get(name, name)
            command = f"`python benchmarks/{document['benchmark']}.py --only {only}`"
            shown = f"{name} ({UNLIKE[name]})" if name in UNLIKE else name
            peer = "" if row["peer"] == "none" else f"{row['peer']}: {theirs}"
            lines[name] = f"| {shown} | {ours} | {peer} | {ratio(row)} | {command} |"
    return lines


def ratio(row: dict[str, Any]) -> str:
    """With the interval of the difference, or the ratio with one allocator for both, where the result has them."""
    found = row.get("ratio")
    if found is None:
        return ""
    more = row.get("more", {})
    if "ours_minus_trafilatura" in more:
        low, high = more["ours_minus_trafilatura"]
        said = "no difference shown" if low <= 0 <= high else f"{found:.2f}"
        return f"{said} (95% of the difference: {low:+.4f} to {high:+.4f})"
    same = more.get("ratio_with_our_allocator_for_both")
    return f"{found:.2f}" + ("" if same is None else f"; with our allocator for both {same:.2f}")


def slower(found: list[dict[str, Any]]) -> str:
    """The results where the peer is better."""
    rows = [row for document in found for row in document["results"] if (row.get("ratio") or 1) < 1]
    return ", ".join(f"{row['name']} ({row['ratio']:.2f})" for row in rows)


def benchmark_table(found: list[dict[str, Any]]) -> list[str]:
    machines = sorted({f"{document['machine']['cpu']} ({document['machine']['isa']})" for document in found})
    return [f"Ours and the peer in the same run, on {', '.join(machines)}:", "", *HEAD, *benchmark_rows(found).values()]


def machine_line(found: list[dict[str, Any]]) -> str:
    machine = found[0]["machine"]
    return (
        f"Measured on {machine['cpu']}, {machine['cores']} cores ({machine['isa']}), torch {machine['torch']}, Python "
        f"{machine['python']}; a ratio above 1 means ours is better."
    )


def pictured(found: list[dict[str, Any]]) -> tuple[dict[str, float], dict[str, float]]:
    """Mean bits per byte and mean F1, by name: what the picture shows."""
    scores = {k: statistics.mean(r["bits_per_byte"][k] for r in found) for k in found[0]["bits_per_byte"]}
    ways = found[0]["answers"]["scores"]
    return scores, {k: statistics.mean(r["answers"]["scores"][k]["f1"] for r in found) for k in ways}


def described(found: list[dict[str, Any]]) -> str:
    """The picture's numbers in words; it carries them, so that a picture of other runs is noticed."""
    return "; ".join(f"{name} {value:.3f}" for part in pictured(found) for name, value in part.items())


def picture(found: list[dict[str, Any]]) -> None:
    """Bits per byte and F1 of the runs, as one SVG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from llmanac.recipes.report_figures import draw_bars

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.1))
    scores, answers = pictured(found)
    best_first = dict(sorted(scores.items(), key=lambda item: item[1]))
    draw_bars(left, best_first, "bits per byte, held-out modules (lower is better)", "this model")
    draw_bars(right, answers, "answers: F1, unseen question forms", next(iter(answers)))
    figure.tight_layout()
    matplotlib.rcParams["svg.hashsalt"] = "llmanac"
    figure.savefig(PICTURE, metadata={"Date": None, "Description": described(found)})


def filled() -> dict[Path, str]:
    """The pages with their marked parts made from the files."""
    found, measured = runs(), benchmarks()
    rows = benchmark_rows(measured)
    parts = {
        "README.md": [*HEAD, *(rows[name] for name in SHOWN), "", f"Ratios below 1: {slower(measured)}."],
        "docs/benchmarks.md": [machine_line(found), "", *quickstart_table(found), "", *benchmark_table(measured)],
    }
    pages = {}
    for name, lines in parts.items():
        body = "\n".join(["<!-- measured -->", *lines, "<!-- /measured -->"])
        head, _, rest = (ROOT / name).read_text("utf-8").partition("<!-- measured -->")
        pages[ROOT / name] = head + body + rest.partition("<!-- /measured -->")[2]
    return pages


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    pages = filled()
    if check:
        wrong = [path.name for path, text in pages.items() if path.read_text("utf-8") != text]
        wrong += [PICTURE.name] if described(runs()) not in html.unescape(PICTURE.read_text("utf-8")) else []
        if wrong:
            print(f"{', '.join(wrong)}: not what docs/evidence/ says; run python tools/readme.py", file=sys.stderr)
        return int(bool(wrong))
    for path, text in pages.items():
        path.write_text(text, "utf-8")
    picture(runs())
    return 0


if __name__ == "__main__":
    sys.exit(main())
