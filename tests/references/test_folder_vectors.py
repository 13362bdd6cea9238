"""Vectors of a folder's passages: what a killed run keeps, what is not used again, and the commands with an encoder."""

from __future__ import annotations

import numpy as np
import pytest
from _folders import encode, small_folder  # noqa: F401

from llmanac.cli import main
from llmanac.core.errors import DataError
from llmanac.retrieve.dense import Spec
from llmanac.retrieve.folder import FolderIndex
from llmanac.retrieve.folder._vectors import embedded, forget


def test_vectors_of_a_killed_run_are_not_computed_again(folder, monkeypatch, capsys):
    """The encoder stops after some batches, as a killed process does; a row that was written in part is left out."""
    monkeypatch.setattr("llmanac.retrieve.dense.TOGETHER", 2)
    calls = []

    def stops(texts):
        if len(calls) >= 4:
            raise KeyboardInterrupt
        calls.extend(texts)
        return encode(texts)

    spec, kept = Spec(model="counted"), folder / ".llmanac" / "index.vectors"
    with pytest.raises(KeyboardInterrupt):
        FolderIndex.update(folder, encoder=spec, encode=stops)
    assert FolderIndex.open(folder / ".llmanac" / "index").encoder is None  # complete without vectors
    most = len({(p.heading, p.text) for p in FolderIndex.open(folder / ".llmanac" / "index").passages()})
    assert f"stopped; 4 of {most} vectors are kept" in capsys.readouterr().err
    with open(kept / "rows.bin", "ab") as file:
        file.write(b"part of a row")
    (folder / "aaa.md").write_text("The quokka rides.\n")  # the passages of before have other numbers now
    again = []

    def counted(texts):
        again.extend(texts)
        return encode(texts)

    index = FolderIndex.update(folder, encoder=spec, encode=counted)
    texts = [f"{p.heading}\n{p.text}" if p.heading else p.text for p in index.passages()]
    assert len(calls) == 4 and again[0] in calls  # by which the encoder is known again
    assert sorted(calls + again[1:]) == sorted(texts)
    np.testing.assert_array_equal(index.arrays["vectors"], encode(texts))
    assert not kept.exists()
    assert "note: 4 of " in capsys.readouterr().err


def test_vectors_kept_for_another_encoder_or_damaged_are_not_used(folder):
    spec, kept = Spec(model="counted"), folder / ".llmanac" / "index.vectors"
    texts = ["zebra", "ride", "zebra"]
    expected = encode(texts)
    np.testing.assert_array_equal(embedded(kept, texts, spec, encode), expected)
    np.testing.assert_array_equal(embedded(kept, texts, spec, None), expected)  # all are there: no model is needed
    np.testing.assert_array_equal(
        embedded(kept, ["ride"], Spec(model="other"), lambda t: 2 * encode(t)), 2 * expected[1:2]
    )
    for changed in (lambda texts: np.ones((len(texts), 3), np.float32), lambda texts: encode(texts)[:, ::-1]):
        embedded(kept, texts, spec, encode)
        found = embedded(kept, [*texts, "new"], spec, changed)
        np.testing.assert_array_equal(found, changed([*texts, "new"]))
        forget(kept)
    for damage in ("", "[]", '{"width": 6}', '{"width": -1, "spec": {}}'):
        embedded(kept, texts, spec, encode)
        (kept / "encoder.json").write_text(damage)
        np.testing.assert_array_equal(embedded(kept, texts, spec, encode), expected)


def test_a_stopped_renewal_keeps_the_index_and_its_encoder(folder):
    spec = Spec(model="counted")
    place = FolderIndex.update(folder, encoder=spec, encode=encode).place
    (folder / "aaa.md").write_text("# New\n\nThe quokka rides.\n")

    def stops(texts):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        FolderIndex.update(folder, encode=stops)
    assert FolderIndex.open(place).encoder == spec
    (place / "text.bin").write_bytes(b"damaged")  # built again, with vectors
    again = FolderIndex.update(folder, encode=encode)
    assert again.encoder == spec and "aaa.md" in again.changed
    assert FolderIndex.update(folder, include=["*.md"], encode=encode).encoder == spec


def test_commands_with_an_encoder(folder, capsys, monkeypatch):
    """The command names the encoder once; the index remembers it, its pooling and its dtype."""
    monkeypatch.setattr(Spec, "encoder", lambda self: encode)
    monkeypatch.setattr(Spec, "prefixes", lambda self: ("", ""))
    for arguments, shown in (
        (["index", str(folder), "--encoder", "small", "--pooling", "cls", "--dtype", "float16"], "6"),
        (["retrieve", str(folder), "install", "-k", "1"], "hybrid: install"),
        (["retrieve", str(folder), "reins", "--method", "dense", "-k", "1"], "docs/guide.md:15-17"),
        (["ask", str(folder), "How many stripes had a quagga?"], "Next: llmanac retrieve"),
    ):
        with pytest.raises(SystemExit) as done:
            main(arguments)
        assert done.value.code == 0 and shown in capsys.readouterr().out
    index = FolderIndex.open(folder / ".llmanac" / "index")
    assert index.encoder == Spec(model="small", pooling="cls", dtype="float16")
    assert index.arrays["vectors"].dtype == np.float16
    for flag, value in (("--dtype", "float8"), ("--pooling", "most")):
        with pytest.raises(SystemExit) as done:
            main(["index", str(folder), "--encoder", "small", flag, value])
        assert done.value.code == 2 and value in capsys.readouterr().err


def test_an_index_inside_the_folder_is_no_document_of_it(folder, monkeypatch):
    """Of a killed run the vectors' own folder is there too, with a JSON file."""
    monkeypatch.setattr("llmanac.retrieve.dense.TOGETHER", 2)
    done = []

    def stops(texts):
        if done:
            raise KeyboardInterrupt
        done.extend(texts)
        return encode(texts)

    place, spec = folder / "kept", Spec(model="counted")
    with pytest.raises(KeyboardInterrupt):
        FolderIndex.update(folder, place, encoder=spec, encode=stops)
    assert (folder / "kept.vectors" / "encoder.json").is_file()
    index = FolderIndex.update(folder, place, encoder=spec, encode=encode)
    assert not [name for name in index.documents if name.startswith("kept")]


def test_an_encoder_that_changed_is_named(folder, monkeypatch, capsys):
    """By a file that is new, and by a query."""
    spec = Spec(model="counted")
    FolderIndex.update(folder, encoder=spec, encode=encode)
    (folder / "aaa.md").write_text("The quokka rides.\n")
    for other in (lambda texts: np.ones((len(texts), 3), np.float32), lambda texts: encode(texts)[:, ::-1]):
        with pytest.raises(DataError, match=r"counted: its vectors are not those of the index.*--encoder"):
            FolderIndex.update(folder, encode=other)
    assert FolderIndex.update(folder, encode=encode).changed == ["aaa.md"]
    monkeypatch.setattr(Spec, "prefixes", lambda self: ("", ""))
    for given, options, status in ((encode, [], 0), (other, [], 2), (other, ["--method", "bm25"], 0)):
        monkeypatch.setattr(Spec, "encoder", lambda self, given=given: given)
        with pytest.raises(SystemExit) as done:
            main(["retrieve", str(folder), "install", *options])
        assert done.value.code == status
    assert "counted: its vectors are not those of the index" in capsys.readouterr().err
