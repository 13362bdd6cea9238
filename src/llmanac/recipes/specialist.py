"""What a run of `specialize` leaves for people and other programs: scores, a page, a model card, a Modelfile."""

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmanac.core import files
from llmanac.core.pages import Section, render_template, table
from llmanac.models.card import write_card
from llmanac.recipes.report import made_on, run_page
from llmanac.recipes.verifying.page import HEAD, cells
from llmanac.recipes.verifying.sides import tried
from llmanac.tokenizers.load import load_tokenizer

CARD = Path(__file__).with_name("templates") / "SPECIALIST.md"
SENT = {role: f"\N{SNOWMAN}{role}" for role in ("system", "user", "assistant")}  # found again in what templates make
LEAD = "A model that was tuned, and its exports. An answer is right where its text is that of a row, none trained on."


def commands(exports: Sequence[Path]) -> list[str]:
    """What to do with the exports."""
    where, modelfile = (shlex.quote(str(path)) for path in (exports[0], exports[0].with_name("Modelfile")))
    return [f"llmanac serve {where}", f"llmanac chat {where}", f"ollama create specialist -f {modelfile}"]


def write_pages(place: Path, results: Mapping[str, Any], exports: Sequence[Path]) -> None:
    """`report.html`, `merged/README.md` and `Modelfile`."""
    files.write_text(place / "Modelfile", modelfile(load_tokenizer(place / "merged"), exports[0].name))
    asked = results["asked"]
    scores = [("held-out rows", "accuracy", asked["scores"][0])] if asked["score"] is not None else []
    write_card(place / "merged", render_template(CARD, **results), scores=scores)
    subtitle = f"{results['recipe']['model']} on {results['recipe']['data']}; {made_on(dict(results))}"
    files.write_text(place / "report.html", run_page(results, subtitle, LEAD, sections(results)))


def sections(results: Mapping[str, Any]) -> list[Section | None]:
    """Of the page: scores, exports, the sweep, rows, answers, seconds."""
    tuned, asked, sweep = results["tuned"], results["asked"], results["sweep"]
    held = tuned["held_out"]
    numbers: list[list[str]] = []
    if asked["score"] is not None:
        after, before = asked["scores"]
        mean, low, high = asked["score"]
        numbers.append(["right answers", f"{before:.3f}", f"{after:.3f}", _change([0 - mean, 0 - high, 0 - low])])
    if held is not None:
        change = held["change"] and [held["change"][end] for end in ("mean", "low", "high")]
        numbers.append([held["measures"], f"{held['before']:.4f}", f"{held['after']:.4f}", _change(change)])
    arms = [[*(f"{arm[key]:.4g}" for key in ("rate", "rank", "loss")), _change(arm["change"])]
            for arm in (sweep or {}).get("arms", ())]  # fmt: skip
    times = [[stage, f"{spent:.1f}"] for stage, spent in results["seconds"].items()]
    ended = "; ended early, with the best loss of held-out rows" if results["stopped_early"] else ""
    example = [
        f"{who}: {text}" for who, text in zip(("asked", "after", "before"), asked["example"] or (), strict=False)
    ]
    return [
        Section("Before and after", [f"{asked['prompts']} rows were asked for {asked['length']} tokens at most.",
                                     f"Tuned for {tuned['steps']} steps{ended}."],
                [table(["", "before", "after", "change, 95%"], numbers)]),
        Section("The exports", tables=[table(HEAD, [cells(one) for one in results["verified"]])]),
        Section("Rate and rank", [sweep["taken"]["why"]], [table(["rate", "rank", "loss", "change, 95%"], arms)])
        if sweep else None,
        Section("The rows", [f"{one['name']}: {one['said']}" for one in results["lint"]], [
            table(["", ""], [[name, count] for name, count in tuned["rows"].items()])]),
        Section("An answer", blocks=["\n".join(example)]),
        Section("Where the time went", tables=[table(["stage", "seconds"], times)]),
    ]  # fmt: skip


def _change(change: Sequence[float] | None) -> str:
    return "" if change is None or math.isnan(change[0]) else f"{change[0]:+.4f} ({change[1]:+.4f} to {change[2]:+.4f})"


def modelfile(tokenizer: Any, name: str) -> str:
    """Ollama's Modelfile of an export, with the chat template in Go's form, as the tokenizer's own renders a turn."""
    lines = [f"FROM ./{name}", "PARAMETER temperature 0"]
    bos = "" if tokenizer.bos_id is None else tokenizer.decode([tokenizer.bos_id])
    render = tokenizer.render_chat
    told, user, answer = ({"role": role, "content": text} for role, text in SENT.items())
    plain, with_system = (tried(render, turns, add_generation_prompt=True) for turns in ([user], [told, user]))
    if plain is None:  # no template: texts are continued
        return "\n".join([*lines, 'TEMPLATE """{{ .Prompt }}"""', ""])
    before, _, between = plain.removeprefix(bos).partition(SENT["user"])
    if with_system is not None:
        opening, _, rest = with_system.removeprefix(bos).partition(SENT["system"])
        middle = rest.partition(SENT["user"])[0]
        before = f"{{{{ if .System }}}}{opening}{{{{ .System }}}}{middle}{{{{ else }}}}{before}{{{{ end }}}}"
    end = render([user, answer]).partition(SENT["assistant"])[2]
    lines.append(f'TEMPLATE """{before}{{{{ .Prompt }}}}{between}{{{{ .Response }}}}{end}"""')
    return "\n".join([*lines, *([f'PARAMETER stop "{end.strip()}"'] if end.strip() else []), ""])
