"""Every source: the same documents each time, one clear sentence for what cannot be read, and honest counts."""

from __future__ import annotations

import bz2
import contextlib
import csv
import gzip
import http.server
import json
import lzma
import re
import socket
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet
import pytest

from llmanac.core import registry, spec
from llmanac.core.errors import DataError, SpecError
from llmanac.core.spec import make_method
from llmanac.data import readers
from llmanac.data.quarantine import Problems
from llmanac.data.sources.hub import choose_files
from llmanac.data.unpack import TABLES

TEXTS = ["First text.\nSecond line.", "Zweiter Text mit Größe", 'third, with "quotes" and a\ttab']


def files(*paths: Path, **choices: Any) -> Any:
    return make_method("source", {"name": "files", "paths": [str(p) for p in paths], **choices})


def texts(source: Any, problems: Problems | None = None) -> list[str]:
    return [document.text for document in source.documents(problems)]


def write_formats(folder: Path) -> list[Path]:
    rows = [{"text": t, "n": i} for i, t in enumerate(TEXTS)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    folder.mkdir(exist_ok=True)
    (folder / "a.jsonl").write_text(lines, "utf-8")
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (folder / "c.jsonl.xz").write_bytes(lzma.compress(lines.encode()))
    (folder / "d.jsonl.bz2").write_bytes(bz2.compress(lines.encode()))
    with pa.output_stream(str(folder / "e.jsonl.zst"), compression="zstd") as handle:
        handle.write(lines.encode())
    pyarrow.parquet.write_table(pa.table({"n": [0, 1, 2], "text": TEXTS}), folder / "f.parquet")
    (folder / "g.json").write_text(json.dumps(rows), "utf-8")
    with open(folder / "h.csv", "w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerows([["n", "text"], *([i, t] for i, t in enumerate(TEXTS))])
    with open(folder / "i.tsv", "w", newline="", encoding="utf-8") as handle:
        csv.writer(handle, delimiter="\t").writerows([["text", "n"], *([t, i] for i, t in enumerate(TEXTS))])
    (folder / "j.jsonl").write_text("\ufeff" + lines.replace("\n", "\r\n") + "\r\n\r\n", "utf-8")
    return sorted(folder.iterdir())


def test_every_format_gives_the_same_documents(tmp_path: Path) -> None:
    for path in write_formats(tmp_path / "in"):
        source = files(path)
        found = list(source.documents())
        assert [d.text for d in found] == TEXTS, path.name
        assert len({d.id for d in found}) == 3, path.name
        assert found == list(source.documents()), f"{path.name}: a second reading gave something else"


@pytest.mark.parametrize("name", sorted(registry.methods("source")))
def test_every_source_is_a_spec_that_round_trips(name: str) -> None:
    source = make_method("source", name)
    assert make_method("source", spec.dump(source)) == source
    assert source.build() is source
    with pytest.raises(SpecError):
        source.build(dim=3)


def test_folder_is_read_recursively_in_order_and_can_be_narrowed(tmp_path: Path) -> None:
    (tmp_path / "b" / "deep").mkdir(parents=True)
    (tmp_path / ".hidden").mkdir()
    for name, text in {
        "b/deep/x.py": "code",
        "a.txt": "one",
        "b/y.md": "two",
        "z.bin": "no",
        ".hidden/q.txt": "no",
    }.items():
        (tmp_path / name).write_text(text)
    assert [d.id for d in files(tmp_path).documents()] == ["a.txt", "b/deep/x.py", "b/y.md"]
    assert texts(files(tmp_path, include=["*.md"])) == ["two"]
    assert texts(files(tmp_path / "*.txt")) == ["one"]
    assert texts(files(tmp_path / "a.txt", tmp_path)) == ["one", "code", "two"], "a file named twice is read once"
    with pytest.raises(DataError, match=r"no file in this folder .*\.bin.*include"):
        files(tmp_path, include=["*.rs"]).documents().__next__()


@pytest.mark.parametrize("packed", ["", ".gz", ".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("kind", TABLES)
def test_a_table_that_is_not_there_is_said_so(kind: str, packed: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows{kind}{packed}"
    with pytest.raises(DataError) as error:
        list(readers.table_rows(path, Problems()))
    assert str(error.value) == f"{path}: no such file" and error.value.place == path


def test_columns_groups_and_licence(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "".join(json.dumps({"body": t, "book": b}) + "\n" for t, b in [("one", "A"), ("two", "B"), ("three", "A")])
    )
    found = list(files(path, text="body", group="book", license="CC0-1.0").documents())
    assert [(d.id, d.group, d.meta["license"]) for d in found] == [
        ("rows.jsonl:1", "A", "CC0-1.0"),
        ("rows.jsonl:2", "B", "CC0-1.0"),
        ("rows.jsonl:3", "A", "CC0-1.0"),
    ]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".csv", ".json"])
def test_missing_column_names_the_nearest(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    if suffix == ".parquet":
        pyarrow.parquet.write_table(pa.table({"content": ["a"], "id": [1]}), path)
    elif suffix == ".csv":
        path.write_text("id,content\n1,a\n")
    else:
        path.write_text(json.dumps({"content": "a", "id": 1}))
    with pytest.raises(
        DataError, match=r"rows\S*:\d+: no column 'contents'; did you mean 'content'\? \(has: content, id\)"
    ):
        list(files(path, text="contents").documents())


BAD = [
    (b'{"text": "ok"}\n{"text": "bro', r"rows\.jsonl:2: not JSON"),
    (b'{"text": "ok"}\n\n[1, 2]\n', r"rows\.jsonl:3: expected a JSON object, got list"),
    (b'{"text": 5}\n', r"rows\.jsonl:1: column 'text' holds int"),
    (b'{"text": "a", "text": "b"}\n', r"rows\.jsonl:1: not JSON \(the key 'text' is given twice in one object\)"),
    (b'{"text": null}\n', r"rows\.jsonl:1: column 'text' holds null"),
    (b'{"text": "\\ud800"}\n', r"rows\.jsonl:1: column 'text' holds half a surrogate pair"),
    (b'{"text": "ok"}\n{"text": "\xff"}\n', r"rows\.jsonl:2: not UTF-8 at byte 25"),
]


@pytest.mark.parametrize(("data", "message"), BAD)
def test_bad_line_is_fatal_or_quarantined_by_choice(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(data + b'\n{"text": "last"}\n')
    with pytest.raises(DataError, match=message) as caught:
        list(files(path).documents())
    assert str(caught.value).count("\n") == 0
    assert 'on_error="skip"' in str(caught.value)
    source = files(path, on_error="skip", quarantine=str(tmp_path / "quarantine.jsonl"))
    problems = source.problems()
    kept = texts(source, problems)
    assert kept[-1] == "last"
    assert problems.total == 1
    (line,) = (tmp_path / "quarantine.jsonl").read_text().splitlines()
    entry = json.loads(line)
    assert entry["file"] == str(path)
    assert f":{entry['line']}:" in str(caught.value)
    assert entry["reason"] in str(caught.value)


def test_skipped_lines_are_all_counted_and_the_rest_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    lines = [json.dumps({"text": f"row {i}"}) if i % 3 else "{bad" for i in range(3000)]
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    problems = Problems("skip", tmp_path / "q.jsonl")
    assert texts(files(path), problems) == [f"row {i}" for i in range(3000) if i % 3]
    assert problems.total == 1000
    assert [json.loads(x)["line"] for x in (tmp_path / "q.jsonl").read_text().splitlines()] == list(range(1, 3001, 3))


def test_file_that_is_not_utf8_names_the_byte(tmp_path: Path) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes("plain é ".encode() + "caf\xe9s".encode("latin-1"))
    with pytest.raises(DataError, match=r"latin\.txt: not UTF-8 at byte 12 \(byte 0xe9\); convert it"):
        texts(files(path))
    far = tmp_path / "far.txt"
    far.write_bytes(b"\xc3\xa9" * (1 << 20) + b"\xff")
    with pytest.raises(DataError, match=rf"far\.txt: not UTF-8 at byte {2 << 20} "):
        texts(files(far))
    cut = tmp_path / "cut.txt"
    cut.write_bytes("ends é".encode()[:-1])
    with pytest.raises(DataError, match=r"cut\.txt: not UTF-8 at byte 5 .*ends inside a character"):
        texts(files(cut))
    wide = tmp_path / "wide.txt"
    wide.write_bytes("text".encode("utf-16"))
    with pytest.raises(DataError, match=r"wide\.txt: not UTF-8 at byte 0 \(it looks like UTF-16\)"):
        texts(files(wide))
    good = tmp_path / "good.txt"
    good.write_text("\ufeffgood")
    assert texts(files(path, good, on_error="skip", quarantine=str(tmp_path / "q.jsonl"))) == ["good"]


def test_long_text_is_cut_into_pieces_that_join_to_the_whole(tmp_path: Path) -> None:
    whole = "".join(f"Paragraph {i} with some words é.\n{'x' * (i % 70)}\n\n" for i in range(2000))
    path = tmp_path / "book.txt"
    path.write_text(whole, "utf-8")
    found = list(files(path, piece=5000).documents())
    assert "".join(d.text for d in found) == whole
    assert len(found) > 10
    assert all(len(d.text) <= 5000 and d.group == "book.txt" for d in found)
    assert all(d.text.endswith("\n\n") for d in found)
    assert len({d.id for d in found}) == len(found)


def test_a_corpus_in_one_line_is_streamed(tmp_path: Path) -> None:
    """Nothing but a build's limits sets a long line aside, and nothing has to hold it."""
    import tracemalloc

    path = tmp_path / "one.txt"
    path.write_bytes(b"word " * 6_000_000)
    tracemalloc.start()
    size = sum(len(document.text) for document in files(path).documents())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size == 30_000_000
    assert peak < 12_000_000


def test_empty_missing_and_broken_inputs_are_one_sentence_each(tmp_path: Path) -> None:
    (tmp_path / "blank.txt").write_text(" \n\n")
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1nonsense")
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n' * 1000)[:-20])
    text = pyarrow.array([b"a", b"\xce"], pyarrow.binary()).cast(pyarrow.string(), safe=False)
    pyarrow.parquet.write_table(pyarrow.table({"text": text}), tmp_path / "bytes.parquet")
    cases = [
        ([], "paths: no input"),
        ([tmp_path / "blank.txt", tmp_path / "empty.jsonl"], "the corpus is empty"),
        ([tmp_path / "blnk.txt"], r"no such file or folder; did you mean 'blank\.txt'\?"),
        ([tmp_path / "*.rst"], "no file matches"),
        ([tmp_path / "broken.parquet"], r"broken\.parquet: not a readable Parquet file"),
        ([tmp_path / "bytes.parquet"], r"bytes\.parquet: not a readable Parquet file"),
        ([tmp_path / "cut.jsonl.gz"], r"cut\.jsonl\.gz: cannot read it to its end"),
    ]
    for paths, message in cases:
        with pytest.raises(DataError, match=message) as caught:
            texts(files(*paths))
        assert "\n" not in str(caught.value)
    (tmp_path / "bad.jsonl").write_text("{\n")
    with pytest.raises(DataError, match=r"all 1 rows were set aside, the first: .*bad\.jsonl:1"):
        texts(files(tmp_path / "bad.jsonl"), Problems("skip"))


@pytest.mark.parametrize(
    ("rows", "line", "reason", "kept"),
    [
        ('text\na\n"b\nc\nd\n', 3, "a quote is never closed", ["a", "c", "d"]),
        ('text\n"a"b"c\nd\n', 2, "',' expected after '\"', in line 2", ["d"]),
        ('text,n\na,1\n"b,2\nc,3\nd,"4"\n', 3, "',' expected after '\"', in line 5", ["a", "c", "d"]),
        ('text\n"a\n""b"" c"\nx\0y\n', 4, "holds a NUL byte", ['a\n"b" c']),
        ('"text\na\n', 1, "a quote is never closed", []),  # no row can be understood without the header
        ("text,n\n" + 'a","\n' * 3000, None, "a quote is never closed", []),
    ],
)
def test_quotes_that_do_not_fit_take_no_other_row(monkeypatch, tmp_path, rows, line, reason, kept) -> None:
    monkeypatch.setattr(readers, "REREAD", 20_000)
    path = tmp_path / "rows.csv"
    path.write_text(rows)
    with pytest.raises(DataError, match=re.escape(reason)) as caught:
        list(files(path).documents())
    assert line is None or f"rows.csv:{line}: " in str(caught.value)
    problems = Problems("skip")
    assert [row.values["text"] for row in readers.table_rows(path, problems)] == kept
    assert problems.total == 1 if line else problems.total < 10


def test_a_text_file_of_nul_bytes_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"text" + bytes(100_000))
    with pytest.raises(DataError, match=r"a\.txt: from byte 4 on it is binary: 100,000 of 100,004 bytes are NUL"):
        texts(files(tmp_path / "a.txt"))


def test_every_stream_of_a_compressed_file_is_read_or_its_damage_is_said(tmp_path: Path) -> None:
    one, two = b'{"text": "first"}\n', b'{"text": "second"}\n' * 100
    zstd = partial(pa.compress, codec="zstd", asbytes=True)
    for suffix, pack in (("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress), ("zst", zstd)):
        path = tmp_path / f"a.jsonl.{suffix}"
        begin, rest = pack(one), pack(two)
        path.write_bytes(begin + rest)
        assert len(texts(files(path))) == 101
        for at in (0, 1, 3, 4):
            path.write_bytes(begin + bytes([*rest[:at], rest[at] ^ 1, *rest[at + 1 :]]))
            with contextlib.suppress(DataError):  # some bits say nothing: gzip's time, bzip2's size of a block
                assert len(texts(files(path))) == 101
        for garbage in (b"x", b"garbage" * 9, rest[:-1]):
            path.write_bytes(begin + garbage)
            with pytest.raises(DataError, match=rf"a\.jsonl\.{suffix}: cannot"):
                texts(files(path))
    path = tmp_path / "a.jsonl.xz"
    path.write_bytes(lzma.compress(one) + bytes(8) + lzma.compress(two) + bytes(4))
    assert len(texts(files(path))) == 101
    path.write_bytes(lzma.compress(one) + bytes(7))
    with pytest.raises(DataError, match="7 zeros"):
        texts(files(path))


# ---------------------------------------------------------------------------------------------------------- hub


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub's protocol as its client needs for a public dataset."""

    content: ClassVar[dict[str, bytes]] = {}
    asked: ClassVar[list[str]] = []
    endpoint = ""

    def log_message(self, *args: object) -> None:
        pass

    def _send(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        Hub.asked.append(f"{self.command} {self.path}")
        if self.path.startswith("/api/datasets/some/poems"):
            siblings = [{"rfilename": name} for name in Hub.content]
            info = {"id": "some/poems", "sha": "c" * 40, "siblings": siblings, "cardData": {"license": "cc0-1.0"}}
            self._send(json.dumps(info).encode(), Content_Type="application/json")
        elif "/resolve/" in self.path and (name := self.path.split("/resolve/")[1].partition("/")[2]) in Hub.content:
            self._send(Hub.content[name], ETag=f'"{name.replace("/", "-")}"', X_Repo_Commit="c" * 40)
        else:
            self._send(b"{}", 404, X_Error_Code="RepoNotFound")

    do_HEAD = do_GET


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """A hub on this machine with one dataset; yields the paths that were asked for."""
    import huggingface_hub
    from huggingface_hub import constants

    write_formats(tmp_path / "files")
    Hub.content = {
        "README.md": b"# poems",
        "data/train-00000-of-00002.parquet": (tmp_path / "files" / "f.parquet").read_bytes(),
        "data/train-00001-of-00002.parquet": (tmp_path / "files" / "f.parquet").read_bytes(),
        "data/test-00000-of-00001.parquet": b"never read",
    }
    Hub.asked = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", constants.ENDPOINT + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    Hub.endpoint = constants.ENDPOINT
    monkeypatch.setattr(huggingface_hub.HfApi, "__init__", _api(huggingface_hub.HfApi.__init__))
    monkeypatch.setenv("HF_ENDPOINT", constants.ENDPOINT)
    yield Hub.asked
    server.shutdown()


def _api(original: Any) -> Any:
    return lambda self, *args, **choices: original(self, *args, **{**choices, "endpoint": Hub.endpoint})


def test_hub_dataset_is_listed_fetched_and_read(hub: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_method("source", {"name": "hub", "dataset": "some/poems"})
    assert hub == [], "making a source asks the network for nothing"
    found = list(source.documents())
    assert [d.text for d in found] == TEXTS * 2
    assert len({d.id for d in found}) == 6
    assert found[0].meta["license"] == "cc0-1.0"
    assert not any("test-" in path for path in hub)
    few = make_method("source", {"name": "hub", "dataset": "some/poems", "limit": 2})
    assert [d.text for d in few.documents()] == TEXTS[:2]


def test_hub_errors_are_one_sentence(hub: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    with pytest.raises(DataError, match="some/nothing: no such dataset on the hub"):
        texts(make_method("source", {"name": "hub", "dataset": "some/nothing"}))
    with pytest.raises(DataError, match=r"no file of the split 'dev' \(it has: test, train\)"):
        texts(make_method("source", {"name": "hub", "dataset": "some/poems", "split": "dev"}))
    with pytest.raises(DataError, match="not a hub dataset name"):
        texts(make_method("source", {"name": "hub", "dataset": "a/b/c"}))
    with pytest.raises(DataError, match="no column 'txt'; did you mean 'text'"):
        texts(make_method("source", {"name": "hub", "dataset": "some/poems", "text": "txt"}))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="HF_HUB_OFFLINE is set and this dataset is not in the hub's cache"):
        texts(make_method("source", {"name": "hub", "dataset": "some/poems"}))


def test_no_network_is_one_sentence(hub: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setattr(Hub, "endpoint", f"http://127.0.0.1:{free.getsockname()[1]}")
    with pytest.raises(DataError, match=r"some/poems: cannot reach the hub .*check the network, or give local files"):
        texts(make_method("source", {"name": "hub", "dataset": "some/poems"}))


def test_hub_files_are_chosen_by_format_subset_and_split() -> None:
    names = ["README.md", "en/train-0.parquet", "en/test-0.parquet", "de/train-0.parquet", "extra.jsonl"]
    assert choose_files(names, "en", "train", "d") == ["en/train-0.parquet"]
    with pytest.raises(DataError, match=r"several subsets \(de, en\); choose one with subset="):
        choose_files(names, None, "train", "d")
    with pytest.raises(DataError, match="no file of the subset 'eng'; did you mean 'en'"):
        choose_files(names, "eng", "train", "d")
    assert choose_files(["a.jsonl", "b.jsonl"], None, "train", "d") == ["a.jsonl", "b.jsonl"]
    assert choose_files(["train.jsonl", "valid.jsonl"], None, "train", "d") == ["train.jsonl"]
    assert choose_files(["corpus.txt", "script.py"], None, "train", "d") == ["corpus.txt"]
    with pytest.raises(DataError, match="no Parquet, JSON Lines"):
        choose_files(["README.md", "script.py"], None, "train", "d")


# -------------------------------------------------------------------------------------------------- python docs


def test_python_docs_entries_match_the_live_objects() -> None:
    import inspect
    import shutil
    import textwrap

    entries = {entry.name: entry for entry in make_method("source", "python-docs").entries() if entry.kind != "topic"}
    for name, live in {
        "shutil.copytree": shutil.copytree,
        "textwrap.dedent": textwrap.dedent,
        "json.dumps": json.dumps,
    }.items():
        entry = entries[name]
        names = [p.name for p in inspect.signature(live).parameters.values()]
        assert [n for n in names if n in entry.signature] == names
        first = (inspect.getdoc(live) or "").split("\n")[0].replace("``", "`")
        assert entry.doc.startswith(first)
        assert entry.license == "PSF-2.0"
    assert entries["len"].signature == "(obj, /)"
    assert entries["os.getcwd"].module == "os"
    assert entries["os.path.join"].module == "os.path"
    assert entries["json.JSONDecodeError"].kind == "class" if "json.JSONDecodeError" in entries else True
    assert len(entries) > 5000


def test_python_docs_takes_packages_on_request_and_names_unknown_ones() -> None:
    source = make_method("source", {"name": "python-docs", "parts": ["topics"], "packages": ["safetensors"]})
    found = list(source.documents())
    assert any(d.meta["input"].startswith("safetensors ") and "Apache" in d.meta["license"] for d in found)
    assert not any("standard library" in d.meta["input"] for d in found)
    with pytest.raises(DataError, match="packages: 'safetensor' is not installed; did you mean 'safetensors'"):
        list(make_method("source", {"name": "python-docs", "packages": ["safetensor"]}).documents())
    with pytest.raises(SpecError, match="parts"):
        make_method("source", {"name": "python-docs", "parts": []})


def test_folders_of_any_depth_are_read(tmp_path):
    """`os.walk` calls itself a level at a time, and ends in a traceback."""
    (tmp_path / "a.txt").write_text("some text")
    deep = tmp_path.joinpath(*["d"] * 1200)
    here = tmp_path
    for part in deep.relative_to(tmp_path).parts:
        here = here / part
        here.mkdir()
    try:
        found = list(make_method("source", {"name": "files", "paths": [str(tmp_path)]}).documents())
    finally:
        while here != tmp_path:  # what removes the folders of tests calls itself too
            here.rmdir()
            here = here.parent
    assert [document.text for document in found] == ["some text"]


@pytest.mark.parametrize(
    ("library", "name"),
    [("pypdf", "pdf"), ("docx", "docx"), ("pptx", "pptx"), ("openpyxl", "xlsx"), ("ebooklib", "epub")],
)
def test_a_file_of_a_folder_whose_library_is_missing_is_passed_over(tmp_path, monkeypatch, library, name):
    """One that is named is refused by name; the others of the folder are read."""
    monkeypatch.setitem(sys.modules, library, None)
    (tmp_path / "a.txt").write_text("some text")
    (tmp_path / f"manual.{name}").write_bytes(b"%PDF-1.4\n")
    folder = make_method("source", {"name": "files", "paths": [str(tmp_path)]})
    assert [path.name for path, _ in folder.files(Problems())] == ["a.txt"]
    named = make_method("source", {"name": "files", "paths": [str(tmp_path / f"manual.{name}")]})
    with pytest.raises(DataError, match=rf"manual\.{name}: {library} is not installed"):
        list(named.documents())


def test_settings_in_a_folder_are_passed_over_and_data_without_the_column_is_not(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("some text")
    (tmp_path / "package.json").write_text('{"name": "x", "version": 1}')
    assert texts(files(tmp_path)) == ["some text"]
    with pytest.raises(DataError, match="no column 'text'"):
        list(files(tmp_path / "package.json").documents())
    (tmp_path / "rows.json").write_text('[{"name": "x"}, {"name": "y"}]')
    with pytest.raises(DataError, match=r"rows\.json.*no column 'text'"):
        list(files(tmp_path).documents())
