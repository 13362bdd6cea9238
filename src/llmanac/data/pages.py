"""Web pages and print: HTML files, WARC archives (also `.warc.gz`), PDF, office files and books, each as documents.

A page's text is its raw HTML, with `meta["format"] == "html"` and, where it is known, `meta["url"]`: taking the text
out of it is the stage `extraction`'s work. WARC is read with `warcio`, PDF with `pypdf`, Word, PowerPoint, Excel and
EPUB with python-docx, python-pptx, openpyxl and EbookLib (`pip install llmanac[data]`).
"""

import importlib
import logging
import re
import tomllib
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from llmanac.core.errors import DataError
from llmanac.data.documents import Document
from llmanac.data.floods import page_flood
from llmanac.data.quarantine import Bounds, MissingLibrary, Problems, Unreadable
from llmanac.data.unpack import blocks, format_of, unpacked

_NAMES: dict[str, list[str]] = tomllib.loads(Path(__file__).with_name("encodings.toml").read_text("utf-8"))
ENCODINGS = {label: name for name, labels in _NAMES.items() for label in labels}  # a label not here is not followed
INSTALL = "pip install 'llmanac[data]'"
LIBRARIES = {  # format -> what reads it
    ".pdf": "pypdf", ".warc": "warcio", ".docx": "docx", ".pptx": "pptx", ".xlsx": "openpyxl", ".epub": "ebooklib",
}  # fmt: skip
_META = re.compile(rb"""<meta[^>]{0,500}?charset\s*=\s*["']?\s*([\w.:-]{2,40})""", re.IGNORECASE)
_XML = re.compile(rb"""^\s*<\?xml[^>]{0,200}?encoding\s*=\s*["']([\w.:-]{1,40})""", re.IGNORECASE)
_CHARSET = re.compile(r"""charset\s*=\s*["']?([\w.:-]{2,40})""", re.IGNORECASE)
HTML_TYPES = ("text/html", "application/xhtml+xml")
PAGE_TYPES = ("response", "resource", "conversion")  # types of WARC records that hold a page; the others of the format:
OTHER_TYPES = ("warcinfo", "request", "metadata", "revisit", "continuation")


def decode_page(data: bytes, content_type: str = "") -> str:
    """A page's characters: by its byte order mark, the server's header, its `<meta>` or XML declaration, UTF-8, cp1252.

    Bytes that the encoding does not have become U+FFFD.
    """
    for mark, name in ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")):
        if data.startswith(mark):
            return data[len(mark) :].decode(name, "replace")
    said = _CHARSET.search(content_type)
    name = ENCODINGS.get(said[1].lower(), "") if said else ""
    if not name and (found := _META.search(data[:4096]) or _XML.search(data[:4096])):
        name = ENCODINGS.get(found[1].decode("ascii", "replace").lower(), "")
        name = "utf-8" if name.startswith("utf-16") else name  # a tag that could be read as ASCII is not UTF-16
    if not name:
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            name = "cp1252"
    return data.decode(name, "replace")


def missing_library(kind: str) -> str:
    """The library that reads files of this format, where it is not installed; empty for all others."""
    module = LIBRARIES.get(kind, "")
    try:
        if module:
            importlib.import_module(module)
    except ImportError:
        return module
    return ""


def _need(module: str, what: str, path: Path) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise MissingLibrary(path, f"{module} is not installed, which reads {what}; run `{INSTALL}`") from None


def _held(path: Path, problems: Problems) -> bytes | None:
    """A file's bytes, or None (and a problem) when there are more than a document may have."""
    parts, size = [], 0
    for block in blocks(path, problems):
        size += len(block)
        if size > problems.bounds.document:
            limit = f"more than {problems.bounds.document:,} bytes ({problems.bounds.longer})"
            problems.report(path, None, limit, code="too-large")
            return None
        parts.append(block)
    return b"".join(parts)


def html_documents(path: Path, shown: str, meta: Mapping[str, Any], problems: Problems) -> Iterator[Document]:
    """One HTML file, one document. It never fails to decode."""
    data = _held(path, problems)
    if data is None:
        return
    text = decode_page(data)
    if why := page_flood(text):
        problems.report(path, None, f"no text is in it: {why}", code="not-text")
    elif text.strip():
        yield Document(shown, text, shown, {**meta, "format": "html"})
    else:
        problems.blank(path, None)


def book_documents(path: Path, shown: str, meta: Mapping[str, Any], problems: Problems) -> Iterator[Document]:
    """One PDF, Word, PowerPoint, Excel or EPUB file, one document: the text of its parts, a blank line between two."""
    kind = format_of(path)
    library, parts_of = BOOKS[kind]
    module, name = _need(library, kind[1:].upper(), path), kind[1:].upper()
    parts: list[str] = []
    size = count = 0
    try:
        with unpacked(path, problems) as plain:
            if kind != ".pdf":
                with zipfile.ZipFile(plain) as held:
                    size = sum(one.file_size for one in held.infolist() if one.filename.endswith(XML))
            for part in parts_of(module, plain) if size <= problems.bounds.document else ():
                parts.append(part.encode("utf-8", "replace").decode("utf-8"))
                size, count = size + len(parts[-1]) * (kind == ".pdf"), count + 1
                if size > problems.bounds.document:
                    break
    except (Unreadable, _Encrypted) as error:
        if isinstance(error, Unreadable):
            raise
        problems.report(path, None, f"the {name} asks for a password", code="encrypted")
        return
    except Exception as error:  # whatever a broken file leads a library to
        reason = (str(error).splitlines() or [""])[0][:200]
        problems.report(path, None, f"not a readable {name} ({type(error).__name__}: {reason})", code="damaged")
        return
    if size > problems.bounds.document:
        limit = f"more than {problems.bounds.document:,} bytes of text ({problems.bounds.longer})"
        problems.report(path, None, limit, code="too-large")
        return
    text = "\n\n".join(part.strip() for part in parts if part.strip())
    if text:
        pages = {"pages": count} if kind == ".pdf" else {}
        yield Document(shown, text, shown, {**meta, "format": kind[1:], **pages})
    else:
        problems.blank(path, None)  # scanned pages have no text


class _Encrypted(Exception):
    pass


def _pdf(pypdf: Any, path: Path) -> Iterator[str]:
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it warns of every oddity of every file
    with pypdf.PdfReader(path) as reader:
        if reader.is_encrypted and not reader.decrypt(""):
            raise _Encrypted
        for page in reader.pages:
            yield page.extract_text()


def _docx(docx: Any, path: Path) -> Iterator[str]:
    """Headings as Markdown's, paragraphs, and rows of tables."""
    for block in docx.Document(str(path)).iter_inner_content():
        if isinstance(block, docx.table.Table):
            yield "\n".join(" | ".join(cell.text for cell in row.cells) for row in block.rows)
        else:
            level = (block.style.name if block.style is not None else "").removeprefix("Heading ")
            yield f"{'#' * int(level)} {block.text}" if level in "123456" and level else block.text


def _pptx(pptx: Any, path: Path) -> Iterator[str]:
    """A slide under its title."""
    for number, slide in enumerate(pptx.Presentation(str(path)).slides, 1):
        title = slide.shapes.title
        rows = [shape.text_frame.text for shape in slide.shapes if shape.has_text_frame and shape != title]
        name = title.text_frame.text if title is not None and title.text_frame.text.strip() else f"Slide {number}"
        yield "\n\n".join([f"# {' '.join(name.split())}", *rows])


def _xlsx(openpyxl: Any, path: Path) -> Iterator[str]:
    """A sheet under its name, a row a line."""
    book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    for sheet in book.worksheets:
        rows = (
            " | ".join("" if cell is None else str(cell) for cell in row) for row in sheet.iter_rows(values_only=True)
        )
        yield "\n".join([f"# {sheet.title}", "", *(row for row in rows if row.strip(" |"))])
    book.close()


def _epub(ebooklib: Any, path: Path) -> Iterator[str]:
    """Headings as Markdown's, and paragraphs, in the order of the book."""
    import lxml.html
    from ebooklib import epub

    book = epub.read_epub(str(path), {"ignore_ncx": True})
    for name, _ in book.spine:
        item = book.get_item_with_id(name)
        if item is not None and item.get_type() == ebooklib.ITEM_DOCUMENT:
            for block in lxml.html.document_fromstring(item.get_content()).iter(*HEADINGS, "p", "li"):
                text = " ".join(block.text_content().split())
                yield f"{'#' * int(block.tag[1])} {text}" if block.tag in HEADINGS else text


HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")
XML = (".xml", ".xhtml", ".html", ".htm", ".rels", ".opf", ".ncx")  # what these formats hold besides pictures
BOOKS: dict[str, tuple[str, Callable[[Any, Path], Iterator[str]]]] = {
    ".pdf": ("pypdf", _pdf), ".docx": ("docx", _docx), ".pptx": ("pptx", _pptx), ".xlsx": ("openpyxl", _xlsx),
    ".epub": ("ebooklib", _epub),
}  # fmt: skip


def warc_documents(path: Path, shown: str, meta: Mapping[str, Any], problems: Problems) -> Iterator[Document]:
    """The pages of a WARC archive: records of the types response, resource and conversion that hold HTML or text.

    Pages of one host are one group. A record's id is `file:number`, the number counting every record from 1.
    """
    archive = _need("warcio.archiveiterator", "WARC", path)
    number, silent, code = 0, True, ""
    try:
        with unpacked(path, problems, ".gz") as plain, open(plain, "rb") as handle:
            records = archive.ArchiveIterator(handle)
            _prepare(records)
            for record in records:
                number += 1
                page, reason, code = _record(record, problems.bounds)
                if code == "empty":
                    problems.blank(path, number)
                elif code:
                    problems.report(path, number, reason, code=code)
                elif page is not None:
                    url, text, found = page
                    yield Document(f"{shown}:{number}", text, _host(url) or shown, {**meta, **found, "url": url})
                silent = silent and not code and page is None
        # a member of the gzip file that has no end yet may be too short for a single byte to come out of it
        unfinished = getattr(records.reader.decompressor, "eof", True) is False
        if code != "truncated" and (unfinished or (not number and path.stat().st_size)):
            problems.report(path, number + 1, "the archive ends inside a record", code="truncated")
        elif silent:
            problems.blank(path, None)
    except DataError:
        raise
    except OSError as error:
        raise Unreadable(path, f"cannot read it ({error.strerror or error})") from None
    except Exception as error:  # warcio's errors, zlib's, and what a damaged record leads to
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        problems.report(path, number + 1, f"not a readable WARC record ({reason})", code="damaged")


def _prepare(records: Any) -> None:
    """Let the end of an archive be seen: warcio takes a record that ends inside its HTTP headers for the end of it all,
    and forgets how the last member of a gzip file ended."""
    load = records.loader.load_http_headers

    def headers(*given: Any) -> Any:
        try:
            return load(*given)
        except EOFError:
            return None

    records.loader.load_http_headers, records.close = headers, lambda: None


def _record(record: Any, bounds: Bounds) -> tuple[tuple[str, str, dict[str, str]] | None, str, str]:
    """`(page, "", "")` with a page's address, text and meta; `(None, reason, code)` for what is none.

    Both are empty for a complete record of a type that holds no page (a request, the archive's own note).
    """
    said = record.rec_headers.get_header
    if not record.rec_type or not (said("Content-Length") or "").strip().isdigit():
        return None, "the head of the record is cut off or damaged: it has no type or no length", "truncated"
    headers = record.http_headers
    kind = (headers.get_header("Content-Type") if headers else said("Content-Type")) or ""
    name = kind.partition(";")[0].strip().lower()
    status = (headers.get_statuscode() if headers else "200") or ""
    wanted = record.rec_type in PAGE_TYPES and (name in HTML_TYPES or name.startswith("text/plain"))
    parts, size, limit = [], 0, bounds.document
    if wanted and status.startswith("2"):
        stream = record.content_stream()
        while size <= limit and (part := stream.read(1 << 16)):
            parts.append(part)
            size += len(part)
    if size > limit:
        return None, f"more than {limit:,} bytes ({bounds.longer})", "too-large"
    while record.raw_stream.read(1 << 16):  # what is left; a record that is cut off has too little
        pass
    if (missing := getattr(record.raw_stream, "limit", 0)) > 0:
        return None, f"the record is cut off; {missing:,} bytes are missing", "truncated"
    if record.rec_type in OTHER_TYPES:
        return None, "", ""
    if record.rec_type not in PAGE_TYPES:
        return None, f"its type is {record.rec_type[:80]}", "not-text"
    if not wanted:
        return None, f"its content type is {name[:80] or 'not given'}", "not-text"
    if not status.startswith("2"):
        return None, f"the server answered {status[:20]}", "http-status"
    text = decode_page(b"".join(parts), kind)
    if not text.strip():
        return None, "", "empty"
    if name in HTML_TYPES and (why := page_flood(text)):
        return None, f"no text is in it: {why}", "not-text"
    found = {"format": "html" if name in HTML_TYPES else "text"}
    if date := said("WARC-Date"):
        found["date"] = date
    return ((said("WARC-Target-URI") or "").strip("<> "), text, found), "", ""


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
