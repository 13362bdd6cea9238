"""Make docs/evidence/extraction/: F1 of the extractors on marked pages, and how much planted structure they recover.

python tools/evidence_extraction.py          # needs the [test] extra, and the pages (LLMANAC_SHARED_DATA)
"""

# ruff: noqa: E501 (the page's lines stand here as they are written there)
from __future__ import annotations

import itertools
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tests")]
from _pages import pages  # noqa: E402
from _planted import page_of, planted  # noqa: E402
from extract import extractors, text_of  # noqa: E402

from llmanac.core.files import write_json, write_text  # noqa: E402
from llmanac.core.registry import build  # noqa: E402
from llmanac.data.extractors import _content, _tags  # noqa: E402
from llmanac.data.extractors._score import Match, match, score  # noqa: E402

FOLDER = ROOT / "docs" / "evidence" / "extraction"
FOLDS, DRAWS, ARTICLES = 7, 2000, 300
GRID = {"KEEP": (0.7, 0.8, 0.9), "SHORT": (40, 70, 100), "AROUND_SHARE": (0.25, 0.35, 0.5)}
KINDS = ("heading", "paragraph", "list", "table", "code")


def all_text(page: str) -> str:
    """The text of a page without any choice."""
    import lxml.html

    root = lxml.html.document_fromstring(page.encode("utf-8"), parser=lxml.html.HTMLParser(encoding="utf-8"))
    for element in root.xpath("//script|//style|//noscript"):
        element.drop_tree()
    return str(root.text_content())


def matches_of(extract: Callable[[str], str]) -> list[Match]:
    return [match(marked, extract(page)) for page, marked in pages().values()]


def interval(matches: Sequence[Match], other: Sequence[Match] | None = None) -> tuple[float, float]:
    """95% bootstrap interval over pages of F1, or of the difference to another's F1 on the same pages."""
    rng = np.random.Generator(np.random.PCG64(0))
    values = []
    for _ in range(DRAWS):
        drawn = rng.integers(0, len(matches), len(matches))
        value = score([matches[i] for i in drawn]).f1
        values.append(value - score([other[i] for i in drawn]).f1 if other else value)
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def ours_with(**settings: float) -> list[Match]:
    """Our extractor with other thresholds."""
    before = {name: getattr(_content, name) for name in settings}
    try:
        for name, value in settings.items():
            setattr(_content, name, value)
        extractor = build("extractor", "structured")
        return matches_of(lambda page: text_of(extractor, page))
    finally:
        for name, value in before.items():
            setattr(_content, name, value)


def cross_validated() -> tuple[float, dict[str, float], float]:
    """F1 where each fold's pages are extracted with the thresholds that are best on the others; the grid's range too."""
    settings = [dict(zip(GRID, values, strict=True)) for values in itertools.product(*GRID.values())]
    found = [ours_with(**one) for one in settings]
    count = len(found[0])
    chosen: list[Match] = [Match(0, 0, 0)] * count
    for fold in range(FOLDS):
        held = [i for i in range(count) if i % FOLDS == fold]
        rest = [i for i in range(count) if i % FOLDS != fold]
        best = max(range(len(found)), key=lambda at: score([found[at][i] for i in rest]).f1)
        for i in held:
            chosen[i] = found[best][i]
    every = [score(one).f1 for one in found]
    return score(chosen).f1, {"lowest": min(every), "highest": max(every)}, score(ours_with()).f1


def without_class_names() -> float:
    """F1 when what sites call their elements is not looked at."""
    before = _content.is_around
    try:
        _content.is_around = lambda names: False
        _tags._cache.clear()
        extractor = build("extractor", "structured")
        return score(matches_of(lambda page: text_of(extractor, page))).f1
    finally:
        _content.is_around = before


def plain(text: str) -> str:
    """Markdown in one spelling: how wide a rule or a fence is and how an item is indented does not matter."""
    lines = []
    for line in text.split("\n"):
        line = " ".join(line.split())
        if re.fullmatch(r"[|\s:-]*-[|\s:-]*", line) and "|" in line:
            continue
        line = re.sub(r"^`{3,}.*", "```", line)
        lines.append(re.sub(r"\s*\|\s*", "|", line))
    return "\n" + "\n".join(line for line in lines if line) + "\n"


def recovery() -> dict[str, dict[str, float]]:
    """For each extractor, the share of planted parts of each kind that its Markdown holds."""
    out: dict[str, dict[str, float]] = {}
    for name in ("structured", "trafilatura", "resiliparse"):
        extractor = build("extractor", name)
        total, exact, spelled = dict.fromkeys(KINDS, 0), dict.fromkeys(KINDS, 0), dict.fromkeys(KINDS, 0)
        whole = 0
        for seed in range(1000, 1000 + ARTICLES):
            parts = planted(seed)
            found = text_of(extractor, page_of(parts))
            easy = plain(found)
            whole += found == "\n\n".join(part.expected for part in parts)
            for part in parts:
                total[part.kind] += 1
                exact[part.kind] += f"\n{part.expected}\n" in f"\n{found}\n"
                spelled[part.kind] += plain(part.expected) in easy
        out[name] = {f"{kind}_exact": exact[kind] / total[kind] for kind in KINDS}
        out[name] |= {f"{kind}_any_spelling": spelled[kind] / total[kind] for kind in KINDS}
        out[name]["whole_article_exact"] = whole / ARTICLES
    return out


def main() -> None:
    if not pages():
        raise SystemExit("the marked pages are not there; set LLMANAC_SHARED_DATA to the folder that has extraction/")
    every = {**extractors(), "all text of the page": all_text}
    found = {name: matches_of(extract) for name, extract in every.items()}
    rows = {}
    for name, extractor in every.items():
        matches = found[name]
        one = score(matches)
        rows[name] = {"f1": one.f1, "precision": one.precision, "recall": one.recall, "interval": interval(matches)}
        if name != "structured":
            rows[name]["ours_minus_it"] = interval(found["structured"], matches)
        tokens = score(match(marked, extractor(page), 1) for page, marked in pages().values())
        rows[name] |= {"token_f1": tokens.f1}
    held_out, span, stated = cross_validated()
    results = {
        "pages": len(pages()), "extractors": rows, "recovery": recovery(), "articles": ARTICLES,
        "thresholds": {"stated": stated, "cross_validated": held_out, **span, "settings": 27, "folds": FOLDS},
        "without_class_names": without_class_names(),
    }  # fmt: skip
    FOLDER.mkdir(parents=True, exist_ok=True)
    write_json(FOLDER / "results.json", json.loads(json.dumps(results), parse_float=lambda v: round(float(v), 4)))
    write_text(FOLDER / "extraction.md", page(results))
    print(f"Written: {FOLDER / 'extraction.md'}")


def page(results: dict) -> str:
    """The page, from the numbers."""
    rows = results["extractors"]
    lines = [
        "# Extraction: boilerplate goes, structure stays", "",
        "    python tools/evidence_extraction.py", "",
        f"Scores on {results['pages']} pages of the article extraction benchmark (news, blogs, in several languages), whose",
        "article text a person marked: 4-shingles of words, precision and recall averaged over pages, F1 of the two means.",
        "The interval is a bootstrap over pages; `ours minus it` is the 95% interval of our F1 minus the row's, on the",
        "same pages. The last column counts single words in any order.", "",
        "| extractor | F1 | 95% interval | precision | recall | ours minus it | F1 of single words |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for name, row in rows.items():
        low, high = row["interval"]
        difference = row.get("ours_minus_it")
        last = f"{difference[0]:+.3f} to {difference[1]:+.3f}" if difference else ""
        shown = f"**{name}** (ours)" if name == "structured" else name
        lines.append(f"| {shown} | {row['f1']:.4f} | {low:.3f} to {high:.3f} | {row['precision']:.4f} "
                     f"| {row['recall']:.4f} | {last} | {row['token_f1']:.4f} |")  # fmt: skip
    t = results["thresholds"]
    lines += [
        "", "The rules (which class names mean navigation, what a teaser is) were written with these pages in view, so the",
        "figure is one of a training set as far as they go; the three thresholds were not fitted finely:", "",
        f"- all {t['settings']} settings of a 3x3x3 grid around them give F1 {t['lowest']:.4f} to {t['highest']:.4f}; "
        f"the stated one {t['stated']:.4f};",
        f"- with the best setting of the other folds, {t['folds']}-fold cross-validated: {t['cross_validated']:.4f};",
        f"- without looking at class names at all, by text and link density alone: {results['without_class_names']:.4f}.",
        "", "## Structure", "",
        f"{results['articles']} articles of planted parts (`tests/_planted.py`), each inside a site with navigation, share",
        "links, a sidebar, comments and a footer. A part counts as recovered when the output holds its Markdown as it",
        "stands, or (in brackets) in any spelling: other fences, rules and spacing. Resiliparse writes plain text, so only",
        "what looks the same in both can count for it.", "",
        "| extractor | " + " | ".join(KINDS) + " | whole article |", "| --- |" + " --- |" * (len(KINDS) + 1),
    ]  # fmt: skip
    for name, row in results["recovery"].items():
        cells = [f"{row[f'{kind}_exact']:.0%} ({row[f'{kind}_any_spelling']:.0%})" for kind in KINDS]
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {row['whole_article_exact']:.0%} |")
    best = max((n for n in rows if n not in ("structured", "all text of the page")), key=lambda n: rows[n]["f1"])
    low, high = rows[best]["ours_minus_it"]
    verdict = "above" if low > 0 else "below" if high < 0 else "not distinguishable on so few pages from"
    lines += [
        "", "## What this says of the claim", "",
        f"The claim is that extraction removes boilerplate and keeps structure. Taking all text of a page has precision "
        f"{rows['all text of the page']['precision']:.2f}; ours has {rows['structured']['precision']:.2f} at recall "
        f"{rows['structured']['recall']:.2f}, which is {verdict} {best}'s F1. The planted parts all come back from ours;",
        "they are clean HTML, and pages that abuse tables or lists for layout will do worse. What stays in is mostly what",
        "no rule can know: an agency's closing paragraph, a caption outside any figure.", "",
    ]  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    main()
