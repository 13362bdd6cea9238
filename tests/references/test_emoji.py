"""The archive of emoji: the captioned folder, and archives that are made to do harm."""

from __future__ import annotations

import csv
import io
import json
import tarfile

import pytest
from _seeing_models import encoded
from PIL import Image
from typer.testing import CliRunner

from llmanac.cli import app
from llmanac.core.errors import DataError, SpecError
from llmanac.data.pictures import emoji
from llmanac.data.pictures.emoji import write_emoji
from llmanac.data.pictures.folder import read_pictures

NAMES = {
    "1f436.png": ("DOG FACE", "Animals & Nature", "animal-mammal"),
    "1f431.png": ("CAT FACE", "Animals & Nature", "animal-mammal"),
    "1f469-200d-1f692.png": ("WOMAN FIREFIGHTER", "People & Body", "person-role"),
    "1f1ef-1f1f4.png": ("Jordan Flag", "Flags", "country-flag"),
    "1f3fb.png": ("SKIN TONE", "Component", "skin-tone"),
}
PICTURE = encoded(Image.new("RGBA", (64, 64), (200, 30, 40, 255)))


def table(names=NAMES):
    entries = [{"image": image, "name": n, "category": c, "subcategory": s} for image, (n, c, s) in names.items()]
    return json.dumps([*entries, {"image": "1f600.png", "name": "GRINNING", "category": "Smileys"}, 7]).encode()


def archive(path, members=None, kind="google"):
    """An archive in the package's layout; `members` are added to it, or take a member's place."""
    files = {"package/package.json": b"{}", "package/emoji.json": table()}
    files |= {f"package/img/{kind}/64/{name}": PICTURE for name in NAMES}
    files |= {f"package/img/{kind}/64/1f436-1f3fb.png": PICTURE, f"package/img/{kind}/sheets/64.png": b"large"}
    with tarfile.open(path, "w:gz") as out:
        for name, data in {**files, **(members or {})}.items():
            info = data if isinstance(data, tarfile.TarInfo) else tarfile.TarInfo(name)
            data = b"" if isinstance(data, tarfile.TarInfo) else data
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
    return path


def test_the_folder_has_an_image_and_a_text_for_each_emoji(tmp_path):
    made = archive(tmp_path / "emoji-datasource-google-16.0.0.tgz")
    done = CliRunner().invoke(app, ["data", "emoji", str(made), "-o", str(tmp_path / "emoji")])
    assert done.exit_code == 0 and "4 pictures" in done.output and "Apache-2.0" in done.output
    rows = list(csv.DictReader((tmp_path / "emoji" / "captions.csv").read_text("utf-8").splitlines()))
    assert [row["text"] for row in rows] == [
        "dog face, animal mammal", "cat face, animal mammal", "woman firefighter, person role",
        "jordan flag, country flag"]  # fmt: skip
    assert {row["license"] for row in rows} == {"Apache-2.0"} and rows[0]["category"] == "Animals & Nature"
    assert "Apache-2.0" in (tmp_path / "emoji" / "SOURCE.md").read_text("utf-8")
    pictures = read_pictures([tmp_path / "emoji"], 32)
    assert len(pictures) == 4 and pictures[0].image[9, 9].tolist() == [200, 30, 40]
    assert write_emoji(made, tmp_path / "emoji")["pictures"] == 4  # again, in place of the first
    (tmp_path / "emoji" / "own.txt").write_text("mine")
    with pytest.raises(SpecError, match="other files"):
        write_emoji(made, tmp_path / "emoji")


def test_a_set_without_a_license_is_refused(tmp_path):
    with pytest.raises(DataError, match="no license"):
        write_emoji(archive(tmp_path / "a.tgz", kind="apple"), tmp_path / "out")
    assert write_emoji(archive(tmp_path / "b.tgz", kind="twitter"), tmp_path / "out")["license"] == "CC-BY-4.0"


def link(name, to, kind=tarfile.SYMTYPE):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, to
    return info


def test_no_name_of_an_archive_leads_out_of_the_folder(tmp_path):
    inside = "package/img/google/64/"
    harmful = {
        "../escaped.png": PICTURE, "/tmp/escaped.png": PICTURE, f"{inside}../../../../escaped.png": PICTURE,
        f"{inside}1f4a9.png/../../x.png": PICTURE, "a": link(f"{inside}1f4a9.png", "/etc/passwd"),
        "b": link(f"{inside}1f4aa.png", "../../../../x", tarfile.LNKTYPE), f"{inside}CON.png": PICTURE,
    }  # fmt: skip
    named = {**NAMES, "../../escaped.png": ("X", "Y", "z"), "1f4a9.png": ("PILE", "Y", "z")}
    made = archive(tmp_path / "a.tgz", {**harmful, "package/emoji.json": table(named)})
    assert write_emoji(made, tmp_path / "deep" / "out")["pictures"] == 4
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tgz", "deep"]
    assert sorted(p.name for p in (tmp_path / "deep").rglob("*.png")) == sorted(set(NAMES) - {"1f3fb.png"})


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"package/big": bytes(20 << 20)}, "times as many"),
        ({"package/emoji.json": b"[" * 100_000}, "not JSON"),
        ({"package/emoji.json": b"{}"}, "expected a list"),
        ({"package/emoji.json": b"[]"}, "no emoji"),
        ({"package/img/twitter/64/1f436.png": PICTURE}, "2 sets"),
        ({"package/img/google/64/1f436.png": PICTURE[:60]}, r"1f436.png: not an image"),
        ({"package/img/google/64/1f436.png": encoded(Image.new("1", (9000, 900)))}, "pixels"),
        ({"package/img/google/64/1f436.png": bytes(2 << 20)}, "at most"),
    ],
)
def test_archives_that_are_refused(tmp_path, members, said):
    made = archive(tmp_path / "a.tgz", members)
    with pytest.raises(DataError, match=said):
        write_emoji(made, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_files_that_are_no_archive(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="npm pack"):
        write_emoji(tmp_path / "none.tgz", tmp_path / "out")
    for name, data in (
        ("zip", b"PK\3\4aaaa"),
        ("empty", b""),
        ("cut", archive(tmp_path / "a.tgz").read_bytes()[:-300]),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=r"not an archive|expected package"):
            write_emoji(tmp_path / name, tmp_path / "out")
    monkeypatch.setattr(emoji, "MOST_MEMBERS", 3)
    with pytest.raises(DataError, match="more than 3 files"):
        write_emoji(tmp_path / "a.tgz", tmp_path / "out")
