"""Word, PowerPoint, Excel and EPUB files are read as the libraries that wrote them hold them."""

from __future__ import annotations

import zipfile

import pytest

from llmanac.core.errors import DataError
from llmanac.core.spec import make_method
from llmanac.data.quarantine import Bounds, Problems
from llmanac.retrieve.folder import FolderIndex
from llmanac.retrieve.folder.answers import FolderAssistant

FACTS = {"docx": "The zebra Marty weighs 310 kilograms.", "pptx": "The ferry Aurora carries 220 passengers.",
         "xlsx": "The okapi Nils sleeps 14 hours.", "epub": "The lighthouse Fastnet was built in 1854."}  # fmt: skip


def written(folder, kind):
    """A file of the kind with a heading "Animals" and a fact."""
    path = folder / f"facts.{kind}"
    if kind == "docx":
        docx = pytest.importorskip("docx", reason="needs `pip install llmanac[data]`")
        made = docx.Document()
        made.add_heading("Animals", 1)
        made.add_paragraph(FACTS[kind])
        made.add_table(1, 2).rows[0].cells[1].text = "a cell"
        made.save(str(path))
    elif kind == "pptx":
        pptx = pytest.importorskip("pptx", reason="needs `pip install llmanac[data]`")
        made = pptx.Presentation()
        slide = made.slides.add_slide(made.slide_layouts[1])
        slide.shapes.title.text, slide.placeholders[1].text = "Animals", FACTS[kind]
        made.save(str(path))
    elif kind == "xlsx":
        openpyxl = pytest.importorskip("openpyxl", reason="needs `pip install llmanac[data]`")
        made = openpyxl.Workbook()
        made.active.title = "Animals"
        made.active.append([FACTS[kind], 5, None])
        made.save(path)
    else:
        epub = pytest.importorskip("ebooklib.epub", reason="needs `pip install llmanac[data]`")
        made = epub.EpubBook()
        made.set_identifier("x")
        made.set_title("Book")
        chapter = epub.EpubHtml(title="Animals", file_name="a.xhtml")
        chapter.content = f"<h1>Animals</h1><p>{FACTS[kind]}</p>"
        made.add_item(chapter)
        made.add_item(epub.EpubNcx())
        made.spine = [chapter]
        epub.write_epub(str(path), made)
    return path


def read(path, problems=None, **fields):
    return list(make_method("source", {"name": "files", "paths": [str(path)], **fields}).documents(problems))


@pytest.mark.parametrize("kind", FACTS)
def test_text_and_headings_are_read_and_asked_about(tmp_path, kind):
    [document] = read(written(tmp_path, kind))
    assert FACTS[kind] in document.text and "# Animals" in document.text and document.meta["format"] == kind
    assert kind != "docx" or "a cell" in document.text
    index = FolderIndex.update(tmp_path)
    assert [p.heading for p in index.passages()][:1] == ["Animals"]
    answer = FolderAssistant(index).answer(FACTS[kind].replace(".", "?"))
    assert FACTS[kind].split()[-2] in answer.text and answer.citations[0].title.startswith(f"facts.{kind}")


@pytest.mark.parametrize("kind", FACTS)
def test_damaged_and_too_large_ones_are_problems(tmp_path, kind):
    path = written(tmp_path, kind)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=f"facts.{kind}: not a readable {kind.upper()}"):
        read(path, Problems("skip"))
    path.write_bytes(data)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as held:
        held.writestr("big.xml", b"0" * (3 << 20))
    with pytest.raises(DataError, match=f"facts.{kind}: more than 2,097,152 bytes"):
        read(path, Problems("skip", bounds=Bounds(document=2 << 20)))
