"""What `llmanac list` and `llmanac show` say: every name, every test that proves a row, a next command that works."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llmanac.core import catalogue, registry
from llmanac.core.describe import describe
from llmanac.core.errors import SpecError
from llmanac.lab.arms import parse_arms
from llmanac.lab.axis import AS_THEY_ARE, find_axis, methods_of, resolve
from llmanac.lab.compare import BASE
from llmanac.recipes.spec import load_recipe

NAMES = [f"{kind}/{name}" for kind in registry.KINDS for name in registry.methods(kind)]


@pytest.fixture(scope="module")
def base() -> Any:
    return load_recipe(BASE).spec


@pytest.mark.parametrize("name", sorted({*NAMES, *catalogue.rows()}))
def test_the_next_command_works_as_it_stands(name: str, base: Any) -> None:
    said = describe(name, AS_THEY_ARE)
    last = said.splitlines()[-1]
    assert last.startswith("Next: llmanac ") and not re.search(r"\.\.\.|[A-Z]{2,}|<", last), last
    command = shlex.split(last.removeprefix("Next: llmanac "))
    if command[0] == "list":
        assert catalogue.of_kind(command[1]), last
        return
    assert command[:1] == ["compare"] and command[2] == "--arms", last
    axis, arms = find_axis(command[1]), parse_arms(command[3])
    if axis.trial == "training":
        specs = [arm.spec for arm in resolve(base, axis, arms)]
    else:
        specs = [methods_of(axis.kind, arm) for arm in arms]
    assert len(arms) >= 2 and all(a != b for i, a in enumerate(specs) for b in specs[:i]), last
    assert axis.trial != "decoding" or "--artefact" in command


@pytest.mark.parametrize("kind", sorted(registry.KINDS))
def test_a_kind_is_listed_whole_and_each_name_once(kind: str) -> None:
    listed = [entry.id for entry in catalogue.of_kind(kind)]
    assert set(listed) >= {f"{kind}/{name}" for name in registry.methods(kind)}
    assert len(listed) == len(set(listed))
    assert not listed or catalogue.find(listed[-1]).id == listed[-1]


def test_show_prints_every_test_of_a_row() -> None:
    row = catalogue.find("tokenizer/subword-regularization")
    sampled = "tests/references/test_sentencepiece_sampling.py::test_frequencies_equal_the_enumerated_lattice"
    assert sampled in row.reference and any("test_bpe_dropout.py" in test for test in row.reference)
    said = describe(row.id)
    assert all(test in said for test in row.reference)
    assert row.as_json()["reference"] == row.reference[0] and row.status == "done"


def test_every_test_is_named_where_something_is_proved_in_parts() -> None:
    rows = catalogue.rows()
    for id in (
        "data/filtering",
        "data/mixing",
        "data/deduplication",
        "tokenizer/sentencepiece",
        "lm/bigram",
        "lm/ngram",
    ):
        assert len(rows[id].reference) > 1, id
    assert len(rows["loss/bce"].reference) > 1 and len(rows["loss/cross-entropy"].reference) > 1


@pytest.mark.parametrize("given", ["3", '["a::b", 3]', '[""]', '["a::b", "a::b"]', "{}"])
def test_a_reference_that_is_no_test_is_refused(given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "catalogue.toml"
    monkeypatch.setattr(catalogue, "FILE", path)
    for text, expected in (('"a::b"', ("a::b",)), ('["a::b", "c"]', ("a::b", "c")), ("[]", ())):
        path.write_text(f'["x/y"]\ntitle = "t"\nreference = {text}\n')
        catalogue.rows.cache_clear()
        assert catalogue.rows()["x/y"].reference == expected
    path.write_text(f'["x/y"]\ntitle = "t"\nreference = {given}\n')
    catalogue.rows.cache_clear()
    try:
        with pytest.raises(SpecError, match=r"catalogue.toml: x/y.reference: "):
            catalogue.rows()
    finally:
        catalogue.rows.cache_clear()


def test_list_names_the_method_of_a_row_elsewhere_and_show_needs_no_torch() -> None:
    code = (
        "import sys, llmanac.cli as cli\n"
        "for given in (['list', 'stage'], ['list'], ['show', 'position/rope']):\n"
        "    try: cli.main(given)\n"
        "    except SystemExit: pass\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert re.search(r"^stage/minhash +done ", done.stdout, re.M)
    assert re.search(r"^data/deduplication .*\(stage/minhash\)$", done.stdout, re.M)


def test_help_names_every_file_that_can_be_given() -> None:
    from typer.testing import CliRunner

    from llmanac.cli import app

    for command in ("encode", "inspect", "extend"):
        said = CliRunner().invoke(app, ["tokenizer", command, "--help"]).output
        assert ".model" in said and ".tiktoken" in said and "tokenizer.json" in " ".join(said.split())


def test_show_finds_a_name_in_every_kind_and_under_a_longer_name() -> None:
    assert [entry.id for entry in catalogue.named("mamba")] == ["lm/mamba", "mixer/mamba"]
    assert [entry.id for entry in catalogue.named("FlashAttention")] == ["attention/flash"]
    assert [entry.id for entry in catalogue.named("position/rope")] == ["position/rope"]
    for name in ("nosuchthing", "zz", "position/none-such"):
        with pytest.raises(SpecError, match="nothing is called"):
            catalogue.named(name)


def test_a_verdict_is_listed_and_shown_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    part = {"says": "it is better", "verdict": "shown", "effect": 0.05, "interval": [0.03, 0.07], "n": 5}
    found = {
        "verdict": "shown",
        "effect": 0.05,
        "interval": [0.03, 0.07],
        "n": 5,
        "scale": "0.2M",
        "made": "2026-11-30",
    }
    monkeypatch.setitem(catalogue.evidence()["verdicts"], "norm/rmsnorm", {**found, "note": "", "parts": [part]})
    entry = catalogue.find("norm/rmsnorm")
    assert found.items() <= entry.as_json().items()
    assert "verdict    shown\n  shown        it is better: +5% (+3 to +7), n = 5" in describe(entry.id)
    assert catalogue.find("stage/lines").as_json()["verdict"] is None  # no row of the contract, and so no claim
