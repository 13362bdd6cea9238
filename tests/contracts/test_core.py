"""The mechanism itself: registry, Specs, patches, catalogue, atomic files."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import subprocess
import sys
import threading
import time
import tomllib
from dataclasses import fields, replace
from pathlib import Path

import pytest

from llmanac.core import catalogue, files, registry, spec
from llmanac.core.describe import describe
from llmanac.core.errors import DataError, LlmanacError, SpecError
from llmanac.core.lock import locked
from llmanac.core.ranges import Range, within

METHODS = [(kind, name) for kind in registry.KINDS for name in registry.methods(kind)]

MOST_FIELDS = {"llmanac.models.lm.encoder_decoder": 14}  # two stacks; where norms are, as BART and T5 differ


@pytest.mark.parametrize(("kind", "name"), METHODS)
def test_every_method_file_has_its_four_parts(kind: str, name: str) -> None:
    method = registry.find(kind, name)
    module = method.module()
    assert module.__doc__ and len(module.__doc__) > 40
    assert method.card["title"] and (method.card.get("reference") or method.card.get("test"))
    assert issubclass(module.Spec, spec.Spec) and module.Spec.kind == kind
    assert len(fields(module.Spec)) <= MOST_FIELDS.get(module.__name__, 12)


@pytest.mark.parametrize(("kind", "name"), METHODS)
def test_every_spec_round_trips_through_toml_and_json(kind: str, name: str) -> None:
    made = spec.make_method(kind, name)
    data = spec.dump(made)
    assert spec.make_method(kind, tomllib.loads(spec.to_toml(data))) == made
    assert spec.make_method(kind, json.loads(json.dumps(data))) == made
    assert hash(made) == hash(spec.make_method(kind, data))


@pytest.mark.parametrize(("kind", "name"), METHODS)
def test_a_wrong_field_names_its_path_and_the_nearest(kind: str, name: str) -> None:
    own = [f.name for f in fields(registry.find(kind, name).module().Spec)]
    wrong = own[0] + "x" if own else "anything"
    with pytest.raises(SpecError, match=f"here.{wrong}: no such field") as error:
        spec.make_method(kind, {"name": name, wrong: 1}, "here")
    assert not own or repr(own[0]) in str(error.value)


@pytest.mark.parametrize(("kind", "name"), METHODS)
def test_a_number_outside_its_range_names_its_field(kind: str, name: str) -> None:
    made = spec.make_method(kind, name)
    assert made.ranges.keys() <= {f.name for f in fields(made)}
    for field, allowed in made.ranges.items():
        inside = allowed.low + 1 if allowed.high == math.inf else (allowed.low + allowed.high) / 2
        assert inside in allowed and (allowed.low in allowed) != allowed.above
        for bad in (allowed.low - 1, allowed.high + 1, math.nan, math.inf, *([allowed.low] if allowed.above else [])):
            value = (inside, bad) if isinstance(getattr(made, field), tuple) else bad
            with pytest.raises(SpecError, match=f"^{field}: {re.escape(str(bad))} must be {allowed}$"):
                replace(made, **{field: value})


def test_ranges_are_those_of_the_base_and_ones_own() -> None:
    class Base(spec.Spec):
        ranges = within(Range(1), "a")

    class Own(Base):
        ranges = within(Range(0, 1, above=True), "b")

    assert {name: str(allowed) for name, allowed in Own.ranges.items()} == {
        "a": "at least 1", "b": "above 0 and at most 1",
    }  # fmt: skip
    found = [made for kind, name in METHODS if (made := spec.make_method(kind, name)).ranges]
    assert len(found) > 100 and sum(len(made.ranges) for made in found) > 250


def test_an_unknown_method_names_the_nearest() -> None:
    with pytest.raises(SpecError, match="did you mean 'rope'"):
        registry.find("position", "ropee")
    with pytest.raises(SpecError, match="did you mean 'position'"):
        registry.methods("positon")


def test_patch_keeps_what_both_methods_have_and_names_paths() -> None:
    base = spec.make_method("lm", "transformer")
    wide = spec.patch(base, {"blocks.*.mixer.heads": 8, "blocks.*.mixer": "multi-query"})
    assert all(b.mixer.heads == 8 and b.mixer.kv_heads == 1 for b in wide.blocks)
    assert spec.diff(base, base) == {}
    assert "blocks.0.mixer.kv_heads" in spec.diff(base, wide)
    for path, message in {
        "blocks.*.mixer.headz": "blocks.0.mixer.headz: no such field; did you mean 'heads'",
        "positoin": "positoin: no such field; did you mean 'position'",
        "blocks.7.mixer": "blocks.7: expected",
        "dim.x": "has no fields",
    }.items():
        with pytest.raises(SpecError, match=message):
            spec.patch(base, {path: "rope"})


def test_patch_values_are_toml_or_text() -> None:
    read = spec.parse_patches(["a.b=3", "c=3e-4", "d=rope", 'e="x y"', "f=[1,2]", "g=true"])
    assert read == {"a.b": 3, "c": 3e-4, "d": "rope", "e": "x y", "f": [1, 2], "g": True}
    with pytest.raises(SpecError, match="expected path=value"):
        spec.parse_patches(["nonsense"])


def test_the_catalogue_is_the_contract() -> None:
    """The contract's rows, by number and hash: none may go, and none may be renamed."""
    names = sorted(catalogue.rows())
    assert len(names) == 169
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()
    assert digest == "5740b85018cf89a885fe4a529b254adeec4915a363310d6df354b348ec153afd"


def test_planned_means_that_there_is_no_method_file() -> None:
    status = {entry.id: entry.status for entry in catalogue.entries()}
    for kind, name in METHODS:
        entry = catalogue.find(f"{kind}/{name}")
        assert entry.status != "planned" and entry.file == registry.find(kind, name).path, entry
        assert status.get(entry.id, entry.status) == entry.status
    assert {status["position/none"], status["head/linear"]} <= {"built", "reference", "done"}


def test_an_alias_is_proved_by_what_proves_its_file() -> None:
    rows = {row.method: row for row in catalogue.rows().values()}
    for alias, name in (("mixer/multi-query", "mixer/multi-head"), ("optimizer/adam", "optimizer/adamw")):
        found, row = catalogue.find(alias), rows[name]
        assert row.reference and (found.reference, found.source) == (row.reference, row.source)
    assert {entry.id for entry in catalogue.entries()} >= {"mixer/multi-query", "optimizer/adam"}
    assert str(registry.find("mixer", "multi-query").path) in describe("mixer/multi-query")


def test_every_check_the_catalogue_names_exists(root: Path) -> None:
    for entry in catalogue.entries():
        for reference in entry.reference:
            path, _, test = reference.partition("::")
            assert (root / path).is_file(), entry
            assert not test or re.search(rf"^def {re.escape(test)}\(", (root / path).read_text("utf-8"), re.M), entry
        if entry.claim:
            assert (root / entry.claim).is_file(), entry
        if entry.method:
            kind, _, name = entry.method.partition("/")
            assert name in registry.methods(kind) or entry.status == "planned", entry
        if entry.status != "planned":
            assert (registry.PACKAGE.parent / entry.source).is_file(), entry


KEYS = {"id", "title", "status", "reference", "claim", "source", "verdict", "effect", "interval", "n", "scale", "made"}


def test_listing_imports_no_torch_and_prints_every_row() -> None:
    code = (
        "import sys, llmanac.cli as cli\n"
        "try: cli.main(['list', '--json'])\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    listed = json.loads(done.stdout)
    assert {row["id"] for row in listed} >= set(catalogue.rows())
    assert all(set(row) == KEYS for row in listed)


def test_a_new_file_is_a_new_method_with_no_other_edit() -> None:
    path = registry.folder("norm") / "zz_test_only.py"
    source = (registry.folder("norm") / "rmsnorm.py").read_text("utf-8")
    try:
        path.write_text(source, "utf-8")
        assert "zz-test-only" in registry.methods("norm")
        model = spec.patch(spec.make_method("lm", "transformer"), {"norm": "zz-test-only"})
        assert model.norm.name == "zz-test-only"
        listed = subprocess.run(
            [sys.executable, "-m", "llmanac.cli", "list", "norm", "--json"], capture_output=True, text=True, check=True
        )
        assert "norm/zz-test-only" in {row["id"] for row in json.loads(listed.stdout)}
    finally:
        path.unlink(missing_ok=True)
    assert "zz-test-only" not in registry.methods("norm")


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    with files.atomic_folder(target) as folder:
        (folder / "a").write_text("first")
    with pytest.raises(RuntimeError), files.atomic_folder(target) as folder:
        (folder / "a").write_text("second")
        raise RuntimeError
    assert (target / "a").read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]
    blocked = tmp_path / "folder" / "a" / "file.json"
    with pytest.raises(LlmanacError, match=r"file\.json"):
        files.write_json(blocked, {})


def test_who_takes_a_lock_sweeps_what_killed_processes_left(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    folder = tmp_path / "ab" / "run"
    (folder / "data").mkdir(parents=True)
    gone, kept = [], []
    for place in (folder, folder / "data"):
        gone += [place / f".tmp-{dead.pid}-a.json", place / f".tmp-{os.getpid()}-old"]
        kept += [place / f".tmp-{os.getpid()}-b.json", place / "c.json"]
    gone.append(folder.parent / f".tmp-{dead.pid}-run")
    kept.append(folder.parent / f".tmp-{dead.pid}-another")  # may be guarded by another lock
    for path in [*gone, *kept]:
        path.write_text("x")
        if path.name.endswith("-old"):  # of a process whose number was given again
            os.utime(path, (0, 0))
    (folder / f".tmp-{dead.pid}-base").mkdir()
    with locked(folder / ".lock"):
        assert not [p for p in gone if p.exists()] and all(p.exists() for p in kept)
        assert not (folder / f".tmp-{dead.pid}-base").exists()
    again = folder / f".tmp-{dead.pid}-d.json"
    again.write_text("x")
    with locked(folder.with_suffix(".lock")):
        assert not again.exists()


def test_a_folder_that_was_being_replaced_is_put_back(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    old, new = (tmp_path / f".tmp-{dead.pid}-{name}" for name in ("old-model", "model"))
    for path in (old, new):
        path.mkdir()
        (path / "a").write_text(path.name)
    files.sweep(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model" / "a").read_text() == old.name


def test_one_search_for_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from llmanac.core.device import has_compiler
    from llmanac.recipes.doctor import compiler

    monkeypatch.setenv("CXX", "no-such-compiler")
    assert not has_compiler(torch.device("cpu")) and compiler() is None
    monkeypatch.setenv("CXX", sys.executable)
    assert has_compiler(torch.device("cpu")) and compiler() == sys.executable


def test_reading_names_file_and_line(tmp_path: Path) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text('{"a": 1,\n oops}')
    with pytest.raises(DataError, match=r"bad.json:2: not JSON"):
        files.read_json(bad)
    bad.write_bytes(b"{\xff}")
    with pytest.raises(DataError, match="not UTF-8 at byte 1"):
        files.read_json(bad)
    toml = tmp_path / "bad.toml"
    toml.write_text("a = = 1")
    with pytest.raises(DataError, match=r"bad\.toml: not TOML"):
        files.read_toml(toml)


def test_a_lock_in_a_place_that_cannot_be_written_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    wrong = pytest.raises(LlmanacError, match=r"file.*: cannot write \(.*choose another folder")
    with wrong, locked(tmp_path / "file" / ".lock", busy="busy"):
        pass


def test_waiting_for_a_lock_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setattr("llmanac.core.lock.SILENT", 0.1)
    taken = []

    def take() -> None:
        with locked(tmp_path / "a.lock"):
            taken.append(True)

    other = threading.Thread(target=take)
    with locked(tmp_path / "a.lock"):
        other.start()
        said = ""
        while "waiting for another process, which holds" not in said:
            time.sleep(0.02)
            said += capsys.readouterr().err
        assert not taken
    other.join()
    assert taken


@pytest.mark.parametrize("place", [".", "..", "/", "below/.."])
def test_a_path_without_a_name_is_refused(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in" / "below").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "in")
    for write in (files.atomic_file, files.atomic_folder):
        reason = rf"^{re.escape(place)}: cannot be written in place of a whole folder"
        with pytest.raises(LlmanacError, match=reason), write(place):
            pass
    with pytest.raises(LlmanacError, match="name a file or a folder inside it"):
        files.write_bytes(place, b"x")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["below", "in"]


def test_former_names_of_fields_are_still_read(tmp_path):
    rope = spec.make_method("position", {"name": "rope", "share": 0.5})
    assert rope.rotary_fraction == 0.5 and "share" not in spec.dump(rope)
    base = spec.make_method("lm", {"name": "transformer", "layers": 1})
    assert spec.patch(base, {"position.share": 0.5}).position == rope
    assert spec.patch(base, {"position": {"name": "rope", "share": 0.5}}).position == rope
    with pytest.raises(SpecError, match=r"position\.rotary_fraction: "):
        spec.patch(base, {"position.share": 2.0})
    with pytest.raises(SpecError, match=r"^share: .*rotary_fraction"):
        spec.make_method("position", {"name": "rope", "share": 0.5, "rotary_fraction": 0.5})
    from llmanac.train.metrics import read_metrics

    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "rate": 0.5}\n')
    assert read_metrics(tmp_path) == [{"step": 1, "lr_scale": 0.5}]


@pytest.mark.parametrize("change", [{"position.scaling.type": "yarn"}, {"position.scaling": {"type": "yarn"}}])
def test_a_missing_field_is_named(change) -> None:
    with pytest.raises(SpecError, match=r"^position\.scaling: factor "):
        spec.patch(spec.make_method("lm", "transformer"), change)
    with pytest.raises(SpecError, match=r"^scaling: type and factor "):
        spec.make_method("position", {"name": "rope", "scaling": {}})


def test_the_former_name_of_a_field_is_still_read() -> None:
    made = spec.make_method("stage", {"name": "lines", "minimum": 7, "max_removed": 0.5})
    assert (made.min_length, made.max_removed) == (7, 0.5)
    assert spec.patch(made, {"most": 0.25}).max_removed == 0.25
