"""Every kept page: its small measurement gives the same numbers today, and it is made of its cells."""

from __future__ import annotations

import errno
import json
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from evidence import _cells, _page, _queue, _verdicts
from evidence import run as evidence
from llmanac.core import catalogue, files
from llmanac.core.errors import DataError
from llmanac.lab import words
from llmanac.lab.report import Section
from tools import records

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", evidence.names())
def test_a_kept_page_is_not_stale(name: str) -> None:
    assert evidence.changed(name) == []


def test_verdicts_and_index_are_those_of_the_cells(root: Path) -> None:
    found = evidence.generated_files()
    for path, text in found.items():
        assert path.read_text("utf-8") == text, f"{path.name}: run python evidence/run.py --render"
    verdicts = catalogue.evidence()["verdicts"]
    assert verdicts.keys() == catalogue.rows().keys()
    assert {one["verdict"] for one in verdicts.values()} <= {"shown", "contradicted", "inconclusive", "exact"}


def test_rows_and_studies_name_each_other() -> None:
    spoken = {(row, f"docs/evidence/{name}/page.md") for name in evidence.names() for row in evidence.load(name).ROWS}
    rows = catalogue.rows()
    assert {row for row, _ in spoken} <= set(rows)
    pages = {page for _, page in spoken}
    assert {(row, entry.claim) for row, entry in rows.items() if entry.claim in pages} <= spoken
    for row, parts in _verdicts.claims().items():
        for part in parts:
            assert part["kind"] in _verdicts.UNDECIDED or row in evidence.load(part["study"]).ROWS, (row, part["says"])


def test_every_claim_is_stated_as_parts() -> None:
    stated = _verdicts.claims()
    assert stated.keys() == catalogue.rows().keys()
    assert not [row for row, parts in stated.items() if len({part["says"] for part in parts}) < len(parts)]


def test_a_test_that_a_claim_names_exists(root: Path) -> None:
    for row, parts in _verdicts.claims().items():
        for place in (part["test"] for part in parts if part["kind"] == "exact"):
            path, _, name = place.partition("::")
            assert re.search(rf"^def {re.escape(name)}\(", (root / path).read_text("utf-8"), re.M), (row, place)


def test_what_differs_is_named() -> None:
    study = evidence.load("kv_cache")
    kept = {"a": [1.0, {"b": 2.0}], "c": "x", "d": 5}
    assert _cells.differences(kept, {"a": [1.0 + 1e-9, {"b": 2.0}], "c": "x", "d": 5}, study) == []
    other = {"a": [1.0, {"b": 2.1}], "c": "y", "e": 5}
    assert _cells.differences(kept, other, study) == ["small/a/1/b", "small/c", "small/d", "small/e"]


def test_the_words_of_a_page_are_filled_from_its_cells() -> None:
    study = evidence.load("kv_cache")
    cells, _ = _cells.pooled(study, evidence.PAGES / "kv_cache")
    cells[0]["values"]["parameters"] = 1_234_567
    assert "A decoder of 1,234,567 parameters" in _page.render(study, cells, 0, {})[0]


def test_no_cell_is_longer_than_a_page_of_text() -> None:
    assert max(path.stat().st_size for path in evidence.PAGES.glob("*/cells/*.json")) <= _cells.MOST


# --- cells of a planted study --------------------------------------------------------------------------------------


class Planted:
    """A study in a folder of its own, whose measurement is counted and may stop."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, **more: Any) -> None:
        self.folder, self.measured, self.stop_at = folder / "t", [], -1
        self.small: dict[str, Any] = {"loss": 2.0}
        self.study: Any = SimpleNamespace(
            __doc__="T.", __name__="evidence.t", ROWS=(), CLAIM="c", SEEDS=2, TOLERANCE=1e-3, measure=self.measure,
            show=lambda seeds: [Section("Seeds", [", ".join(str(one["loss"]) for one in seeds)])], **more,
        )  # fmt: skip
        monkeypatch.setattr(evidence, "load", lambda name: self.study)
        monkeypatch.setattr(records, "ROOT", folder)
        self.pages = folder

    def measure(self, seed: int, size: str, piece: str = "") -> dict[str, Any]:
        if size == "small":
            return self.small
        self.measured.append((seed, piece))
        if len(self.measured) - 1 == self.stop_at:
            raise KeyboardInterrupt
        return {"loss": seed + 0.5}

    def page(self, **more: Any) -> str:
        return evidence.run("t", pages=self.pages, **more).read_text()


def test_a_run_that_was_stopped_loses_one_cell_and_a_further_one_replaces_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = Planted(tmp_path, monkeypatch)
    planted.stop_at = 1
    with pytest.raises(KeyboardInterrupt):
        planted.page()
    first = {path: path.read_bytes() for path in planted.folder.glob("cells/*")}
    assert len(first) == 1 and "0.5, 1.5" in planted.page()
    assert planted.measured == [(0, ""), (1, ""), (1, "")]
    assert "0.5, 1.5, 2.5" in planted.page(seeds=3) and len(planted.measured) == 4
    assert all(path.read_bytes() == kept for path, kept in first.items())
    assert evidence.changed("t", tmp_path) == []


def test_a_page_is_made_of_its_cells_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted = Planted(tmp_path, monkeypatch)
    text = planted.page()
    (planted.folder / "page.md").unlink()
    assert evidence.write("t", tmp_path).read_text() == text and len(planted.measured) == 2
    (planted.folder / "page.md").write_text("something else")
    assert evidence.changed("t", tmp_path) == ["page.md"]


def test_cells_of_other_code_text_or_version_are_not_pooled_and_other_rounding_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = Planted(tmp_path, monkeypatch)
    planted.page()
    planted.small = {"loss": 2.001}
    assert "2 cells" in planted.page() and len(planted.measured) == 2
    planted.small = {"loss": 2.1}
    assert evidence.changed("t", tmp_path) == ["small/loss"]
    assert "2 cells of another text, version or code are left out" in planted.page()
    planted.study.text_hash = lambda: "another"
    assert "4 cells of another" in planted.page() and len(planted.measured) == 6
    planted.small = {"loss": 2.0}  # the code is as it was: its cells are found again
    del planted.study.text_hash
    planted.page()
    assert len(planted.measured) == 6


def test_what_is_stated_may_only_change_with_the_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted = Planted(tmp_path, monkeypatch, MARGIN=0.01, ARMS=["train.old=1"])
    planted.page()
    planted.study.CLAIM = "another"
    for call in (planted.page, lambda: evidence.changed("t", tmp_path)):
        with pytest.raises(DataError, match=r"t: CLAIM is not what was stated.*VERSION = 2"):
            call()
    planted.study.VERSION = 2
    assert "Version 2 of the question" in planted.page()
    assert json.loads((planted.folder / "plan.json").read_text())["1"]["claim"] == "c"
    monkeypatch.setattr(_cells, "RENAMED", {"train.old": "train.new"})
    planted.study.ARMS = ["train.new=1"]
    assert evidence.changed("t", tmp_path) == []
    assert _cells.unpacked({"train.old": "train.older=2"}) == {"train.new": "train.older=2"}


def test_a_broken_cell_is_named_and_made_again_and_never_averaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    planted = Planted(tmp_path, monkeypatch)
    text = planted.page()
    other, path = sorted(planted.folder.glob("cells/*"))
    made = path.read_text()
    more = made.replace('"cell"', '"more":1,"cell"')
    for broken in (
        made.replace("1.5", "0.1"), made.replace("1.5", "NaN"), made[:-20], "[]", more, "", other.read_text()
    ):  # fmt: skip
        path.write_text(broken)
        with pytest.raises(DataError, match=re.escape(path.name)):
            evidence.write("t", tmp_path)
        assert planted.page() == text and path.name in capsys.readouterr().out


def test_what_a_killed_process_was_writing_is_no_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted = Planted(tmp_path, monkeypatch)
    text = planted.page()
    first = min(planted.folder.glob("cells/*"))
    left = first.with_name(f".tmp-{2**22 + 1}-{first.name}")  # no process has this number
    first.rename(left)
    assert [cell["cell"] for cell in _cells.read(planted.folder)[0]] == ["1"]
    assert planted.page() == text and planted.measured[2:] == [(0, "")] and not left.exists()


def test_pieces_are_cells_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted = Planted(tmp_path, monkeypatch, PIECES=("a", "b"))
    planted.study.show = lambda seeds: [Section("S", [str(seeds)])]
    planted.stop_at = 3
    with pytest.raises(KeyboardInterrupt):
        planted.page()
    assert "[{'a': {'loss': 0.5}, 'b': {'loss': 0.5}}]" in evidence.write("t", tmp_path).read_text()
    planted.study.PARTIAL = True
    assert "{'a': {'loss': 1.5}}" in evidence.write("t", tmp_path).read_text()


def test_like_tables_are_kept_by_column() -> None:
    value = {"rows": [{"a": n, "b": [n / 3]} for n in range(5)], "one": [{"a": 1}, {"b": 2}], "none": float("nan")}
    kept = json.loads(records.canonical(_cells.packed(value)))
    assert set(kept["rows"]) == {_cells.COLUMNS}
    back = _cells.unpacked(kept)
    assert back["rows"][1] == {"a": 1, "b": [pytest.approx(1 / 3, rel=1e-7)]} and back["one"] == value["one"]
    assert back["none"] is None


def _full(*given: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_the_queue_makes_what_is_missing_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    planted = Planted(tmp_path, monkeypatch)
    queue = tmp_path / "queue.toml"
    queue.write_text('[[study]]\nname = "t"\nseeds = 3\nminutes = 2\n[[study]]\nname = "t"\ntimed = true\nseeds = 4\n')
    monkeypatch.setattr(_queue, "FILE", queue)
    planted.stop_at = 1
    monkeypatch.setattr(_queue.work, "__defaults__", (False, tmp_path))
    assert evidence.main(["--queue"]) == 130 and "every cell that is made is kept" in capsys.readouterr().err
    assert _queue.work(evidence.load, pages=tmp_path) == 2 and planted.measured == [(0, ""), (1, ""), (1, ""), (2, "")]
    assert "2 of 2: t 2 made" in capsys.readouterr().out
    assert _queue.work(evidence.load, pages=tmp_path) == 0
    assert [job.cell for job in _queue.missing(evidence.load, True, tmp_path)] == ["3"]
    for path in planted.folder.glob("cells/[01]*"):
        path.unlink()
    with monkeypatch.context() as patched:
        patched.setattr(_cells.files.os, "replace", _full)
        assert evidence.main(["--queue"]) == 2 and "cells/0-" in capsys.readouterr().err
    assert len(planted.measured) == 5 and evidence.main(["--queue"]) == 0 and len(planted.measured) == 7
    queue.write_text('[[study]]\nname = "t"\nhours = 3\n')
    with pytest.raises(DataError, match="no field 'hours'"):
        _queue.entries()


# --- verdicts ------------------------------------------------------------------------------------------------------


def judged(kind: str, of: list[float], against: float | list[float] = 1.0, **more: Any) -> _verdicts.Found:
    """A part about planted values, one a seed."""
    rows = against if isinstance(against, list) else [against] * len(of)
    cells = [
        {"values": {"of": a, "against": b}, "made": "2026-11-30", "cell": "0"} for a, b in zip(of, rows, strict=True)
    ]
    part = {"says": "s", "study": "t", "kind": kind, "of": ["of"], "against": ["against"], **more}
    return _verdicts.judge(part, SimpleNamespace(), cells)  # type: ignore[arg-type]


CELL = [{"values": {"of": 1.0}, "made": "2026-11-30", "cell": "0"}]
UP, SMALL_UP, NONE = [1.10, 1.11, 1.09, 1.10, 1.12], [1.004, 1.005, 1.006, 1.005, 1.004], [1.0, 1.3, 0.8, 1.1, 0.7]


@pytest.mark.parametrize(
    ("kind", "of", "word"),
    [
        ("more", UP, "shown"), ("less", UP, "contradicted"), ("equal", UP, "contradicted"),
        ("more", SMALL_UP, "contradicted"), ("equal", SMALL_UP, "shown"), ("more", [2 - x for x in UP], "contradicted"),
        ("less", [2 - x for x in UP], "shown"), ("more", NONE, "inconclusive"), ("equal", NONE, "inconclusive"),
        ("more", UP[:4], "inconclusive"),
    ],
)  # fmt: skip
def test_planted_effects_give_the_right_word(kind: str, of: list[float], word: str) -> None:
    found = judged(kind, of)
    assert found.verdict == word and found.n == len(of)
    assert ("of at least 5 seeds" in found.note) == (len(of) < 5)
    assert found.effect == pytest.approx(sum(of) / len(of) - 1)


def test_items_are_fifteen_at_least_and_few_are_decided_by_the_exact_test() -> None:
    right, wrong = [1.0] * 16, [0.0] * 16
    assert judged("more", right, wrong, absolute=True, items=True, margin=0.0).verdict == "shown"
    assert judged("more", right[:14], wrong[:14], absolute=True, items=True, margin=0.0).verdict == "inconclusive"
    # six of sixteen pairs differ, all one way: 2^-6 = 0.0156; five would be 0.031, though a t interval excludes zero
    six = [1.0] * 6 + [0.0] * 10
    assert judged("more", six, wrong, absolute=True, items=True, margin=0.0).verdict == "shown"
    assert judged("more", [0.0, *six[1:]], wrong, absolute=True, items=True, margin=0.0).verdict == "inconclusive"


def decided(study: Any, part: dict[str, Any], value: Any) -> _verdicts.Found:
    cells = [{"values": value, "made": "2026-11-30", "cell": "0"}]
    return _verdicts.judge({"says": "s", "study": "t", "items": True, "absolute": True, **part}, study, cells)


@pytest.mark.parametrize(
    ("kind", "low", "high", "word"),
    [
        ("more", 0.52, 0.6, "shown"), ("more", 0.3, 0.505, "contradicted"), ("more", 0.5, 0.6, "inconclusive"),
        ("less", 0.4, 0.48, "shown"), ("less", 0.495, 0.6, "contradicted"), ("less", 0.4, 0.5, "inconclusive"),
        ("equal", 0.495, 0.505, "shown"), ("equal", 0.52, 0.6, "contradicted"), ("equal", 0.4, 0.505, "inconclusive"),
    ],
)  # fmt: skip
def test_an_interval_that_the_study_has_decides(kind: str, low: float, high: float, word: str) -> None:
    value, study = {"auc": [(low + high) / 2, 9.0, low, high], "pairs": 40}, SimpleNamespace()
    part = {"kind": kind, "of": ["auc"], "against": 0.5, "interval": ["pairs"]}
    found = decided(study, part, value)
    assert (found.verdict, found.n) == (word, 40) and found.interval == pytest.approx((low - 0.5, high - 0.5))
    assert decided(study, part, value | {"pairs": 14}).note == "14 of at least 15 items"
    study.own = lambda seeds, name: _verdicts.Estimate(*[seeds[0][name][at] - 0.5 for at in (0, 2, 3)], n=40)
    assert decided(study, {"kind": kind, "measure": ["own", "auc"]}, value) == found


def test_counts_have_wilsons_interval_and_zero_is_an_effect() -> None:
    part = {"kind": "more", "of": ["right"], "against": 0.9, "interval": "counted", "margin": 0.0}
    found = decided(SimpleNamespace(), part, {"right": [99, 100]})
    assert found.verdict == "shown" and found.interval == pytest.approx((0.0455, 0.0982), abs=1e-3)
    assert decided(SimpleNamespace(), part, {"right": [93, 100]}).verdict == "inconclusive"
    level = decided(SimpleNamespace(), {"kind": "equal", "of": ["x"], "against": 1.0}, {"x": [1.0] * 20})
    assert level.as_json()["effect"] == 0 and level.verdict == "shown"


def test_what_is_not_measured_keeps_a_row_from_being_shown() -> None:
    part = _verdicts.judged({"says": "s", "kind": "unmeasured"}, None, [])
    assert (part.verdict, part.note, part.n) == ("inconclusive", "not measured", 0)
    assert _verdicts.verdict_of([_verdicts.Found("s", "shown"), part])["verdict"] == "inconclusive"


def test_a_row_is_shown_only_if_all_parts_are() -> None:
    def word(*verdicts: str) -> str:
        return _verdicts.verdict_of([_verdicts.Found("s", verdict) for verdict in verdicts])["verdict"]

    assert word("shown", "exact") == "shown" and word("exact", "exact") == "exact" and word() == "inconclusive"
    assert word("shown", "inconclusive") == "inconclusive"
    assert word("shown", "inconclusive", "contradicted") == "contradicted"


def test_a_claim_that_names_nothing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_verdicts, "CLAIMS", tmp_path / "claims.toml")
    for text, said in (
        ('[["norm/rmsnrm"]]\nsays = "s"\nkind = "more"\n', "did you mean 'norm/rmsnorm'"),
        ('[["norm/rmsnorm"]]\nsays = "s"\nkind = "more"\nmargins = 1\n', "no field 'margins'; did you mean 'margin'"),
        ('[["norm/rmsnorm"]]\nsays = "s"\nkind = "better"\n', "a kind: more, less"),
        ('[["norm/rmsnorm"]]\nsays = "s"\nkind = "exact"\n', "names the `test`"),
        ('[["norm/rmsnorm"]]\nsays = "s"\nkind = "more"\n', "name the `study`"),
    ):
        (tmp_path / "claims.toml").write_text(text)
        with pytest.raises(DataError, match=re.escape(said)):
            _verdicts.claims()
    with pytest.raises(DataError, match=r"claims\.toml: t: 's': KeyError"):
        _verdicts.judge({"says": "s", "study": "t", "kind": "more", "of": ["no"]}, SimpleNamespace(), CELL)


def test_the_package_knows_nothing_of_studies() -> None:
    source = evidence.ROOT / "src" / "llmanac"
    assert not [
        p for p in source.rglob("*.py") if re.search(r"^\s*(from|import) evidence\b", p.read_text("utf-8"), re.M)
    ]
    assert files.read_json(catalogue.EVIDENCE).keys() == {"verdicts", "measured", "transfer"}


def ladder_of(agreement):
    """Replicates of two scales whose planted effects agree by so much."""
    draws, study = np.random.default_rng(3), evidence.load("transfer_of_verdicts")
    small = {arm: draws.normal(0, 0.03) for arm in study.ARMS}
    large = {arm: agreement * e + math.sqrt(1 - agreement**2) * draws.normal(0, 0.03) for arm, e in small.items()}
    return study, [
        {
            f"{scale}/{arm}": {study.METRIC: math.exp(1 + effects[arm] + draws.normal(0, 0.002))}
            for scale, effects in (("ladder_xs", small), ("ladder_s", large))
            for arm in study.ARMS
        }
        for _ in range(5)
    ]


def test_planted_verdicts_transfer_as_planted():
    study, same = ladder_of(1.0)
    found = study.values(same)
    value, low, high = study.share(found, "ladder_xs", "ladder_s", "sign")
    assert value > 0.9 and low > 0.7 and study.seeds_needed(found, "ladder_xs", "ladder_s") == 1
    assert len(study.survival(found, "ladder_xs", "ladder_s")) >= 24
    pairs, kept, *_ = study.summary(same)[""]
    assert kept == round(value * pairs) and study.summary(same)["position"][0] == 6
    study, other = ladder_of(0.0)
    value, low, high = study.share(study.values(other), "ladder_xs", "ladder_s", "sign")
    assert low < 0.5 < high and value < 0.8
    assert study.summary([{}]) == {}
    assert "No pair" in study.show([{}])[0].paragraphs[0]


def test_a_comparison_says_what_its_verdicts_are_worth(monkeypatch):
    assert words.transfer("retriever") == []
    monkeypatch.setattr(catalogue, "evidence", lambda: {"transfer": {"": [39, 30, 0.6, 0.9], "ffn": [3, 2]}})
    assert "Of 3 verdicts like this, 2 kept their sign" in words.transfer("ffn")[0]
    assert "30 of 39 (60% to 90%" in words.transfer("ffn")[0]


def test_a_page_has_the_versions_that_its_cells_were_made_with():
    """Those that are installed where it is rendered may be others."""
    study: Any = SimpleNamespace(__name__="evidence.made", PACKAGES=("numpy",))
    machine = {"cpu": "a", "python": "3.11"}
    cell = {"made": "2026-01-01", "commit": "c", "machine": {**machine, "packages": {"numpy": "0.1"}}}
    assert " numpy 0.1." in _page.made_by(study, [cell], [1], 0)
    assert "numpy" not in _page.made_by(study, [{**cell, "machine": machine}], [1], 0)
