"""A chat model as a rater of answers: it compares two in both orders, or scores one from 1 to 5 by a rubric.

    counts = judge(load_answerer("http://127.0.0.1:8000/v1"), store)        # into the store's ratings.jsonl

Models prefer what is shown first, so a comparison is asked twice, and counts as a tie unless both answers name the same
model (Zheng et al. 2023, arXiv:2306.05685). An answer in which no choice can be read counts as a tie as well; of a
score it leaves no rating. `judgements.jsonl` has what was answered, and `scores/MODEL.jsonl` a line for each question,
which `llmanac verdict` reads.
"""

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmanac.core import files
from llmanac.core.errors import DataError, SpecError
from llmanac.core.progress import progress
from llmanac.data.command_problems import CommandProblems
from llmanac.data.readers import table_rows
from llmanac.evaluate._choosing import read_choice
from llmanac.evaluate.answering import Answerer
from llmanac.evaluate.preferences import SCORES, Questions, Rating, latest
from llmanac.evaluate.ratings import RatingStore, agreement, finish, read_ratings
from llmanac.metrics import OUTCOMES, Z, share_interval, wilson_interval

JUDGEMENTS, GOLD = "judgements.jsonl", "gold.jsonl"
COMPARED = ("A", "B", "tie")
NAMES = ("value", "low", "high")
COMPARE = (
    "Which answer is better: more helpful, more correct, and to the point? Its length and its place do not matter."
)
SCORE = "How good is the answer: 1 is useless or wrong, 3 is partly helpful, 5 is correct, complete and to the point."
MOST = 20_000  # characters of an answer that a judge reads


def _prompt(question: str, answers: Sequence[str], rubric: str, choices: Sequence[str]) -> str:
    names = ["Answer"] if len(answers) == 1 else [f"Answer {letter}" for letter in COMPARED[: len(answers)]]
    parts = [
        f"[Question]\n{question}",
        *(f"[{name}]\n{text[:MOST]}" for name, text in zip(names, answers, strict=True)),
    ]
    return "\n\n".join([*parts, f"{rubric}\nAnswer with one of {', '.join(choices)} and nothing else."])


def judge(model: Answerer, store: RatingStore, rubric: str = "") -> None:
    """Rate every task of a store that the model has not rated yet; each rating is on the disk before the next one.

    Args:
        rubric: what is asked for in place of `COMPARE` or `SCORE`.

    Raises:
        RequestError: a server that does not answer.
        SpecError: the folder's judgements of this model are answers to another rubric, or of what it was before.
    """
    compares = store.mode == "compare"
    choices = COMPARED if compares else tuple(map(str, SCORES))
    asked = rubric.strip() or (COMPARE if compares else SCORE)
    finish(store.folder / JUDGEMENTS)
    for one in read_judgements(store.folder):
        if one["rater"] == model.name and one.get("asked", asked) != asked:
            raise SpecError(f"--rubric: {store.folder / JUDGEMENTS} answers another one; name another folder with -o")
        if one["rater"] == model.name and one.get("identity", model.identity) != model.identity:  # trained anew, say
            said = f"{store.folder / JUDGEMENTS} has what {model.name} answered before its files changed"
            raise SpecError(f"--judge: {said}; name another folder with -o")
    order = store.order(model.name)
    with progress("judge", total=len(order), unit="questions") as bar:
        for number in range(len(order)):
            page = store.shown(model.name, number)
            if page["rated"] is None:
                ways = [page["answers"], page["answers"][::-1]] if compares else [page["answers"]]
                prompts = [_prompt(page["prompt"], way, asked, choices) for way in ways]
                texts = model.choose(prompts, [choices] * len(ways))
                found = [read_choice(text, choices) for text in texts]
                line = {"rater": model.name, "item": order[number].item, "models": list(order[number].models),
                        "choices": found, "answers": [text[:MOST] for text in texts], "asked": asked,
                        "identity": model.identity}  # fmt: skip
                data = json.dumps(line, ensure_ascii=False).encode("utf-8", "backslashreplace")
                files.append(store.folder / JUDGEMENTS, data + b"\n")
                if compares:
                    store.rate(model.name, number, _agreed(found))
                elif found[0] is not None:
                    store.rate(model.name, number, int(found[0]))
            bar.advance()


def _agreed(found: Sequence[str | None]) -> str:
    """The side that is preferred in both orders, as it was shown first; else a tie."""
    return {("A", "B"): "left", ("B", "A"): "right"}.get((str(found[0]), str(found[1])), "tie")


def read_judgements(folder: Path) -> list[dict[str, Any]]:
    """What judges answered, the last answer of each to a question. Raises DataError that names file and line."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    path = folder / JUDGEMENTS
    for row in table_rows(path, CommandProblems()) if path.is_file() else ():
        rater, choices, models = (row.values.get(name) for name in ("rater", "choices", "models"))
        if not isinstance(rater, str) or not isinstance(choices, list) or not isinstance(models, list):
            raise DataError(f"{path}:{row.line}: needs a rater, models and the choices that it answered")
        found[rater, row.values.get("item"), *map(str, models)] = dict(row.values)
    return list(found.values())


def judged(folder: Path) -> list[dict[str, Any]]:
    """Of each judge of a folder: how often both orders agree, the first is preferred, and nothing can be read."""
    lines: dict[str, list[list[Any]]] = defaultdict(list)
    for line in read_judgements(folder):
        lines[line["rater"]].append(line["choices"])
    out = []
    for rater, found in lines.items():
        given = [one for choices in found for one in choices]
        said: dict[str, Any] = {"judge": rater, "asked": len(given), "unreadable": given.count(None)}
        pairs = [choices for choices in found if len(choices) == 2]
        if pairs:
            same = sum(_agreed(pair) != "tie" or pair == ["tie", "tie"] for pair in pairs)
            said["orders_agree"] = _share(same, len(pairs))
            # over questions: both orders of one are answered alike by a judge that prefers a place
            named = [[one for one in pair if one in ("A", "B")] for pair in pairs]
            shares = [own.count("A") / len(own) for own in named if own]
            said["first_preferred"] = dict(zip(NAMES, share_interval(shares), strict=True)) if shares else None
        out.append(said)
    return out


def _share(count: int, total: int) -> dict[str, float] | None:
    return dict(zip(NAMES, wilson_interval(count, total), strict=True)) if total else None


def length_bias(questions: Questions, ratings: Sequence[Rating]) -> dict[str, Any] | None:
    """How often the longer of two answers is preferred, and b of P(first) = sigma(b log(length ratio)), fitted.

    None where no comparison of answers of other lengths was decided. A model that is better and longer looks biased.
    """
    rows = []
    for one in latest(ratings):
        if len(one.models) == 2 and (won := OUTCOMES[str(one.value)]) != 0.5:
            left, right = (len(questions.answers[name][one.item]) for name in one.models)
            rows += [(math.log((left + 1) / (right + 1)), won)] if left != right else []
    if not rows:
        return None
    x, won = np.array(rows).T
    longer = int(((x > 0) == (won > 0.5)).sum())
    found: dict[str, Any] = {"longer_preferred": _share(longer, len(rows)), "pairs": len(rows), "coefficient": None}
    b = 0.0
    for _ in range(50):  # Newton's steps; all for the longer, or all against it, has no finite b
        p = 1 / (1 + np.exp(-np.clip(b * x, -30, 30)))
        curve = float((p * (1 - p) * x**2).sum())
        step = float(((won - p) * x).sum()) / max(curve, 1e-12)
        b += max(-1.0, min(1.0, step))
    if 0 < longer < len(rows) and abs(step) < 1e-6:
        error = 1 / math.sqrt(curve)
        found["coefficient"] = {"value": b, "low": b - Z * error, "high": b + Z * error}
    return found


def write_scores(folder: Path, questions: Questions, ratings: Sequence[Rating]) -> list[Path]:
    """A table a model for `llmanac verdict`: the mean of its scores on a question, or of its wins (a tie is a half)."""
    values: dict[str, dict[int, list[float]]] = {name: defaultdict(list) for name in questions.answers}
    for one in latest(ratings):
        if len(one.models) == 1:
            values[one.models[0]][one.item].append(float(one.value))
        else:
            won = OUTCOMES[str(one.value)]
            for name, share in zip(one.models, (won, 1 - won), strict=True):
                values[name][one.item].append(share)
    paths = [folder / "scores" / f"{number}-{Path(name).stem}.jsonl" for number, name in enumerate(values)]
    for path, (name, by_item) in zip(paths, values.items(), strict=True):
        _write(path, [
            {"id": str(item), "score": float(np.mean(given)), "prompt": questions.prompts[item],
             "answer": questions.answers[name][item]} for item, given in sorted(by_item.items())
        ])  # fmt: skip
    return paths


def _write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    files.write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_gold(folder: Path, questions: Questions, labels: Sequence[Any]) -> None:
    """Keep known labels: the preferred model's name, its number from 0, or tie; of scores a number from 1 to 5.

    Raises:
        DataError: another label, or labels of other than two models; it names the question.
    """
    names = list(questions.answers)
    known = {**dict(zip(names, ("left", "right"), strict=False)), "0": "left", "1": "right", "tie": "tie"}
    rows = []
    for item, label in enumerate(labels):
        value = known.get(str(label)) if len(names) == 2 else str(label) in map(str, SCORES) and int(label)
        if not value or len(names) > 2:
            raise DataError(f"--gold: {label!r} of question {item + 1} is no model, number of one, tie, or score")
        rows.append(Rating("gold", item, tuple(names), value).as_json())
    _write(folder / GOLD, rows)


def more(folder: Path, questions: Questions, ratings: Sequence[Rating]) -> dict[str, Any]:
    """What the folder's files add to a report: judges, the bias for length, and the agreement with known labels."""
    found: dict[str, Any] = {"judges": judged(folder), "length": length_bias(questions, ratings)}
    if (folder / GOLD).is_file():
        gold, kept = read_ratings(folder / GOLD), latest(ratings)
        found["gold"] = [
            {"rater": rater, **agreement([*(one for one in kept if one.rater == rater), *gold], [rater, "gold"])}
            for rater in dict.fromkeys(one.rater for one in kept)
        ]
    return found
