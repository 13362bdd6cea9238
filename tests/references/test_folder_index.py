"""Passages of documents, and the kept index of a folder: offsets, what is read again, damage, commands."""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
import zipfile

import numpy as np
import pytest
from _folders import CODE, PAGE, encode, small_folder  # noqa: F401

from llmanac.cli import main
from llmanac.core.errors import CheckpointError, DataError, LlmanacError, RequestError, SpecError
from llmanac.data import quarantine
from llmanac.data.quarantine import Problems
from llmanac.data.sources.files import Spec as Files
from llmanac.retrieve.bm25 import BM25
from llmanac.retrieve.dense import Spec
from llmanac.retrieve.folder import FolderIndex, pieces_of
from llmanac.retrieve.folder import _rows as rows
from llmanac.retrieve.folder.index import VERSION


def test_passages_keep_headings_and_fences_together():
    found = pieces_of(PAGE, size=60)
    assert [piece.heading for piece in found] == ["Guide", "Guide > Install", "Guide > Use"]
    assert "```bash" in found[1].text and found[1].text.rstrip().endswith("```")
    assert (found[1].line, found[1].last) == (5, 13)
    long = pieces_of("# A\n\n## B\n\n" + "word " * 500 + "\n\n```\n" + "line\n" * 30 + "```\n", size=200)
    assert [p.heading for p in long] == ["A > B"] * len(long)
    assert sum(p.text.count("```") for p in long) == 2 and max(len(p.text) for p in long) <= 600
    assert any(p.text.count("```") == 2 for p in long)
    functions = pieces_of(CODE, size=40, markup=False)
    assert [p.text.strip()[:10] for p in functions] == ["# comment\n", "def first(", "def second"]


def test_passages_are_the_document_with_its_offsets():
    rng = random.Random(0)
    parts = [
        "# T é\n",
        "text à. More! ",
        "\n",
        "```\n",
        "\n\n",
        "- item\n",
        "Title\n=====\n",
        "x" * 70,
        "   \n",
        "~~~\n",
    ]
    for _ in range(150):
        text = "".join(rng.choices(parts, k=rng.randint(1, 25)))
        data, found = text.encode(), pieces_of(text, size=rng.choice([1, 20, 60, 800]))
        assert [data[p.start : p.stop].decode() for p in found] == [p.text for p in found]
        assert "".join(p.text for p in found).strip() == text.strip()
        for piece in found:
            before = text[: len(data[: piece.start].decode())] + piece.text[: -len(piece.text.lstrip())]
            assert piece.line == 1 + before.count("\n") and piece.last >= piece.line


def test_index_finds_what_bm25_finds_and_cites_the_bytes(folder):
    index = FolderIndex.update(folder)
    assert (len(index.changed), index.removed) == (4, [])
    plain = BM25([f"{p.heading}\n{p.text}" for p in index.passages()])
    for query in ("zebra", "naïve reins", "second", "okapi quagga"):
        found = index.retrieve(query, 3)
        assert [(f.passage.number, f.score) for f in found] == [tuple(hit) for hit in plain.top(query, 3)]
    best = index.retrieve("naïve callers", 1)[0].passage
    assert best.source == "docs/guide.md:15-17" and best.heading == "Guide > Use"
    assert (folder / "docs/guide.md").read_bytes()[best.start : best.stop].decode() == best.text
    assert index.retrieve("okapi", 1)[0].passage.document == "rows.jsonl:1"
    assert "quagga" in index.retrieve("quagga", 1)[0].passage.text
    assert index.retrieve("qqq") == []


def same(a, b):
    strip = [(p.document, p.start, p.stop, p.line, p.last, p.heading, p.text) for p in a.passages()]
    return strip == [(p.document, p.start, p.stop, p.line, p.last, p.heading, p.text) for p in b.passages()]


def test_only_what_changed_is_read_again(folder, tmp_path_factory):
    place = tmp_path_factory.mktemp("kept") / "index"
    calls = []

    def counted(texts):
        calls.extend(texts)
        return encode(texts)

    spec = Spec(model="counted", dtype="float16")
    first = FolderIndex.update(folder, place, encoder=spec, encode=counted)
    assert len(calls) == len(first) and first.encoder == spec
    stamp = (place / "index.json").stat().st_mtime_ns
    again = FolderIndex.update(folder, place, encode=counted)
    assert again.changed == again.removed == [] and (place / "index.json").stat().st_mtime_ns == stamp
    assert [f.passage.number for f in again.retrieve("install", 1, "dense")] == [1]
    (folder / "aaa.md").write_text("# New\n\nThe quokka rides.\n")
    (folder / "page.html").unlink()
    os.utime(folder / "tool.py", ns=(1, 1))  # touched, not changed
    calls.clear()
    newer = FolderIndex.update(folder, place, encode=counted)
    assert (newer.changed, newer.removed) == (["aaa.md"], ["page.html"])
    assert len(calls) == 2 and "quokka" in calls[0]  # and one of before, by which the encoder is known again
    fresh = FolderIndex.update(folder, tmp_path_factory.mktemp("other") / "index", encoder=spec, encode=encode)
    assert same(newer, fresh)
    np.testing.assert_array_equal(newer.arrays["vectors"], fresh.arrays["vectors"])
    for method in ("bm25", "dense", "hybrid"):
        for query in ("quokka rides", "zebra"):
            a, b = ([(f.passage.text, f.score) for f in i.retrieve(query, 4, method)] for i in (newer, fresh))
            assert a == b


def test_a_file_that_goes_away_meanwhile_is_a_problem(folder, monkeypatch):
    problems = Problems("skip")
    found = Files.files

    def removing(self, problems=None):
        for path, name in list(found(self, problems)):
            if name == "tool.py":
                path.unlink()
            yield path, name

    monkeypatch.setattr(Files, "files", removing)
    index = FolderIndex.update(folder, problems=problems)
    assert "tool.py" not in index.documents and len(index.changed) == 3
    assert problems.total == 1 and "No such file" in str(problems.kept[0])


def test_the_same_text_is_found_once(folder):
    (folder / "copy.md").write_text(PAGE, "utf-8")
    texts = [f.passage.text for f in FolderIndex.update(folder).retrieve("zebra install", 5)]
    assert len(texts) == len(set(texts)) > 1


def test_copies_do_not_hide_other_passages(tmp_path):
    for number in range(40):
        (tmp_path / f"copy{number}.txt").write_text("The zebra eats hay.\n")
    (tmp_path / "other.txt").write_text("A zebra of the northern herd slept under the old tree by the river.\n")
    index = FolderIndex.update(tmp_path, encoder=Spec(model="counted"), encode=encode)
    for method in ("bm25", "dense", "hybrid"):
        found = [f.passage.document for f in index.retrieve("zebra", 5, method)]
        assert found == ["copy0.txt", "other.txt"]
    assert [f.passage.document for f in index.retrieve("zebra", 1)] == ["copy0.txt"]


def test_citations_name_the_place_in_the_file(tmp_path):
    page = "<html><head></head>\n\n<body>\n\n\n\n<h1>Zoo</h1>\n\n<p>The quagga was a zebra.</p></body></html>"
    (tmp_path / "page.html").write_text(page)
    (tmp_path / "long.html").write_text(
        page.replace("</p>", "</p>" + "<p>It lived on the plain, and ate grass.</p>" * 50)
    )
    (tmp_path / "t.csv").write_text('name,text\na,An okapi.\nb,"Two\ngnus ran."\n')
    (tmp_path / "mark.txt").write_text("\ufeff\n\n\n\nThe tapir sleeps.\n", "utf-8")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for name in ("a", "b"):
            archive.writestr(f"{name}.txt", f"\nThe llama {name} spits.\n")
    index = FolderIndex.update(tmp_path)
    for query, source in (
        ("okapi", "t.csv:2"), ("gnus", "t.csv:4"), ("tapir", "mark.txt:5"), ("llama b", "all.zip/b.txt:2"),
        ("llama a", "all.zip/a.txt:2"),
    ):  # fmt: skip
        assert index.retrieve(query, 1)[0].passage.source == source
    assert {f.passage.source for f in index.retrieve("quagga", 9)} == {"page.html", "long.html, passage 1"}
    assert index.retrieve("lived plain", 9)[-1].passage.source.startswith("long.html, passage ")
    tapir = index.retrieve("tapir", 1)[0].passage
    assert (tmp_path / "mark.txt").read_bytes()[tapir.start : tapir.stop].decode() == tapir.text


def test_damage_is_named_and_repaired(folder):
    FolderIndex.update(folder)
    place = folder / ".llmanac" / "index"
    for name in ("texts.npy", "text.bin", "passages.npy"):
        content = (place / name).read_bytes()
        (place / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
            FolderIndex.open(place)
        assert len(FolderIndex.update(folder).changed) == 4  # built anew
    with pytest.raises(CheckpointError, match=r"index\.json"):
        FolderIndex.open(folder / "nowhere")
    with pytest.raises(DataError, match="is there and no index"):
        FolderIndex.update(folder, folder / "docs")
    with pytest.raises(DataError, match="no such folder"):
        FolderIndex.update(folder / "nowhere")
    with pytest.raises(RequestError, match="no vectors"):
        FolderIndex.update(folder).retrieve("zebra", 1, "dense")


@pytest.mark.parametrize("content", ["[1, 2]", "{broken", "{}"])
@pytest.mark.parametrize("more", [True, False])
def test_a_folder_of_the_user_is_no_place_of_an_index(folder, tmp_path_factory, content, more):
    site = tmp_path_factory.mktemp("site")
    (site / "index.json").write_text(content)
    if more:
        (site / "thesis.txt").write_text("years of work")
    held = {path.name: path.read_text() for path in site.iterdir()}
    with pytest.raises(LlmanacError, match="name another"):
        FolderIndex.update(folder, site)
    assert {path.name: path.read_text() for path in site.iterdir()} == held


def test_files_of_the_user_in_an_index_stay(folder):
    place = FolderIndex.update(folder).place
    (place / "text.bin").unlink()  # a damaged index is made anew
    assert len(FolderIndex.update(folder).changed) == 4
    (folder / "aaa.md").write_text("The quokka rides.")

    def encode_while_one_is_written(texts):
        (place / "notes.txt").write_text("mine")
        return encode(texts)

    with pytest.raises(SpecError, match=r"notes\.txt"):  # also what comes while vectors are made
        FolderIndex.update(folder, encoder=Spec(model="counted"), encode=encode_while_one_is_written)
    with pytest.raises(SpecError, match=r"notes\.txt"):
        FolderIndex.update(folder)
    assert (place / "notes.txt").read_text() == "mine"
    (place / "notes.txt").unlink()
    assert FolderIndex.update(folder).changed == ["aaa.md"]
    kept = place.with_name("index.vectors")
    kept.mkdir(exist_ok=True)
    (kept / "notes.txt").write_text("mine")
    with pytest.raises(SpecError, match=r"notes\.txt"):
        FolderIndex.update(folder, encoder=Spec(model="other"), encode=encode)
    assert (kept / "notes.txt").read_text() == "mine"


def test_an_edit_whose_size_and_time_are_as_before_is_seen(folder, monkeypatch):
    monkeypatch.setattr(rows, "SETTLED", 0)
    path = folder / "docs/guide.md"
    FolderIndex.update(folder)
    before = path.stat()
    path.write_text(path.read_text("utf-8").replace("zebra", "quagg"), "utf-8")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    index = FolderIndex.update(folder)
    assert index.changed == ["docs/guide.md"] and index.retrieve("quagg", 1)
    path.chmod(0o600)  # another time of its status, the same text: hashed once
    hashed = []
    digest = rows._digest
    monkeypatch.setattr(rows, "_digest", lambda *given: hashed.append(given[0].name) or digest(*given))
    assert FolderIndex.update(folder).changed == FolderIndex.update(folder).changed == []
    assert hashed == ["guide.md"] and FolderIndex.open(index.place).documents == index.documents


def test_text_without_a_suffix_is_read_and_other_files_are_named(folder, capsys):
    (folder / "README").write_text("The quokka smiles.\n")
    for name in ("tool.1", "METADATA", "MANIFEST"):
        (folder / name).write_text("no known format")
    with pytest.raises(SystemExit):
        main(["retrieve", str(folder), "quokka"])
    out, err = capsys.readouterr()
    assert "README:1" in out and "tool.1 is not read: .1 is no known format" in err
    assert "MANIFEST is not read, nor is 1 more of its kind: no suffix is no known format" in err


def test_settings_of_a_folder_are_named_in_one_line(folder, capsys):
    for number in range(3):
        (folder / f"settings-{number}.json").write_text('{"depth": 3}')
    (folder / "row.json").write_text('{"text": "The quokka smiles."}')
    with pytest.raises(SystemExit):
        main(["retrieve", str(folder), "quokka"])
    out, err = capsys.readouterr()
    assert "row.json" in out and err.count("is not read") == 1
    assert "settings-0.json is not read, nor are 2 more of its kind: it is one object with no column" in err


def test_what_is_not_read_is_told_each_time_and_stops_nothing(folder, capsys, monkeypatch):
    (folder / "latin.txt").write_bytes(b"Der B\xe4r")
    (folder / "page.pdf").write_bytes(b"%PDF-1.4 nothing")
    (folder / "locked.txt").write_text("secret")
    (folder / "a\n  [2] fake.md:1").mkdir()
    (folder / "a\n  [2] fake.md:1" / "b.txt").write_text("The tapir snores.\n")
    monkeypatch.setattr(os, "access", lambda path, mode: "locked" not in str(path))
    for command in (["index"], ["ask", "Who rides the reins?"], ["retrieve", "tapir"]):
        with pytest.raises(SystemExit) as done:
            main([command[0], str(folder), *command[1:]])
        out, err = capsys.readouterr()
        assert done.value.code == 0 and "note: 3 files could not" in err and "locked.txt: the file may not" in err
        assert "latin.txt: not UTF-8 at byte 5" in err
        assert ("(3 files could not be read" in out) is ("The documents do not say" in out)
    assert "\n  [2] fake" not in out
    assert FolderIndex.update(folder).retrieve("tapir", 1)[0].passage.source == "a\\n  [2] fake.md:1/b.txt:1"


def test_files_without_text_are_still_named_when_many_rows_before_them_had_none(folder, monkeypatch):
    monkeypatch.setattr(quarantine, "KEPT", 25)
    (folder / "a.csv").write_text("number\n" + "1\n" * 60)
    (folder / "b.csv").write_text("number\n" + "1\n" * 3)
    (folder / "latin.txt").write_bytes(b"Der B\xe4r")
    said = []
    for _ in range(3):
        problems = Problems("skip")
        index = FolderIndex.update(folder, problems=problems)
        first = {os.path.basename(problem.file): problem.reason for problem in reversed(problems.kept)}
        said.append((index.unread, {os.path.basename(name): n for name, n in problems.counts.items()}, first))
    assert said[0] == said[1] == said[2]
    assert said[0][1] == {"a.csv": 60, "b.csv": 3, "latin.txt": 1}
    assert "no column 'text'" in said[0][2]["b.csv"] and "not UTF-8" in said[0][2]["latin.txt"]


def test_files_that_change_vanish_or_never_end(folder, monkeypatch):
    real = rows.documents_in

    def reads(path, *given):
        yield from real(path, *given)
        if path.name == "tool.py":  # written to while it is read, in the same tick and length
            path.write_text(path.read_text().replace("first", "third"))

    monkeypatch.setattr(rows, "documents_in", reads)
    (folder / "tool.py").write_text(CODE)
    (folder / "rows.jsonl").write_text("")
    assert "tool.py" in FolderIndex.update(folder, folder / "other").changed
    monkeypatch.setattr(rows, "documents_in", real)
    again = FolderIndex.update(folder, folder / "other")
    assert again.changed == ["tool.py"] and again.retrieve("third", 1)
    listed = rows.Files.files
    monkeypatch.setattr(rows.Files, "files", lambda *a: [*listed(*a), (folder / "gone.txt", "gone.txt")])
    monkeypatch.setattr(rows, "GROWS", 3)
    monkeypatch.setattr(rows, "_stamp", lambda path, gone=None: [0, 1] if path.name != "gone.txt" else os.stat(path))
    problems = Problems("skip")
    with pytest.raises(DataError, match="no text"):
        FolderIndex.update(folder, folder / "third", problems=problems)
    why = {os.path.basename(problem.file): problem.reason for problem in problems.kept}
    assert "no such file" in why["gone.txt"].lower() and "grows while it is read" in why["guide.md"]


def test_long_runs_of_anything_are_cut_in_time_by_their_length():
    n = 50_000
    begun = time.process_time()
    for text in (
        "# a" + " " * n + "b\n",
        "\n" * n + "y",
        "x\n" + "\n" * n + " y",
        "# a\n" * (n // 10),
        "a\n\n" * (n // 10),
    ):
        for markup in (True, False):
            found = pieces_of(text, markup=markup)
            assert "".join(piece.text for piece in found).strip() == text.strip()
    assert time.process_time() - begun < 2  # seconds; minutes before
    long = pieces_of("# " + "long " * 9000 + "\n\n" + "word " * 2000)
    assert max(len(piece.heading) for piece in long) <= 1000 and max(len(piece.text) for piece in long) < 4000
    assert [p.heading for p in pieces_of("# C#\n\nx\n\n# A ##\n\ny\n")] == ["C#", "A"]


def _edited(place, change):
    """Edit the index, with checksums that fit."""
    data = json.loads((place / "index.json").read_text())
    change(data)
    for name in [*data["files"]] if isinstance(data.get("files"), dict) else []:
        content = (place / name).read_bytes()
        data["files"][name] = [len(content), hashlib.sha256(content).hexdigest()]
    del data["sha256"]
    data["sha256"] = hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
    (place / "index.json").write_text(json.dumps(data))


def test_an_edited_index_is_not_believed(folder):
    FolderIndex.update(folder)
    place = folder / ".llmanac" / "index"
    text = (place / "index.json").read_text()
    (place / "index.json").write_text(text.replace("guide.md", "other.md"))
    with pytest.raises(CheckpointError, match=r"index\.json: damaged or edited"):
        FolderIndex.open(place)
    assert len(FolderIndex.update(folder).changed) == 4
    assert FolderIndex.update(folder).retrieve("reins", 1)[0].passage.document == "docs/guide.md"

    def array(name, make):
        return lambda data: np.save(place / f"{name}.npy", make(np.load(place / f"{name}.npy")))

    def put(**values):
        return lambda data: data.update(values)

    def header(data):
        (place / "ids.npy").write_bytes((place / "ids.npy").read_bytes().replace(b"{'descr'", b"{('escr'"))

    for change in (
        array("ids", lambda a: np.concatenate([[2**30, -5], a[2:]])), array("idf", lambda a: a[:-1]),
        array("ids", lambda a: a.astype(float)), array("passages", lambda a: a[::-1].copy()),
        array("passages", lambda a: a - 1), header, put(records=5), put(records=[{"documents": [["a", 10**18]]}]),
        put(encoder={"model": 3}), put(encoder=[1]), put(files={}), put(files=[]), lambda data: data.pop("records"),
        lambda data: data["records"][0].pop("file"), lambda data: data["records"][0].update(documents=[[7, 4]]),
    ):  # fmt: skip
        _edited(place, change)
        with pytest.raises(CheckpointError, match="build it again"):
            FolderIndex.open(place)
        assert len(FolderIndex.update(folder).changed) == 4
    _edited(place, lambda data: (place / "text.bin").write_bytes(b"\xff" * (place / "text.bin").stat().st_size))
    with pytest.raises(CheckpointError, match=r"text\.bin: damaged"):
        list(FolderIndex.open(place).passages())


def test_an_index_of_the_version_before_is_read_and_made_anew_with_its_encoder(folder):
    spec = Spec(model="counted")
    place = FolderIndex.update(folder, encoder=spec, encode=encode).place
    _edited(place, lambda data: data.update(format_version=2))
    assert len(FolderIndex.open(place)) > 4
    newer = FolderIndex.update(folder, encode=encode)
    assert len(newer.changed) == 4 and newer.encoder == spec and newer.data["format_version"] == VERSION
    _edited(place, lambda data: data.update(format_version=1))
    with pytest.raises(CheckpointError, match="another version"):
        FolderIndex.open(place)


def test_commands(folder, capsys):
    for arguments, shown in (
        (["index", str(folder)], "Next: llmanac retrieve"),
        (["retrieve", str(folder), "naïve callers", "-k", "1"], "docs/guide.md:15-17"),
        (["retrieve", str(folder), "qqq"], "Nothing in"),
    ):
        with pytest.raises(SystemExit) as done:
            main(arguments)
        assert done.value.code == 0 and shown in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["retrieve", str(folder), "okapi", "--json"])
    row = json.loads(capsys.readouterr().out)["passages"][0]
    assert row["document"] == "rows.jsonl:1" and row["text"] == "An okapi is no horse."
    with pytest.raises(SystemExit) as done:
        main(["retrieve", str(folder), "okapi", "--method", "dense"])
    assert done.value.code == 2 and "--encoder" in capsys.readouterr().err


def test_what_documents_hold_does_not_control_the_terminal(tmp_path, capsys):
    name = "a\x1b]0;title\x07\u202e.txt"
    (tmp_path / name).write_text("The zebra \x1b[31m weighs \u202e310 kilograms\u2066 今日は.\n", "utf-8")
    for command in (["retrieve", str(tmp_path), "zebra"], ["ask", str(tmp_path), "What weighs the zebra?"]):
        with pytest.raises(SystemExit):
            main(command)
        out = capsys.readouterr().out
        assert "\\x1b" in out and "\\u202e" in out and "今日は" in out.replace("\n", "")
        assert not {"\x1b", "\x07", "\u202e", "\u2066"} & set(out)


def test_a_place_that_cannot_be_written_is_another_one_with_index(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("The zebra weighs 310 kilograms.\n")
    (tmp_path / ".llmanac").write_text("no folder")
    with pytest.raises(SystemExit):
        main(["ask", str(tmp_path), "What weighs the zebra?"])
    assert "name another place with --index" in capsys.readouterr().err


def test_tables_without_a_text_column_are_named_once_with_their_columns(tmp_path, capsys):
    rows = "".join(f"Olga {i},555\n" for i in range(9))
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("name,phone\n" + rows)
    with pytest.raises(DataError, match=r"a\.csv.*no column 'text' \(has: name, phone\).*b\.csv"):
        FolderIndex.update(tmp_path)
    (tmp_path / "c.md").write_text("The quokka smiles.\n")
    assert len(FolderIndex.update(tmp_path).unread) == 2
    with pytest.raises(SystemExit):
        main(["ask", str(tmp_path), "What is the phone of Olga?"])
    out, err = capsys.readouterr()
    assert "(2 files could not be read" in out
    assert err.startswith("note: 2 files could not be read") and err.count("(and 8 more)") == 2
    for i in range(7):
        (tmp_path / f"d{i}.txt").write_bytes(b"B\xe4r")
    with pytest.raises(SystemExit):
        main(["ask", str(tmp_path), "Who smiles?", "--json"])
    out, err = capsys.readouterr()
    assert len(json.loads(out)["unread"]) == 9 and "note: 9 files" in err and "and 4 files more" in err
    assert len(err.splitlines()) == 7


def test_words_of_removed_documents_are_forgotten(tmp_path):
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "a.txt").write_text("the first words hunter2secret")
    (folder / "b.txt").write_text("other words of a second text")
    FolderIndex.update(folder)
    (folder / "a.txt").unlink()
    index = FolderIndex.update(folder)
    assert not any("hunter2" in word for word in index.words)
    assert [hit.passage.text for hit in index.retrieve("second text", 1)] == ["other words of a second text"]
    assert b"hunter2" not in b"".join(path.read_bytes() for path in index.place.iterdir())


def test_a_store_is_copied_first():
    with pytest.raises(DataError, match="copy the objects into a folder first"):
        FolderIndex.update("s3://bucket/notes")
