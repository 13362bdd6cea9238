"""Put the quickstart's numbers into docs/benchmarks.md, and its picture into README.md, from docs/evidence/quickstart/.

python tools/readme.py            rewrite the part between the markers, and docs/quickstart.svg
python tools/readme.py --check    exit with 1 where the page or the picture differs from the files
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
NEAR = "retrieved, with near misses"
MARKS = "<!-- quickstart -->", "<!-- /quickstart -->"


def runs() -> list[dict[str, Any]]:
    """The quickstart runs that are shown, one a seed: those on the machine and the questions of the newest one."""
    every = kept()
    return [run for run in every if _kind(run) == _kind(every[-1])]


def _kind(run: dict[str, Any]) -> tuple[Any, ...]:
    return run["machine"]["cpu"], *run["answers"]["scores"]


def kept() -> list[dict[str, Any]]:
    """All quickstart runs that are kept."""
    return [json.loads(path.read_text("utf-8")) for path in sorted((EVIDENCE / "quickstart").glob("seed-*.json"))]


def earlier(shown: list[dict[str, Any]]) -> list[str]:
    """A line about the runs of earlier recipes, whose questions were others."""
    others = [run for run in kept() if run not in shown and NEAR in run["answers"]["scores"]]
    if not others:
        return []
    bits = statistics.mean(run["bits_per_byte"]["this model"] for run in others)
    f1 = statistics.mean(run["answers"]["scores"][NEAR]["f1"] for run in others)
    refused = statistics.mean(run["answers"]["refused_unanswerable"] for run in others)
    words = f"{bits:.3f} bits per byte, F1 {f1:.3f}, refused {refused:.3f} of what cannot be answered"
    return ["", f"Earlier, with earlier recipes and easier questions, mean of {len(others)} seeds: {words}."]


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
    return lines


def _refused(found: list[dict[str, Any]], key: str) -> str:
    return spread([r["answers"][key] for r in found])


def _seeds(count: int) -> str:
    return f"{count} seeds, mean (lowest to highest)" if count > 1 else "one seed"


def machine_line(found: list[dict[str, Any]]) -> str:
    machine = found[0]["machine"]
    return (
        f"Measured on {machine['cpu']}, {machine['cores']} cores ({machine['isa']}), torch {machine['torch']}, Python "
        f"{machine['python']}."
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
    from llmanac.recipes.report import score_bars

    scores, answers = pictured(found)
    best_first = dict(sorted(scores.items(), key=lambda item: item[1]))
    made = score_bars(best_first, described(found), answers, "answers: F1, unseen question forms (higher is better)")
    PICTURE.write_text(made.svg, "utf-8")


def filled() -> tuple[Path, str]:
    """The page of benchmarks with its part about the quickstart made from the files."""
    path, found = ROOT / "docs" / "benchmarks.md", runs()
    body = "\n".join([MARKS[0], machine_line(found), "", *quickstart_table(found), *earlier(found), MARKS[1]])
    head, _, rest = path.read_text("utf-8").partition(MARKS[0])
    return path, head + body + rest.partition(MARKS[1])[2]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    path, text = filled()
    if check:
        wrong = [path.name] if path.read_text("utf-8") != text else []
        wrong += [PICTURE.name] if described(runs()) not in html.unescape(PICTURE.read_text("utf-8")) else []
        if wrong:
            print(f"{', '.join(wrong)}: not what docs/evidence/ says; run python tools/readme.py", file=sys.stderr)
        return int(bool(wrong))
    path.write_text(text, "utf-8")
    picture(runs())
    return 0


if __name__ == "__main__":
    sys.exit(main())
