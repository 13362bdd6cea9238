"""`llmanac data build`: what goes in is kept or listed with a reason; the same bytes come out however it is run."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from _builds import digests, dropped, make_inputs, rows, stage
from hypothesis import given, settings
from hypothesis import strategies as st

from llmanac.cli import main
from llmanac.core.errors import DataError, LlmanacError, SpecError
from llmanac.data.clean import clean
from llmanac.data.pipeline.build import build
from llmanac.data.pipeline.finish import fate
from llmanac.data.pipeline.recipe import as_data, make_recipe
from llmanac.data.pipeline.records import json_string
from llmanac.data.quality_model import Features, train_quality

STAGES = ["clean", stage("short"), stage("first_seen"), stage("short", words=10), stage("first_seen")]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_inputs(tmp_path_factory.mktemp("build") / "in")


@pytest.fixture(scope="module")
def built(inputs: Path) -> Path:
    """The reference: one worker, everything in a single unit where the format allows it."""
    folder = inputs.parent / "built"
    build(make_recipe({"inputs": [str(inputs)], "stages": STAGES, "shard_bytes": 10_000}), folder, workers=1)
    return folder


def plain(inputs: Path) -> list[tuple[str, str]]:
    """What the stages should leave, written out: `(id, text)` in order."""
    from llmanac.data.quarantine import Problems
    from llmanac.data.sources.files import Spec

    seen: set[str] = set()
    out = []
    for document in Spec(paths=(str(inputs),)).documents(Problems("skip")):
        text = clean(document.text).upper()
        if len(text.split()) < 5 or text in seen:
            continue
        seen.add(text)
        if len(text.split()) >= 10:
            out.append((document.id, text))
    return out


def test_the_output_is_what_the_stages_leave_in_the_order_of_the_input(inputs: Path, built: Path) -> None:
    assert [(row["id"], row["text"]) for row in rows(built)] == plain(inputs)


def test_every_document_is_kept_or_listed_once(inputs: Path, built: Path) -> None:
    manifest = json.loads((built / "manifest.json").read_text())
    lost = dropped(built)
    names = [row["id"] for row in rows(built)] + [line["id"] for line in lost]
    assert len(names) == len(set(names))
    read = manifest["stages"][0]
    assert len(names) == read["documents_in"] == 400 + 3 + 190 + 20 + 1
    for before, after in zip(manifest["stages"], manifest["stages"][1:], strict=False):
        assert before["documents_out"] == after["documents_in"]
        assert before["bytes_out"] == after["bytes_in"]
    for found in manifest["stages"]:
        assert found["documents_in"] == found["documents_out"] + sum(found["dropped"].values())
        on_list = [line for line in lost if line["stage"] == found["name"]]
        if found["name"] != "short" and found["name"] != "first-seen":
            assert len(on_list) == sum(found["dropped"].values())
    assert read["dropped"] == {"empty": 1, "not-an-object": 1, "not-json": 1}
    assert manifest["stages"][3]["dropped"].keys() == {"copy"}
    assert manifest["stages"][3]["found"]["copies"] == manifest["stages"][3]["dropped"]["copy"]
    assert manifest["output"]["documents"] == len(rows(built))
    assert not (built / "work").exists()


@pytest.mark.parametrize(("workers", "shard_bytes"), [(3, 10_000), (2, 1000), (1, 10**8)])
def test_workers_and_shards_change_nothing(
    inputs: Path, built: Path, tmp_path: Path, workers: int, shard_bytes: int
) -> None:
    recipe = make_recipe({"inputs": [str(inputs)], "stages": STAGES, "shard_bytes": shard_bytes})
    build(recipe, tmp_path / "out", workers=workers)
    one, other = digests(built), digests(tmp_path / "out")
    if shard_bytes == 10_000:
        assert one == other
    same = [name for name in one if name.startswith(("data/", "dropped/"))]
    assert {n: one[n] for n in same} == {n: h for n, h in other.items() if n.startswith(("data/", "dropped/"))}
    assert sum(name.startswith("data/") for name in one) == 1


@pytest.mark.parametrize("format", ["jsonl", "jsonl.gz", "parquet"])
def test_formats_hold_the_same_rows_in_files_of_about_a_size(
    inputs: Path, built: Path, tmp_path: Path, format: str
) -> None:
    output = {"format": format, "shard_bytes": 20_000, "dropped": "texts"}
    recipe = make_recipe({"inputs": [str(inputs)], "stages": STAGES, "output": output, "shard_bytes": 7000})
    build(recipe, tmp_path / "out", workers=1)
    assert rows(tmp_path / "out") == rows(built)
    sizes = [sum(len(r["text"]) for r in rows_of(p)) for p in sorted((tmp_path / "out" / "data").iterdir())]
    assert len(sizes) >= 2
    assert max(sizes) < 30_000
    assert all("text" in line for line in dropped(tmp_path / "out") if line["reason"] in ("short", "copy"))
    # and the package reads what it wrote
    again = make_recipe({"inputs": [str(tmp_path / "out" / "data")]})
    build(again, tmp_path / "again", workers=1)
    assert [r["text"] for r in rows(tmp_path / "again")] == [r["text"] for r in rows(built)]


def rows_of(path: Path) -> list[dict[str, Any]]:
    from llmanac.data.pipeline.records import read_output

    return list(read_output(path))


def test_no_stage_at_all_copies_the_corpus(inputs: Path, tmp_path: Path) -> None:
    build(make_recipe({"inputs": [str(inputs)]}), tmp_path / "out", workers=1)
    from llmanac.data.quarantine import Problems
    from llmanac.data.sources.files import Spec

    documents = list(Spec(paths=(str(inputs),)).documents(Problems("skip")))
    assert [(r["id"], r["text"], r["group"]) for r in rows(tmp_path / "out")] == [
        (d.id, d.text, d.group) for d in documents
    ]


def test_a_finished_build_is_not_done_again_and_nothing_else_is_mixed_in(inputs: Path, tmp_path: Path) -> None:
    mine = make_inputs(tmp_path / "in", 60)
    recipe = make_recipe({"inputs": [str(mine)], "stages": ["clean", stage("short")]})
    first = build(recipe, tmp_path / "out", workers=1)
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "data").iterdir()}
    assert build(recipe, tmp_path / "out", workers=1) == first
    assert stamps == {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "data").iterdir()}
    other = make_recipe({"inputs": [str(mine)], "stages": ["clean", stage("short", words=9)]})
    with pytest.raises(DataError, match=r"begun with another recipe: stages\.1\.words was 5 and is 9; .*--no-resume"):
        build(other, tmp_path / "out", workers=1)
    (mine / "note-00.txt").touch()
    assert build(recipe, tmp_path / "out", workers=1) == first, "another time and the same content"
    (mine / "note-00.txt").write_text("another text")
    with pytest.raises(DataError, match=r"begun with other input: .*note-00\.txt has changed"):
        build(recipe, tmp_path / "out", workers=1)
    (mine / "note-00.txt").unlink()
    with pytest.raises(DataError, match=r"note-00\.txt is gone"):
        build(recipe, tmp_path / "out", workers=1)
    (mine / "new.txt").write_text("new")
    anew = build(other, tmp_path / "out", workers=1, resume=False)
    assert anew != first
    missing = make_recipe({"inputs": [str(mine)], "stages": [stage("missing")]})
    for _ in range(2):
        with pytest.raises(LlmanacError, match="nobody is not installed"):
            build(missing, tmp_path / "begun", workers=1)
    build(recipe, tmp_path / "begun", workers=1)  # nothing was read: another recipe may take the folder
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.doc").write_text("mine")
    with pytest.raises(DataError, match=r"holds other files \(thesis\.doc\)"):
        build(recipe, tmp_path / "full", resume=False)
    assert (tmp_path / "full" / "thesis.doc").exists()


def test_a_quality_model_that_was_trained_anew_is_another_recipe(tmp_path: Path) -> None:
    """It is a folder that a stage names; its name stays."""
    texts = ["good and clear words"] * 4, ["bad noise here"] * 4
    mine, model = make_inputs(tmp_path / "in", 20), tmp_path / "quality"
    recipe = make_recipe(
        {"inputs": [str(mine)], "stages": [{"name": "quality", "model": str(model), "min_score": 0.0}]}
    )
    train_quality(*texts, Features(bits=10)).save(model)
    first = build(recipe, tmp_path / "out", workers=1)
    assert build(recipe, tmp_path / "out", workers=1) == first
    shutil.rmtree(model)
    train_quality(*texts[::-1], Features(bits=10)).save(model)
    with pytest.raises(DataError, match=r"begun with another recipe: files\.\S*quality/"):
        build(recipe, tmp_path / "out", workers=1)


def test_several_inputs_never_share_an_id(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.txt").write_text(f"the text of {name}")
    files = [str(tmp_path / "a" / "x.txt"), str(tmp_path / "b" / "x.txt")]
    two = [{"name": "files", "paths": files[:1], "domain": "one"}, {"name": "files", "paths": files[1:]}]
    build(make_recipe({"inputs": two}), tmp_path / "two", workers=1)
    assert [r["id"] for r in rows(tmp_path / "two")] == ["one/x.txt", "input-1/x.txt"]
    assert rows(tmp_path / "two")[0]["meta"]["domain"] == "one"
    build(make_recipe({"inputs": [{"name": "files", "paths": files}]}), tmp_path / "one", workers=1)
    assert [r["id"] for r in rows(tmp_path / "one")] == ["x.txt", "x.txt~2"]


def test_any_source_can_be_an_input(tmp_path: Path) -> None:
    recipe = make_recipe({"inputs": [{"name": "python-docs", "parts": ["topics"]}], "stages": ["clean"]})
    manifest = build(recipe, tmp_path / "out", workers=1)
    assert manifest["output"]["documents"] > 50
    assert all(row["id"].startswith("topics/") for row in rows(tmp_path / "out"))


def test_large_lines_and_groups_of_rows_are_cut_where_no_document_is(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    texts = [f"{n} " + "x" * (n * 37 % 900) for n in range(500)]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    pyarrow.parquet.write_table(
        pa.table({"text": texts}), tmp_path / "in" / "b.parquet", row_group_size=50, use_dictionary=False
    )
    found = {}
    for size in (2000, 30_000, 10**8):
        recipe = make_recipe({"inputs": [str(tmp_path / "in")], "shard_bytes": size})
        build(recipe, tmp_path / f"out-{size}", workers=1)
        found[size] = [(r["id"], r["text"]) for r in rows(tmp_path / f"out-{size}")]
        assert [t for _, t in found[size]] == texts + texts
    assert found[2000] == found[30_000] == found[10**8]
    assert found[2000][-1][0] == "b.parquet:500"


def test_recipes_say_what_is_wrong_with_them(tmp_path: Path) -> None:
    for data, message in [
        ({}, r"inputs: nothing to read"),
        ({"inputs": ["x"], "stagse": []}, r"stagse: no such field; did you mean 'stages'"),
        ({"inputs": ["x"], "stages": ["cleen"]}, r"stages\.0: no stage named 'cleen'; did you mean 'clean'"),
        ({"inputs": ["x"], "stages": [{"name": "clean", "a": 1}]}, r"stages\.0\.a: no such field"),
        ({"inputs": ["x"], "stages": ["gone.py"]}, r"stages\.0\.name: .*gone\.py is no file"),
        (
            {"inputs": ["x"], "stages": [stage("short", wrods=3)]},
            r"stages\.0\.wrods: no such field; did you mean 'words'",
        ),
        ({"inputs": ["x"], "output": {"format": "csv"}}, r"output\.format: 'csv' is not one of"),
        ({"inputs": ["x"], "limits": {"timeout": 0.0}}, r"limits\.timeout: 0\.0 must be above 0"),
        ({"inputs": "x"}, r"inputs: expected a list, got str"),
        ({"inputs": [{"name": "files", "paths": ["x"], "weight": -1.0}]}, r"inputs\.0\.weight: -1\.0 must be above 0"),
        ({"inputs": ["x"], "mixture": "temprature"}, r"no mixture named 'temprature'; did you mean 'temperature'"),
    ]:
        with pytest.raises(SpecError, match=message):
            make_recipe(data, tmp_path)
    with pytest.raises(DataError, match=r"x: no such file or folder"):
        build(make_recipe({"inputs": [str(tmp_path / "x")]}), tmp_path / "out")
    recipe = make_recipe({"inputs": ["x"], "stages": [stage("short", words=3)], "mixture": {"name": "temperature"}})
    assert make_recipe(as_data(recipe)) == recipe
    with pytest.raises(LlmanacError, match="--workers: 0"):
        build(recipe, tmp_path / "out", workers=0)


def test_nothing_usable_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"content": "x"}\n' * 3)
    with pytest.raises(
        DataError, match=r"all 3 rows were set aside, the first \(a\.jsonl:1\) as no-text: no column 'text'"
    ):
        build(make_recipe({"inputs": [str(tmp_path / "a.jsonl")]}), tmp_path / "out", workers=1)


def test_the_command_line(inputs: Path, built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "small.toml"
    recipe.write_text(
        f'inputs = ["{inputs}"]\n[[stages]]\nname = "clean"\n[[stages]]\nname = "{stage("short")["name"]}"\nwords = 4\n'
    )
    out = str(tmp_path / "out")
    main_quietly(["data", "build", str(recipe), "--show", "-s", "output.format=parquet"])
    shown = capsys.readouterr().out
    assert 'format = "parquet"' in shown
    assert not Path(out).exists()
    main_quietly(["data", "build", str(recipe), "--folder", out, "--workers", "1"])
    printed = capsys.readouterr().out
    assert "short" in printed
    assert "Next: llmanac data why" in printed
    main_quietly(["data", "inspect", out])
    assert "not-json" in capsys.readouterr().out
    assert (tmp_path / "out" / "stages.svg").read_text().startswith("<svg")
    main_quietly(["data", "why", out, "a.jsonl:201"])
    assert "dropped by read: not-json" in capsys.readouterr().out
    assert fate(tmp_path / "out", "a.jsonl:202")["reason"] == "not-an-object"
    assert fate(tmp_path / "out", "note-03.txt")["kept"]
    with pytest.raises(DataError, match="no document is called 'nobody'"):
        fate(tmp_path / "out", "nobody")
    with pytest.raises(DataError, match="holds no build"):
        fate(tmp_path, "x")


def main_quietly(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as found:
        main(arguments)
    assert found.value.code in (0, None)


def test_the_lists_of_two_stages_of_one_name_stay_apart(built: Path) -> None:
    names = sorted(path.name for path in (built / "dropped").iterdir())
    assert names == ["00-read.jsonl", "02-short.jsonl", "03-first-seen.jsonl", "04-short.jsonl"]


def test_gzip_members_one_after_the_other_are_one_file(tmp_path: Path) -> None:
    parts = [gzip.compress(json.dumps({"text": f"text {n}"}).encode() + b"\n") for n in range(3)]
    (tmp_path / "a.jsonl.gz").write_bytes(b"".join(parts))
    build(make_recipe({"inputs": [str(tmp_path / "a.jsonl.gz")]}), tmp_path / "out", workers=1)
    assert [r["text"] for r in rows(tmp_path / "out")] == ["text 0", "text 1", "text 2"]


@settings(max_examples=80, deadline=None)
@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=30))
def test_a_row_is_what_json_writes(text: str) -> None:
    assert json_string(text.encode()) == json.dumps(text, ensure_ascii=False).encode()
