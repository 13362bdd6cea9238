"""Memory across chats: facts told, replaced and taken back, asked up to 200 chats later.

A user tells {subjects} things of themselves over {chats} chats, among sentences that state nothing of theirs; three
things in ten are told again with another value, and one in ten is taken back. After every {step} chats each thing is
asked for. The memory answers with the value of the best recalled fact; of what was not told it should recall nothing.
"Window" is what a chat of the last {window} chats can know at most: the last statement, if it is among them. It is read
exactly, as no model would.

- The memory's answers are right for {first:.0%} of what was told after {step} chats and {last:.0%} after {chats}.
- The window alone holds {window_first:.0%} of it after {step} chats and {window_last:.0%} after {chats}.
- Store operations were exact at {exact} of {checks} checks: the facts in the file are those that hold.
{end_to_end}

Those sentences come from templates of this study, whose forms the rules know: a test of the store and of recall.

Free speech is harder. {lines} messages, with what must hold after them and a later question in other words, were
written by somebody who had seen no rule (`evidence/memory_paraphrases.jsonl`). The first rules were measured on them
as they were; then the writer of the messages changed the rules, looking at the odd lines alone ({development}), and the
even lines ({test}) were scored again. The writer knew what the even lines say, so that the second figure may be too
good. On the way their counts were seen twice; after the second time rules that lost or overwrote facts were made
stricter, for other reasons. The other talk was made harder once it was found too easy.

- Kept rightly (all that holds is in the file, what was taken back is not, and of {kinds} nothing was kept):
  {first_odd} of the development lines at first and {now_odd} now; of the test lines {first_even} at first and
  {now_even} now.
- {talk} chats later, of the facts of the test lines that were kept, {later_words} are among the five of the prompt by
  words alone and {later} by words and MiniLM; of all its facts, kept or not, {later_all} (the
  bar is 0.95).
- The file opened again held the same facts, and nothing of a replaced or deleted value, after {stored} of its lines:
  where it did not, the words by which another fact is found had the value.
- The memory recalls too much: of what was not told or was taken back it recalls something near in most cases, as the
  column below shows, and leaves it to the model to see that it is another thing.

How the prompt asks the model to use the facts was chosen among ten forms, on 12 questions of such templates.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evidence._page import with_interval
from evidence._paraphrases import CHATS, FILE, FIRST, by_finder, table_of, with_wilson
from evidence._pretrained import WHERE, smollm2
from evidence._synthetic import percent
from llmanac.core.errors import DataError
from llmanac.core.pages import Line, Section, line_chart, table
from llmanac.generate.load import load_engine
from llmanac.lab.stats import interval, mean
from llmanac.retrieve.memory import Memory
from llmanac.retrieve.memory.store import USE

ROWS = ("context/memory",)
CLAIM = "what a memory keeps is found at any history length, where a window holds only the last chats"
SEEDS = 3
KINDS = ("favorite", "least favorite", "first", "dream", "backup")
THINGS = ["color", "song", "dish", "book", "city", "teacher", "sport", "tool", "flower", "river", "game", "drink"]
_VALUES = "Aldera Bovin Cresto Dalmir Estova Fenlow Garrin Holvek Istran Jolmar Kestin Lormas Mirrel Norvik"
VALUES = _VALUES.split()
TELL = ("My {s} is {v}.", "By the way, my {s} is {v}.", "Actually, my {s} is now {v}.",
        "Please note that my {s} is {v}.",
        "Remember: my {s} is {v}.")  # fmt: skip
TAKE = ("Please forget my {s}.", "Forget about my {s}.", "Delete my {s} from your memory.")
ASK = ("What is my {s}?", "Do you remember my {s}?", "Tell me my {s}, please.", "Which {s} do I have?")
LAGS = ((1, 20), (21, 100), (101, 200))  # chats between the statement and the question
ASKED = 12  # facts that SmolLM2 is asked for
SAID = "What the user said in the last chats, as data (newest last):"
ANSWERS = {"memory": "memory", "window": "window"}
OTHER = ("How do magnets work?", "Tell me a joke about the weather.", "The train was late.", "What is a {s}?")


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
            others = [rng.choice(OTHER).format(s=rng.choice(subjects)) for _ in range(2)]
            messages.append(" ".join([others[0], said, others[1]]))
            memory.read(messages[-1])
            if chat % step:
                continue
            kept = {fact.subject: fact.value for fact in memory.facts()}
            right = {}
            for one in subjects:
                found = memory.recall(rng.choice(ASK).format(s=one), 1)
                told_now = truth.get(one)
                right[one] = not found if told_now is None else bool(found) and found[0].value == told_now[0]
            rows.append({
                "chats": chat, "facts": len(truth), "exact": kept == {s: v for s, (v, _) in truth.items()},
                "memory": sum(right[s] for s in truth) / len(truth),
                "absent": sum(right[s] for s in subjects if s not in truth) / max(1, len(subjects) - len(truth)),
                "window": sum(chat - told < window for _, told in truth.values()) / len(truth),
            })  # fmt: skip
        answers = _answers(memory, truth, messages[-window:], chats, rng) if size == "full" else []
    return {
        "free": by_finder(seed, size), "chats": chats, "step": step, "window": window, "subjects": len(subjects),
        "rows": rows, "answers": answers,
    }  # fmt: skip


def _answers(
    memory: Memory, truth: Mapping[str, tuple[str, int]], last: Sequence[str], chats: int, rng: random.Random
) -> list[dict[str, Any]]:
    """SmolLM2 is asked for `ASKED` facts that hold, evenly by age, in the chat after the last: is it right?"""
    place = smollm2()
    if place is None:
        raise DataError(f"chat_memory: {WHERE}")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        engine, out = load_engine(place, device="cpu", runner="native"), []
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
    finally:
        torch.set_num_threads(threads)


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
    text = (
        "Shares with Wilson's 95% interval, of lines (right, stored) or of questions, with the other talk of the "
        'first seed; "lowest" is over the seeds. Other talk: 200 messages, of which 50 state something of others, '
        "50 something else of the user, in templates, and 100 are requests. A fact counts as kept if its text "
        "has the value; as exact if it is the fact's value and nothing else. The prompt has five facts."
    )
    out.append(Section("Free speech", [text], [table(*table_of(seeds))]))
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


def _free(free: Mapping[str, Any]) -> dict[str, Any]:
    first = json.loads(FIRST.read_text("utf-8"))
    count = len(FILE.read_text("utf-8").splitlines())
    out: dict[str, Any] = {
        "lines": count, "development": (count + 1) // 2, "test": count // 2, "talk": CHATS,
        "kinds": "questions, suppositions, quotations and jokes",
    }  # fmt: skip
    for half, ways in free.items():
        out |= {
            f"first_{half}": with_wilson(*first[half]["right"]),
            f"now_{half}": with_wilson(*ways["words"]["right"]),
        }
    if "even" in free:
        even, name = free["even"], "kept facts in the prompt, later"
        hits, total = even["MiniLM"][name]
        out |= {
            "later_words": with_wilson(*even["words"][name]), "later": with_wilson(hits, total),
            "later_all": with_wilson(*even["MiniLM"]["in the prompt, later"]),
            "stored": "{} of {}".format(*even["words"]["stored"]),
        }  # fmt: skip
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
        "end_to_end": said, **_free(seeds[0]["free"]),
        **{key: seeds[0][key] for key in keys}, "first": memory[0], "last": memory[-1], "window_first": window[0],
        "window_last": window[-1], "exact": sum(checks), "checks": len(checks),
    }  # fmt: skip
