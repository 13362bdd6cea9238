"""What a run of `specialize` leaves for people and other programs: scores, a page, a model card, a Modelfile."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmanac.core import files
from llmanac.core.errors import TokenizerError
from llmanac.core.pages import Section, render_template, table
from llmanac.recipes.report import made_on, run_page
from llmanac.recipes.verifying.answers import interval_of
from llmanac.recipes.verifying.page import HEAD, cells
from llmanac.tokenizers.load import load_tokenizer

ASKED = 300  # held-out prompts, at most
CARD = Path(__file__).with_name("templates") / "SPECIALIST.md"
SHOWN = 8  # answers on the page
SYSTEM, USER, ANSWER = "\N{SNOWMAN}s", "\N{SNOWMAN}u", "\N{SNOWMAN}a"  # found again in what a template makes of them
LEAD = (
    "A model tuned on rows, exported, and compared with its exports. The rows that are asked were not trained on; "
    "an answer is right where its text is the row's."
)


def scores(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The share of right answers before and after, with the interval of the paired change; None without answers."""
    pairs = [(a["right"], b["right"]) for a, b in zip(before, after, strict=True) if b["right"] is not None]
    examples = [
        {"prompt": a["prompt"], "gold": a["gold"], "before": a["answer"], "after": b["answer"]}
        for a, b in zip(before, after, strict=True)
    ][:SHOWN]
    if not pairs:
        return {"rows": len(after), "before": None, "after": None, "change": None, "examples": examples}
    old, new = (sum(column) / len(pairs) for column in zip(*pairs, strict=True))
    change = interval_of([float(b) - float(a) for a, b in pairs])
    return {
        "rows": len(pairs), "before": old, "after": new, "change": [change.mean, change.low, change.high],
        "examples": examples,
    }  # fmt: skip


def commands(exports: Sequence[Path]) -> list[str]:
    """What to do with the exports."""
    first = exports[0]
    where = shlex.quote(str(first))
    create = shlex.join(["ollama", "create", "specialist", "-f", str(first.with_name("Modelfile"))])
    return [f"llmanac serve {where}", f"llmanac chat {where}", create]


def write_pages(place: Path, results: Mapping[str, Any], exports: Sequence[Path]) -> None:
    """`report.html`, `MODEL_CARD.md` and `Modelfile`."""
    files.write_text(place / "Modelfile", modelfile(load_tokenizer(place / "merged"), exports[0].name))
    files.write_text(place / "MODEL_CARD.md", render_template(CARD, **results) + "\n")
    subtitle = (
        f"Seed {results['seed']}, {results['recipe']['model']} on {results['recipe']['data']}; {made_on(dict(results))}"
    )
    files.write_text(place / "report.html", run_page(results, subtitle, LEAD, sections(results)))


def sections(results: Mapping[str, Any]) -> list[Section | None]:
    """Of the page: scores, exports, the sweep, rows, answers, seconds."""
    tuned, asked, sweep = results["tuned"], results["asked"], results["sweep"]
    held = tuned["held_out"]
    numbers: list[list[str]] = []
    if asked["change"] is not None:
        mean, low, high = asked["change"]
        numbers.append(["right answers", f"{asked['before']:.3f}", f"{asked['after']:.3f}",
                        f"{mean:+.3f} ({low:+.3f} to {high:+.3f})"])  # fmt: skip
    if held is not None:
        change = held["change"]
        said = "" if change is None else f"{change['mean']:+.4f} ({change['low']:+.4f} to {change['high']:+.4f})"
        numbers.append([held["measures"], f"{held['before']:.4f}", f"{held['after']:.4f}", said])
    arms = [
        [f"{arm['rate']:g}", arm["rank"], f"{arm['loss']:.4f}", _change(arm["change"])]
        for arm in (sweep or {"arms": ()})["arms"]
    ]
    examples = [f"{_shown(one['prompt'])}\n  row:    {one['gold']}\n  before: {one['before']}\n  after:  {one['after']}"
                for one in asked["examples"]]  # fmt: skip
    times = [[stage, f"{spent:.1f}"] for stage, spent in results["seconds"].items()]
    ended = (
        " Ended early: the loss of held-out rows had stopped falling; the best is kept."
        if results["stopped_early"]
        else ""
    )
    return [
        Section("Before and after", [f"{asked['rows']} rows were asked; tuned for {tuned['steps']} steps.{ended}"],
                [table(["", "before", "after", "change, 95%"], numbers)]),
        Section("The exports", tables=[table(HEAD, [cells(one) for one in results["verified"]])]),
        Section("Rate and rank", [sweep["taken"]["why"]], [table(["rate", "rank", "loss", "change, 95%"], arms)])
        if sweep else None,
        Section("The rows", [f"{one['name']}: {one['said']}" for one in results["lint"]], [
            table(["", ""], [[name, count] for name, count in tuned["rows"].items()])]),
        Section("Answers", blocks=examples),
        Section("Where the time went", tables=[table(["stage", "seconds"], times)]),
    ]  # fmt: skip


def _change(change: Sequence[float] | None) -> str:
    return "" if change is None or math.isnan(change[0]) else f"{change[0]:+.4f} ({change[1]:+.4f} to {change[2]:+.4f})"


def _shown(prompt: Any) -> str:
    return prompt if isinstance(prompt, str) else "\n".join(f"{one['role']}: {one['content']}" for one in prompt)


def modelfile(tokenizer: Any, name: str) -> str:
    """Ollama's Modelfile of an export, with the chat template in Go's form, as the tokenizer's own renders a turn."""
    lines = [f"FROM ./{name}", "PARAMETER temperature 0"]
    bos = "" if tokenizer.bos_id is None else tokenizer.decode([tokenizer.bos_id])
    user, answer = {"role": "user", "content": USER}, {"role": "assistant", "content": ANSWER}
    try:
        plain = tokenizer.render_chat([user], add_generation_prompt=True).removeprefix(bos)
        whole = tokenizer.render_chat([user, answer]).removeprefix(bos)
    except TokenizerError:  # no template: texts are continued
        return "\n".join([*lines, 'TEMPLATE """{{ .Prompt }}"""', ""])
    before, _, between = plain.partition(USER)
    try:
        told = tokenizer.render_chat([{"role": "system", "content": SYSTEM}, user], add_generation_prompt=True)
        opening, _, rest = told.removeprefix(bos).partition(SYSTEM)
        middle = rest.partition(USER)[0]
        before = f"{{{{ if .System }}}}{opening}{{{{ .System }}}}{middle}{{{{ else }}}}{before}{{{{ end }}}}"
    except TokenizerError:  # the template has no place for a system turn
        pass
    end = whole.partition(ANSWER)[2]
    stop = end.strip()
    lines.append(f'TEMPLATE """{before}{{{{ .Prompt }}}}{between}{{{{ .Response }}}}{end}"""')
    return "\n".join([*lines, *([f"PARAMETER stop {stop!r}".replace("'", '"')] if stop else []), ""])
