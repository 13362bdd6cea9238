"""Input and documents that mean no good: each is set aside with a reason, in bounded memory and time."""

from __future__ import annotations

import bz2
import gzip
import io
import itertools
import json
import lzma
import os
import subprocess
import sys
import tempfile
import textwrap
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from _builds import dropped, rows, stage
from hypothesis import given, settings
from hypothesis import strategies as st

from llmanac.core.errors import DataError, LlmanacError
from llmanac.core.spec import make_method
from llmanac.data import unpack
from llmanac.data.lines import text_pieces
from llmanac.data.pipeline.build import build
from llmanac.data.pipeline.recipe import make_recipe
from llmanac.data.quarantine import Bounds, Problems

GOOD = "a good text of a few words"


def built(folder: Path, *, stages: Any = (), workers: int = 1, **more: Any) -> tuple[list[str], dict[str, str]]:
    """Build what is in `folder/in`: ids kept, and the reason of each that was not."""
    recipe = make_recipe({"inputs": [str(folder / "in")], "stages": list(stages), **more})
    manifest = build(recipe, folder / "out", workers=workers)
    reasons = {line["id"]: line["reason"] for line in dropped(folder / "out")}
    assert len(reasons) == sum(sum(s["dropped"].values()) for s in manifest["stages"])
    return [row["id"] for row in rows(folder / "out")], reasons


def lines(*texts: str) -> bytes:
    return b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "good.txt").write_text(GOOD)
    return tmp_path


def test_bad_bytes_and_broken_rows(folder: Path) -> None:
    (folder / "in" / "a.jsonl").write_bytes(
        lines("one") + b'{"text": "\xff\xfe"}\n' + b'"text"\n' + b"null\n" + b'{"text": 3}\n' + b'{"text": null}\n'
        + b'{"text": "\\ud800 half"}\n' + b'{"text": "x", "n": ' + b"1" * 5000 + b"}\n" + b"[" * 100_000 + b"\n"
        + b'{"other": 1}\n' + b"\x00\n" + lines("two") + b'{"text": "cut'
    )  # fmt: skip
    (folder / "in" / "latin.txt").write_bytes("Größe".encode("latin-1"))
    (folder / "in" / "wide.csv").write_text("text,n\none,1\ntwo\nthree,3\n")
    (folder / "in" / "zero.txt").write_bytes(b"")
    (folder / "in" / "null.json").write_text("null")
    (folder / "in" / "half.json").write_text('[{"text": "first"}, {"text": ')
    (folder / "in" / "no.parquet").write_bytes(b"PAR1 not at all")
    kept, reasons = built(folder)
    assert kept == ["a.jsonl:1", "a.jsonl:12", "good.txt", "half.json:1", "wide.csv:2", "wide.csv:4"]
    assert reasons == {
        "a.jsonl:2": "not-utf8", "a.jsonl:3": "not-an-object", "a.jsonl:4": "not-an-object", "a.jsonl:5": "no-text",
        "a.jsonl:6": "no-text", "a.jsonl:7": "not-unicode", "a.jsonl:8": "not-json", "a.jsonl:9": "not-json",
        "a.jsonl:10": "no-text", "a.jsonl:11": "not-json", "a.jsonl:13": "not-json", "latin.txt": "not-utf8",
        "wide.csv:3": "not-csv", "zero.txt": "empty", "null.json:1": "not-an-object", "half.json:1": "not-json",
        "no.parquet": "damaged",
    }  # fmt: skip


def test_fatal_stops_at_the_first(folder: Path) -> None:
    (folder / "in" / "a.jsonl").write_bytes(lines("one") + b"{broken\n")
    with pytest.raises(DataError, match=r"a\.jsonl:2: not JSON .*on_error"):
        built(folder, on_error="fatal")


@pytest.mark.parametrize("suffix", ["gz", "bz2", "xz"])
def test_a_truncated_file_gives_what_came_before(folder: Path, suffix: str) -> None:
    data = lines(*(f"text {n} {os.urandom(30).hex()}" for n in range(20_000)))
    packed = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}[suffix](data)
    (folder / "in" / f"a.jsonl.{suffix}").write_bytes(packed[: len(packed) * 2 // 3])
    kept, reasons = built(folder)
    assert len(kept) > 100
    assert reasons == {f"a.jsonl.{suffix}": "truncated"}
    assert all(json.dumps({"text": row["text"]}).encode() in data for row in rows(folder / "out")[:-1])


def test_a_bomb_is_left_where_it_swells(folder: Path) -> None:
    bomb = gzip.compress(lines("x" * 10_000) * 4_400)  # 44 MB out of 130 kB
    (folder / "in" / "bomb.jsonl.gz").write_bytes(bomb)
    (folder / "in" / "flat.txt.gz").write_bytes(gzip.compress(b" " * (40 << 20)))
    kept, reasons = built(folder, limits={"ratio": 100.0})
    assert reasons == {"bomb.jsonl.gz": "bomb", "flat.txt.gz": "bomb"}
    assert 0 < len(kept) < 4_400
    values = pa.DictionaryArray.from_arrays(pa.array([0] * 3000, pa.int32()), pa.array(["y" * 1_000_000]))
    (folder / "in" / "bomb.jsonl.gz").unlink()
    (folder / "in" / "flat.txt.gz").unlink()
    pyarrow.parquet.write_table(pa.table({"text": values}), folder / "in" / "rows.parquet")
    recipe = make_recipe({"inputs": [str(folder / "in")], "limits": {"max_bytes": 10_000}})
    build(recipe, folder / "rows", workers=1)  # 3 GB of text, were it held
    assert [r["id"] for r in rows(folder / "rows")] == ["good.txt"]


def test_a_file_of_nul_bytes_is_refused_where_they_begin(folder: Path) -> None:
    (folder / "in" / "bomb.txt.gz").write_bytes(gzip.compress(b"a few words\n" * 100_000 + bytes(100 << 20)))
    (folder / "in" / "wide.txt").write_bytes("a text in UTF-16".encode("utf-16-le"))
    (folder / "in" / "one.txt").write_bytes(b"a single NUL in a log\0")
    kept, reasons = built(folder, limits={"ratio": 10_000.0})
    assert kept == ["bomb.txt.gz", "bomb.txt.gz#1", "good.txt", "one.txt"]
    assert reasons == {"bomb.txt.gz": "not-text", "wide.txt": "not-text"}
    assert sum(len(row["text"]) for row in rows(folder / "out")[:2]) <= 1_200_000
    details = {line["id"]: line["detail"] for line in dropped(folder / "out")}
    assert "byte 1200000" in details["bomb.txt.gz"]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.text("aé☃ \r", max_size=9), st.integers(0, 2)), max_size=12),
    st.integers(4, 40), st.integers(1, 40), st.integers(1, 12),
)  # fmt: skip
def test_long_lines_are_left_out_and_the_rest_is_all_there(
    parts: list[tuple[str, int]], most: int, limit: int, block: int
) -> None:
    """Beside the plain form: split at line ends, leave out the long ones, join what stands between."""
    data = "".join(text + "\n" * ends for text, ends in parts).encode()
    expected, runs = [], [b""]
    for number, line in enumerate(split(data), 1):
        if len(line.removesuffix(b"\n")) > most:
            expected.append(number)
            runs.append(b"")
        else:
            runs[-1] += line
    with pytest.MonkeyPatch.context() as patched, tempfile.TemporaryDirectory() as folder:
        patched.setattr(unpack, "BLOCK", block)
        path = Path(folder) / "a.txt"
        path.write_bytes(data)
        problems = Problems("skip", bounds=Bounds(document=most))
        pieces = list(text_pieces(path, problems, limit=limit, most=most))
    assert "".join(pieces).encode() == b"".join(runs)
    assert [problem.line for problem in problems.kept] == expected
    assert all(0 < len(piece) <= limit and len(piece.encode()) <= most for piece in pieces)
    bounds = list(itertools.accumulate(len(run) for run in runs))
    ends = list(itertools.accumulate(len(piece.encode()) for piece in pieces))
    assert set(bounds) <= {0, *ends}, "no piece holds what stood on both sides of a line that was left out"


def split(data: bytes) -> list[bytes]:
    """Lines with their ends, where `\\r` alone ends none."""
    found = [line + b"\n" for line in data.split(b"\n")]
    found[-1] = found[-1][:-1]
    return found if found[-1] else found[:-1]


def test_zip_archives_are_folders_and_their_bombs_are_left(folder: Path) -> None:
    with zipfile.ZipFile(folder / "in" / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("docs/one.txt", "the first")
        archive.writestr("../../rows.jsonl", lines("row") + b"{broken\n")
        archive.writestr("rows.jsonl", lines("other row"))
        archive.writestr("/docs//./one.txt", "another first")
        archive.writestr(".hidden/x.txt", "hidden")
        archive.writestr("page.html", "<p>page</p>")
        archive.writestr("picture.png", b"\x89PNG")
        archive.writestr("inner.zip", b"PK")
        archive.writestr("blank.txt", "")
        archive.writestr("latin.txt", "Größe".encode("latin-1"))
    with zipfile.ZipFile(folder / "in" / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("before.txt", "before the bomb")
        archive.writestr("zeros.txt", b"0" * (60 << 20))
        archive.writestr("after.txt", "after the bomb")
    whole = (folder / "in" / "a.zip").read_bytes()
    (folder / "in" / "cut.zip").write_bytes(whole[: len(whole) // 2])
    (folder / "in" / "flip.zip").write_bytes(whole[:45] + b"\xff\xff" + whole[47:])
    kept, reasons = built(folder)
    inside = ["docs/one.txt", "rows.jsonl:1", "rows.jsonl~2:1", "docs/one.txt~2", "page.html"]
    own = [f"{name}.zip/{one}" for name, kept in (("a", inside), ("flip", inside[1:])) for one in kept]
    assert sorted(kept) == sorted([*own, "bomb.zip/before.txt", "good.txt"])
    assert [row["text"] for row in rows(folder / "out")][:4] == ["the first", "row", "other row", "another first"]
    bad = {
        "rows.jsonl:2": "not-json", "inner.zip": "nested", "picture.png": "unknown-format", "blank.txt": "empty",
        "latin.txt": "not-utf8",
    }  # fmt: skip
    assert reasons == {
        **{f"{name}.zip/{one}": why for name in ("a", "flip") for one, why in bad.items()},
        "flip.zip/docs/one.txt": "damaged", "bomb.zip": "bomb", "cut.zip": "damaged",
    }  # fmt: skip
    assert not list((folder / "in").parent.glob("rows*"))


def test_names_and_methods_of_an_archive_cost_no_other_file(tmp_path: Path) -> None:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr("X", "no name")
        archive.writestr(f"a.{'x' * 300}.txt", "a long name")
        archive.writestr("b.txt", b"compressed with LZMA " * 9, zipfile.ZIP_LZMA)
        archive.writestr("c.txt", "good")
        archive.filelist[0].filename = ""
    data = bytearray(whole.getvalue())
    at = data.find(b"b.txt") + 5
    data[at + 4] ^= 0xFF  # its settings
    (tmp_path / "a.zip").write_bytes(data)
    problems = Problems("skip")
    found = list(make_method("source", {"name": "files", "paths": [str(tmp_path / "a.zip")]}).documents(problems))
    assert [one.text for one in found] == ["a long name", "good"]
    assert [str(one).partition(" (")[0] for one in problems.kept] == [f"{tmp_path}/a.zip/b.txt: cannot unpack it"]
    with pytest.raises(DataError, match=r"a\.zip/b\.txt: cannot unpack it"):
        list(make_method("source", {"name": "files", "paths": [str(tmp_path / "a.zip")]}).documents())


def test_a_huge_line_and_a_huge_file_in_bounded_memory(tmp_path: Path) -> None:
    """In a process of its own, whose memory is measured; the worker's is, too."""
    program = """
        import json, resource, sys
        from pathlib import Path
        from llmanac.data.pipeline.build import build
        from llmanac.data.pipeline.recipe import make_recipe
        root = Path(sys.argv[1])
        (root / "in").mkdir()
        with open(root / "in" / "line.jsonl", "wb") as out:
            out.write(b'{"text": "small"}\\n{"text": "')
            for _ in range(200):
                out.write(b"x" * 1_000_000)
            out.write(b'"}\\n{"text": "after"}\\n')
        with open(root / "in" / "whole.txt", "wb") as out:
            for n in range(100):
                out.write(b"word " * 100_000 + b"\\n")
            for n in range(200):
                out.write(b"x" * 1_000_000)
            out.write(b"\\n" + b"word " * 100_000)
        with open(root / "in" / "array.json", "wb") as out:
            out.write(b'[{"text": "first"}, {"text": "')
            for _ in range(60):
                out.write(b"x" * 1_000_000)
            out.write(b'"}, {"text": "last"}]')
        recipe = make_recipe({"inputs": [str(root / "in")], "stages": ["clean"], "limits": {"max_bytes": 2_000_000}})
        build(recipe, root / "out", workers=1)
        print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert int(run.stdout.split()[-1]) < 200, "megabytes of the largest process"
    reasons = {line["id"]: line["reason"] for line in dropped(tmp_path / "out")}
    assert reasons == {"line.jsonl:2": "too-large", "array.json:2": "too-large", "whole.txt:101": "too-large"}
    found = rows(tmp_path / "out")
    assert {"line.jsonl:1", "line.jsonl:3", "array.json:1", "whole.txt", "whole.txt#50"} <= {r["id"] for r in found}
    assert sum(len(r["text"].split()) for r in found if r["id"].startswith("whole")) == 101 * 100_000


def test_documents_that_break_a_stage_are_dropped_and_their_neighbours_are_not(folder: Path) -> None:
    words = ["good", "CRASH", "good", "LOOP", "good", "DEEP", "SURROGATE", "good"]
    (folder / "in" / "a.jsonl").write_bytes(lines(*words))
    kept, reasons = built(folder, stages=[stage("hostile"), "clean"], limits={"timeout": 0.3})
    assert kept == ["a.jsonl:1", "a.jsonl:3", "a.jsonl:5", "a.jsonl:8", "good.txt"]
    assert reasons == {"a.jsonl:2": "error", "a.jsonl:4": "timeout", "a.jsonl:6": "error", "a.jsonl:7": "not-unicode"}
    details = {line["id"]: line["detail"] for line in dropped(folder / "out")}
    assert details["a.jsonl:2"] == "ValueError: no such luck"
    assert details["a.jsonl:4"] == "more than 0.3 s of CPU (limits.timeout)"


def test_compiled_code_that_hangs_is_ended_from_outside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llmanac.data.pipeline import local

    monkeypatch.setattr(local, "GRACE", 0.5)
    (folder / "in" / "a.jsonl").write_bytes(lines("good", "fine", "HANG", "good", "CRASH"))
    kept, reasons = built(folder, stages=["clean", stage("hostile")], limits={"timeout": 0.3}, workers=2)
    assert kept == ["a.jsonl:1", "a.jsonl:2", "a.jsonl:4", "good.txt"]
    assert reasons == {"a.jsonl:3": "timeout", "a.jsonl:5": "error"}


def test_a_stage_that_loses_documents_or_always_fails_stops_the_build(folder: Path) -> None:
    (folder / "in" / "a.jsonl").write_bytes(lines("good", "LOSE"))
    with pytest.raises(LlmanacError, match=r"stage 01-hostile gave 2 answers for 3 documents"):
        built(folder, stages=[stage("hostile")])
    (folder / "in" / "a.jsonl").write_bytes(lines(*["CRASH"] * 30))
    with pytest.raises(LlmanacError, match=r"failed on each of the first 20 documents .*no such luck"):
        recipe = make_recipe({"inputs": [str(folder / "in")], "stages": [stage("hostile")]})
        build(recipe, folder / "other", workers=1)


def test_a_worker_that_dies_is_named_and_the_build_goes_on_later(folder: Path) -> None:
    (folder / "in" / "a.jsonl").write_bytes(lines("good", "DIE", "good"))
    recipe = make_recipe({"inputs": [str(folder / "in")], "stages": [stage("hostile", mark=str(folder))]})
    with pytest.raises(
        LlmanacError, match=r"worker 0 .*killed by SIGKILL while stage 01-hostile was at 'a\.jsonl:1' .*memory"
    ):
        build(recipe, folder / "out", workers=1)
    build(recipe, folder / "out", workers=1)
    assert len(rows(folder / "out")) == 4


def test_limits_of_the_machine_are_sentences(folder: Path) -> None:
    with pytest.raises(LlmanacError, match=r"is a file; name a folder"):
        recipe = make_recipe({"inputs": [str(folder / "in")]})
        build(recipe, folder / "in" / "good.txt")
    if os.geteuid() != 0:
        (folder / "locked").mkdir(mode=0o500)
        with pytest.raises(LlmanacError, match="cannot write"):
            build(recipe, folder / "locked" / "out")
