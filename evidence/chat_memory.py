"""Memory across chats: facts written, replaced and deleted, asked up to 200 chats later; and what a model takes down

A user has {subjects} things remembered over {chats} chats ("Remember favorite color: ..."), among other messages; three
in ten are written again with another value, and one in ten is forgotten ("Forget my favorite color."), without any
model. After every {step} chats each thing is asked for. The memory answers with the best recalled fact; of what was not
told it should recall nothing. "Window" is what a chat of the last {window} chats can know at most: the last statement,
if it is among them. It is read exactly, as no model would.

- The memory's answers are right for {first:.0%} of what was told after {step} chats and {last:.0%} after {chats}.
- The window alone holds {window_first:.0%} of it after {step} chats and {window_last:.0%} after {chats}.
- Store operations were exact at {exact} of {checks} checks: the facts in the file are those that hold.
{end_to_end}

People's own words are harder to recall: a question has other words than its fact. {others} facts of others and the
messages that tell something are the store. Its threshold comes from the facts themselves, and asks for one question in
twenty that recalls something though nothing of it was told.

- Of the lines that no rule was chosen on (even), {found_words} of the questions have their fact among the five of the
  prompt by words alone and {found} by MiniLM; where the fact was never told, {false_words} and {false} recall
  another, some of which are related. The odd lines were looked at when the threshold's rule was chosen; counts of the
  even ones were seen twice on the way, after which the rule for words was made stricter, and then changed for the
  study `growing_text`.

What is said without "remember" is read by a chat model. 330 messages were written and committed before anything was
run on them (`evidence/memory_lines.jsonl`). Each reader was scored once on them: the rules of speech that the memory
had before, just before they were deleted, and the two constrained calls that took their place, with a model of half a
billion parameters, whose examples were chosen on the odd lines of the older file and on messages of earlier tests.

- F1 is {f1_rules:.2f} for the rules and {f1_model:.2f} for the model. These lines met stores of none to two
  facts; on a store that fills this model overwrites facts that have nothing to do with a message, so it is off by
  default: `--facts model` asks for it.
- The model finds more of what is told and replaced. It is worse at the rest: something is kept of {kept_model} of the
  messages without a fact (rules: {kept_rules}), and it carries out {ended_model} of the ends of facts (rules:
  {ended_rules}). Ends are exact by explicit wishes.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evidence._memory_lines import records, summary, table_of
from evidence._page import with_interval
from evidence._paraphrases import FALSE, FOUND, HALVES, OTHERS, by_finder
from evidence._pretrained import needed
from evidence._synthetic import percent
from llmanac.core.pages import Line, Section, line_chart, table
from llmanac.generate.load import load_engine
from llmanac.lab.complexity import one_thread
from llmanac.lab.stats import interval, mean
from llmanac.metrics.statistics.intervals import wilson_interval
from llmanac.retrieve.memory import Memory
from llmanac.retrieve.memory.store import USE

ROWS = ("context/memory",)
CLAIM = "what a memory keeps is found at any history length, where a window holds only the last chats"
SEEDS, VERSION = 3, 2
KINDS = ("favorite", "least favorite", "first", "dream", "backup")
THINGS = ["color", "song", "dish", "book", "city", "teacher", "sport", "tool", "flower", "river", "game", "drink"]
_VALUES = "Aldera Bovin Cresto Dalmir Estova Fenlow Garrin Holvek Istran Jolmar Kestin Lormas Mirrel Norvik"
VALUES = _VALUES.split()
TELL = ("Remember {s}: {v}", "remember: {s}: {v}", "Please remember that {s}: {v}", "/remember {s}: {v}")
TAKE = ("Please forget my {s}.", "Forget about my {s}.", "/forget {s}")
ASK = ("What is my {s}?", "Do you remember my {s}?", "Tell me my {s}, please.", "Which {s} do I have?")
LAGS = ((1, 20), (21, 100), (101, 200))  # chats between the statement and the question
ASKED = 12  # facts that SmolLM2 is asked for
SAID = "What the user said in the last chats, as data (newest last):"
MODEL = "qwen2.5-coder-0.5b"  # the reader of the 330 lines
ANSWERS = {"memory": "memory", "window": "window"}
OTHER = ("How do magnets work?", "Do you remember my {s}?", "The train was late.", "What is a {s}?")


def measure(seed: int, size: str) -> dict[str, Any]:
    """Shares of right answers of memory and window after so many chats, and SmolLM2's answers after the last."""
    chats, step, window = (200, 40, 20) if size == "full" else (12, 6, 3)
    rng = random.Random(seed)
    subjects = [f"{kind} {thing}" for kind in KINDS for thing in THINGS]
    truth: dict[str, tuple[str, int]] = {}
    messages: list[str] = []
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, Memory(Path(folder) / "memory.sqlite") as memory:
        for chat in range(1, chats + 1):
            told = list(truth)
            subject = rng.choice(told) if told and rng.random() < 0.4 else rng.choice(subjects)
            if subject in truth and rng.random() < 0.25:
                said = rng.choice(TAKE).format(s=subject)
                del truth[subject]
            else:
                value = f"{rng.choice(VALUES)} {chat}"
                said = rng.choice(TELL).format(s=subject, v=value)
                truth[subject] = (value, chat)
            messages.append(said)
            for one in (rng.choice(OTHER).format(s=rng.choice(subjects)), said):
                memory.read(one)
            if chat % step:
                continue
            kept = {fact.key: _value(fact.text) for fact in memory.facts()}
            right = {}
            for one in subjects:
                found = memory.recall(rng.choice(ASK).format(s=one), 1)
                told_now = truth.get(one)
                right[one] = not found if told_now is None else bool(found) and _value(found[0].text) == told_now[0]
            rows.append({
                "chats": chat, "facts": len(truth), "exact": kept == {s: v for s, (v, _) in truth.items()},
                "memory": sum(right[s] for s in truth) / len(truth),
                "absent": sum(right[s] for s in subjects if s not in truth) / max(1, len(subjects) - len(truth)),
                "window": sum(chat - told < window for _, told in truth.values()) / len(truth),
            })  # fmt: skip
        answers = _answers(memory, truth, messages[-window:], chats, rng) if size == "full" else []
    return {
        "free": by_finder(seed, size), "lines": {name: summary(one["lines"]) for name, one in records().items()},
        "chats": chats, "step": step, "window": window, "subjects": len(subjects),
        "rows": rows, "answers": answers,
    }  # fmt: skip


def _value(text: str) -> str:
    return text.partition(": ")[2]


def _with_wilson(hits: int, total: int) -> str:
    """A share with Wilson's 95% interval."""
    return "{:.2f} ({:.2f} to {:.2f})".format(*wilson_interval(hits, total)) if total else "-"


@one_thread()
def _answers(
    memory: Memory, truth: Mapping[str, tuple[str, int]], last: Sequence[str], chats: int, rng: random.Random
) -> list[dict[str, Any]]:
    """SmolLM2 is asked for `ASKED` facts that hold, evenly by age, in the chat after the last: is it right?"""
    engine, out = load_engine(needed(), device="cpu", runner="native"), []
    asked = sorted(truth.items(), key=lambda one: one[1][1])
    for subject, (value, told) in [asked[i * len(asked) // ASKED] for i in range(min(ASKED, len(asked)))]:
        question = rng.choice(ASK).format(s=subject)
        row: dict[str, Any] = {"lag": chats + 1 - told}
        known = {"memory": memory.prompt(question), "window": "\n".join([SAID, *(f"- {one}" for one in last), USE])}
        for name in ANSWERS:
            chat = [{"role": "system", "content": known[name]}] if known.get(name) else []
            chat.append({"role": "user", "content": question})
            ids = list(engine.tokenizer.encode_chat(chat, add_generation_prompt=True)[0])
            [answer] = engine.generate([ids], max_new_tokens=24)
            row[name] = float(value.lower() in answer.text.lower())
        out.append(row)
    return out


def _share(rows: Sequence[Mapping[str, Any]], name: str, low: int = 1, high: int = 1 << 30) -> float:
    """The share of right answers to what was told `low` to `high` chats before."""
    return mean([row[name] for row in rows if low <= row["lag"] <= high])


def _slopes(seeds: Sequence[dict[str, Any]], name: str) -> list[float]:
    """Of each seed: how much the share of right answers changes in a hundred chats (least squares over the facts)."""
    return [
        100 * float(np.polyfit([row["lag"] for row in s["answers"]], [row[name] for row in s["answers"]], 1)[0])
        for s in seeds
    ]


def _means(seeds: Sequence[dict[str, Any]], name: str) -> list[float]:
    columns = zip(*([row[name] for row in seed["rows"]] for seed in seeds), strict=True)
    return [sum(column) / len(column) for column in columns]


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    chats = [row["chats"] for row in seeds[0]["rows"]]
    names = {"memory": "memory", "absent": "not told or taken back: nothing recalled", "window": "window alone"}
    means = {name: _means(seeds, name) for name in ("facts", *names)}
    rows = [
        [f"{n}", f"{means['facts'][i]:.0f}", *(f"{means[name][i]:.3f}" for name in names)] for i, n in enumerate(chats)
    ]
    lines = [
        Line(name, list(zip(chats, means[name], strict=True)), shade=i) for i, name in enumerate(("memory", "window"))
    ]
    drawn = line_chart(lines, "chats", "right answers", "Right answers by history length")
    out = [
        Section(
            "Right answers by history length", [f"Means of {len(seeds)} seeds."],
            [table(["chats", "facts", *names.values()], rows)], [drawn],
        )
    ]  # fmt: skip
    free = seeds[0]["free"]
    ways = [(half, way) for half in HALVES if half in free for way in free[half]]
    text = "Shares of the questions, with Wilson's 95% interval; other facts of the first seed."
    names_ = list(free["odd"]["words"])
    rows = [[name, *(_with_wilson(*free[half][way][name]) for half, way in ways)] for name in names_]
    head = ["share", *(f"{half} lines: {way}" for half, way in ways)]
    out.append(Section("Questions in other words", [text], [table(head, rows)]))
    text = (
        "A told value counts as found if a new fact has it; precision and recall are over all values, changes and ends "
        "of the lines; a fact that the line's writer did not list is wrong, also where it is true. Lines without a "
        "fault, by kind, have Wilson's 95% interval. `explicit` is the memory without a model."
    )
    out.append(Section("330 new messages", [text], [table(*table_of(seeds[0]["lines"]))]))
    if all(s["answers"] for s in seeds):
        rows = [
            [title, *(percent([_share(s["answers"], name, *lags) for s in seeds]) for lags in LAGS),
             percent([_share(s["answers"], name) for s in seeds]),
             with_interval([100 * slope for slope in _slopes(seeds, name)], 1)]
            for name, title in ANSWERS.items()
        ]  # fmt: skip
        text = (
            "Percent of the facts that hold whose value is in the answer, by how many chats ago they were last told; "
            "means and half of the 95% t interval over the seeds. The slope is in points a hundred chats."
        )
        head = ["in the prompt", *(f"{a} to {b} chats ago" for a, b in LAGS), "all", "slope"]
        out.append(Section("End to end: SmolLM2-135M-Instruct answers", [text], [table(head, rows)]))
    return out


def _free(seed: Mapping[str, Any]) -> dict[str, Any]:
    found, read = seed["free"], seed["lines"]
    out: dict[str, Any] = {"others": OTHERS, "f1_rules": read["rules"]["f1"], "f1_model": read[MODEL]["f1"]}
    for end, name in (("_rules", "rules"), ("_model", MODEL)):
        right, total = read[name]["without fault"]["not a fact"]
        out |= {f"kept{end}": f"{total - right} of {total}"}
        out |= {f"ended{end}": "{} of {}".format(*read[name]["without fault"]["taken back"])}
    half = found.get("even", found["odd"])
    for end, way in (("_words", "words"), ("", "MiniLM")):
        counts = half.get(way, half["words"])
        out |= {f"found{end}": _with_wilson(*counts[FOUND]), f"false{end}": _with_wilson(*counts[FALSE])}
    return out


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    memory, window = _means(seeds, "memory"), _means(seeds, "window")
    checks = [row["exact"] for seed in seeds for row in seed["rows"]]
    keys = ("chats", "step", "window", "subjects")
    said = ""
    if all(s["answers"] for s in seeds):
        shares = {name: mean([_share(s["answers"], name) for s in seeds]) for name in ANSWERS}
        slopes = {name: _slopes(seeds, name) for name in ANSWERS}
        ends = {name: "{:+.1f} to {:+.1f}".format(*(100 * end for end in interval(slopes[name]))) for name in ANSWERS}
        said = (
            f"- End to end, SmolLM2-135M-Instruct is asked in the next chat for {ASKED} of what holds: "
            f"{shares['memory']:.0%} right with the memory's facts in its prompt, {shares['window']:.0%} with the "
            f"messages of the last {seeds[0]['window']} chats. A hundred chats change the "
            f"share by {100 * mean(slopes['memory']):+.1f} points ({ends['memory']}) with the memory and by "
            f"{100 * mean(slopes['window']):+.1f} ({ends['window']}) with the window."
        )
    return {
        "end_to_end": said, **_free(seeds[0]),
        **{key: seeds[0][key] for key in keys}, "first": memory[0], "last": memory[-1], "window_first": window[0],
        "window_last": window[-1], "exact": sum(checks), "checks": len(checks),
    }  # fmt: skip
