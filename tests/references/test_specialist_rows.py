"""The rows of the study of specialists: sides share nothing, answers follow from questions."""

from __future__ import annotations

import json
import re

import pytest

from evidence import _specialist_rows as rows
from evidence import specialists

SIDES = ("train", "test")


@pytest.mark.parametrize("task", rows.SYNTHETIC)
def test_sides_share_no_question_and_are_the_same_for_a_seed(task):
    made = {side: rows.rows_of(task, side, 60, 1) for side in SIDES}
    assert all(20 < len(pairs) == len(dict(pairs)) for pairs in made.values())
    assert not {text for text, _ in made["train"]} & {text for text, _ in made["test"]}
    assert made["test"] == rows.rows_of(task, "test", 60, 1) != rows.rows_of(task, "test", 60, 2)


def test_names_schemas_tools_and_templates_are_disjoint():
    sides = [table for table in rows.GIVEN.values() if "train" in table]
    sides += [table for name in ("forms", "commits") for table in rows.GIVEN[name].values()]
    assert len(sides) == 9 + 4 + 6
    for table in sides:
        assert table["train"] and table["test"] and not set(table["train"]) & set(table["test"])


def test_answers_follow_from_questions():
    for text, answer in rows.rows_of("fields", "test", 30, 0):
        assert all(str(value) in text for value in json.loads(answer).values())
    for text, answer in rows.rows_of("tools", "test", 30, 0):
        call = json.loads(answer)
        assert call["name"] in text and all(value in text for value in call["arguments"].values())
    for text, answer in rows.rows_of("units", "test", 30, 0):
        n, factor, made = (int(number) for number in re.findall(r"\d+", answer))
        assert n * factor == made and str(n) in text
    for text, answer in rows.rows_of("entities", "test", 30, 0):
        assert all(part.partition(": ")[2] in text for part in answer.split("; "))
    for text, answer in rows.rows_of("sql", "test", 30, 0):
        table = re.search(r"Table (\w+)\(", text)[1]
        assert f"FROM {table}" in answer and answer.endswith(";")


def test_the_study_states_its_targets_and_its_small_measurement_has_every_table():
    assert len(specialists.PIECES) == 10 and len(rows.CLOSED) == 8 and specialists.SEEDS == 5
    assert len(specialists.measure(0, "small")) == 2 * len(rows.SYNTHETIC)


def test_a_bag_of_words_beside_labels_only():
    made = [(f"{word} film", label) for word, label in (("good", "yes"), ("bad", "no"))] * 4
    assert specialists._bow(made, [("good one", "yes"), ("bad one", "no")]) == 1.0
    assert specialists._bow([(str(n), str(n)) for n in range(20)], []) is None
