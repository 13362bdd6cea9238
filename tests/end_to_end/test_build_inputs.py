"""Files that are not what they seem: strange names, pipes, archives cut short, edited under their old time."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from _builds import dropped, rows

from llmanac.cli import main
from llmanac.core.errors import DataError
from llmanac.core.files import readable
from llmanac.data.documents import UniqueNames
from llmanac.data.pipeline.build import build
from llmanac.data.pipeline.finish import fate
from llmanac.data.pipeline.recipe import make_recipe
from llmanac.data.quarantine import Problems
from llmanac.data.sources.files import Spec as Files

TEXT = "a good text of a few words\n" * 40


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "good.txt").write_text(TEXT)
    return tmp_path


def built(folder: Path, **more: Any) -> tuple[list[str], dict[str, str]]:
    """Build what is in `folder/in`: ids kept, and the reason of each that was not."""
    manifest = build(make_recipe({"inputs": [str(folder / "in")], **more}), folder / "out", workers=1)
    reasons = {line["id"]: line["reason"] for line in dropped(folder / "out")}
    read = manifest["stages"][0]
    assert read["documents_in"] == read["documents_out"] + sum(read["dropped"].values())
    return [row["id"] for row in rows(folder / "out")], reasons


def write_not_utf8(folder: Path) -> Path:
    path = Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.txt"))
    try:
        path.write_text("a text under a name that is not UTF-8\n" * 40)
    except OSError:
        pytest.skip("this file system takes only names in UTF-8")
    return path


def test_a_name_that_is_not_utf8_is_shown_escaped(folder: Path) -> None:
    path = write_not_utf8(folder / "in")
    (folder / "in" / "caf\\xe9.txt").write_text("the one that is called so\n" * 40)
    (folder / "in" / path.name.replace("txt", "jsonl")).write_text('{"text": "row"}\n{broken\n')
    kept, reasons = built(folder, stages=["clean"])
    assert kept == ["caf\\xe9.txt", "caf\\xe9.jsonl:1", "caf\\xe9.txt~2", "good.txt"]
    assert reasons == {"caf\\xe9.jsonl:2": "not-json"}
    assert json.loads((folder / "out" / "manifest.json").read_text("utf-8"))["inputs"]["files"] == 4
    assert fate(folder / "out", "caf\\xe9.txt~2")["kept"]
    whole = make_recipe({"inputs": [str(path)], "stages": ["clean"]})
    build(whole, path.parent.parent / "one", workers=1)
    assert build(whole, path.parent.parent / "one", workers=1)["output"]["documents"] == 1


@pytest.mark.parametrize("what", ["the folder", "the file"])
def test_commands_take_a_name_that_is_not_utf8(
    folder: Path, what: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_not_utf8(folder / "in")
    aim = str(folder / "in") if what == "the folder" else str(path)
    monkeypatch.chdir(folder)
    for command in (
        ["dedup", aim, "--out", path.stem],
        ["tokenizer", "train", "bpe", aim, "-o", "tok", "-s", "vocab_size=270"],
    ):
        with pytest.raises(SystemExit) as found:
            main(command)
        assert not found.value.code, capsys.readouterr().err
    report = json.loads((Path(path.stem) / "report.json").read_text("utf-8"))
    assert "caf\\xe9.txt" in report["inputs"]


def test_names_are_given_out_once() -> None:
    names = UniqueNames()
    assert [names.free(name) for name in ("a", "a~2", "a", "a", "a~2", "b")] == [
        "a", "a~2", "a~3", "a~4", "a~2~2", "b"
    ]  # fmt: skip
    assert readable("caf\udce9 \u00e9\u2603") == "caf\\xe9 é☃"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_what_is_no_text_file_is_listed_and_not_opened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = folder / "in"
    os.mkfifo(inside / "pipe.txt")
    (inside / "sub").mkdir()
    os.mkfifo(inside / "sub" / "pipe")
    (inside / "picture.png").write_bytes(b"\x89PNG")
    (inside / "BINARY").write_text("no suffix")
    (inside / "gone.txt").symlink_to(folder / "nothing")
    (inside / "loop.txt").symlink_to(inside / "loop.txt")
    (inside / "again").symlink_to(inside, target_is_directory=True)
    (inside / ".hidden").write_text("hidden")
    with socket.socket(socket.AF_UNIX) as open_socket:
        monkeypatch.chdir(inside)  # a socket's path must be short
        open_socket.bind("socket.txt")
    kept, reasons = built(folder)
    assert kept == ["good.txt"]
    assert reasons == {
        "again": "linked-folder", "BINARY": "unknown-format", "gone.txt": "not-a-file", "loop.txt": "not-a-file",
        "picture.png": "unknown-format", "pipe.txt": "not-a-file", "socket.txt": "not-a-file", "sub/pipe": "not-a-file",
    }  # fmt: skip
    assert json.loads((folder / "out" / "manifest.json").read_text())["inputs"]["files"] == 1
    assert [d.id for d in Files(paths=(str(inside),)).documents()] == ["good.txt"]
    (inside / "picture.png").write_bytes(b"another picture")  # nobody reads it
    built(folder)
    (inside / "gone.txt").unlink()
    (inside / "gone.txt").write_text("now it is there")
    with pytest.raises(DataError, match=r"gone\.txt can be read now"):
        built(folder)
    for paths in ([str(inside / "pipe.txt")], [str(inside / "pipe.txt*")]):
        with pytest.raises(DataError, match=r"is no regular file|no file matches"):
            list(Files(paths=tuple(paths)).documents())
    with pytest.raises(SystemExit) as found:
        main(["dedup", str(inside / "pipe.txt"), "--out", str(folder / "deduplicated")])
    assert found.value.code == 2


def test_a_file_that_may_not_be_read_is_listed_or_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "in" / "secret.txt").write_text("secret")
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: "secret" not in str(path) and access(path, mode))
    assert built(folder) == (["good.txt"], {"secret.txt": "unreadable"})
    with pytest.raises(DataError, match=r"secret\.txt: the file may not be read"):
        list(Files(paths=(str(folder / "in"),)).documents())
    recipe = make_recipe({"inputs": [str(folder / "in")], "on_error": "fatal"})
    with pytest.raises(DataError, match=r"secret\.txt: the file may not be read"):
        build(recipe, folder / "fatal", workers=1)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_that_may_not_be_read_is_listed(folder: Path) -> None:
    (folder / "in" / "locked").mkdir(mode=0)
    assert built(folder)[1] == {"locked": "unreadable"}


def test_a_file_edited_behind_the_clocks_back_is_noticed(folder: Path) -> None:
    path = folder / "in" / "good.txt"
    before = path.stat()
    built(folder)
    path.write_text(TEXT.replace("good", "evil"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    with pytest.raises(DataError, match=r"good\.txt has changed"):
        built(folder)
    path.write_text(TEXT)
    assert built(folder)[0] == ["good.txt"], "another time and the same content"


def test_a_build_goes_on_with_files_that_were_moved_or_touched(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llmanac.data.pipeline import build as building

    def full(*given: Any) -> None:
        raise KeyboardInterrupt

    path = folder / "in" / "good.txt"
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(building.inputs, "units", full)  # the input is looked at, nothing is read
        built(folder)
    path.rename(folder / "elsewhere")
    path.write_bytes((folder / "elsewhere").read_bytes())
    assert built(folder)[0] == ["good.txt"]


def test_a_warc_cut_anywhere_is_used_as_far_as_it_goes_and_said_to_be_cut(tmp_path: Path) -> None:
    warcwriter = pytest.importorskip("warcio.warcwriter", reason="needs `pip install llmanac[data]`")
    from io import BytesIO

    from warcio.statusandheaders import StatusAndHeaders

    from llmanac.data.pages import warc_documents

    class Noted(Problems):
        blanks = 0

        def blank(self, file: object, line: int | None) -> None:
            self.blanks += 1

    for packed, suffix in ((False, ".warc"), (True, ".warc.gz")):
        data = BytesIO()
        writer = warcwriter.WARCWriter(data, gzip=packed)
        writer.write_record(writer.create_warcinfo_record("x", {"software": "test"}))
        ends = [data.tell()]
        for n in range(2):
            headers = StatusAndHeaders("200 OK", [("Content-Type", "text/html")], protocol="HTTP/1.1")
            record = writer.create_warc_record(
                f"http://a.org/{n}", "response", payload=BytesIO(b"<p>page</p>"), http_headers=headers
            )
            writer.write_record(record)
            ends.append(data.tell())
        for size in range(ends[-1] + 1):
            path = tmp_path / f"cut{suffix}"
            path.write_bytes(data.getvalue()[:size])
            problems = Noted("skip")
            found = [document.id for document in warc_documents(path, "w", {}, problems)]
            assert found == ["w:2", "w:3"][: len(found)]
            assert found or problems.total or problems.blanks, size
            # nothing is missing where a record ends, and in the blank lines after it
            whole = any(end - (0 if packed else 4) <= size <= end for end in ends) or size == 0
            assert whole or problems.total == 1, size
