"""HTML, WARC and PDF as documents: beside what wrote the files, and beside the codecs' own tables."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import zlib
from pathlib import Path
from typing import Any

import pytest

from llmanac.core.errors import DataError
from llmanac.core.spec import make_method
from llmanac.data.pages import ENCODINGS, decode_page
from llmanac.data.quarantine import Bounds, Problems

TEXTS = {
    "windows-1251": "Привет, мир", "koi8-r": "Привет, мир", "shift_jis": "日本語のページ", "euc-jp": "日本語のページ",
    "gb2312": "中文网页", "big5": "中文網頁", "euc-kr": "한국어 페이지", "iso-8859-2": "Žluťoučký kůň",
    "utf-8": "Größe – ☃", "iso-8859-1": "naïve “quotes”", "windows-1256": "صفحة",
}  # fmt: skip


@pytest.mark.parametrize("label", sorted(TEXTS))
def test_a_page_says_its_encoding_in_its_head_or_the_server_does(label: str) -> None:
    text, codec = TEXTS[label], ENCODINGS[label]
    for meta in (f'<meta charset="{label}">', f"<META http-equiv=Content-Type content='text/html; charset={label}'>"):
        page = f"<html><head>{meta}</head><body>{text}</body></html>"
        assert decode_page(page.encode(codec)) == page
    page = f"<p>{text}</p>"
    assert decode_page(page.encode(codec), f"text/html; charset={label.upper()}") == page


def test_without_a_word_it_is_utf8_or_windows_1252_and_marks_win() -> None:
    assert decode_page("<p>Größe</p>".encode()) == "<p>Größe</p>"
    assert decode_page("<p>Größe – “x”</p>".encode("cp1252")) == "<p>Größe – “x”</p>"
    for codec in ("utf-8-sig", "utf-16"):
        assert decode_page('<meta charset="koi8-r">Größe'.encode(codec)) == '<meta charset="koi8-r">Größe'
    assert decode_page(b'<meta charset="utf-16">plain') == '<meta charset="utf-16">plain'
    for label in ("idna", "punycode", "zlib", "rot13", "base64", "unicode_escape", "nonsense"):
        page = f'<meta charset="{label}">Größe'
        assert decode_page(page.encode()) == page, "no codec but the web's is run on a page"
    assert decode_page(b"<p>\xff\xfe\x81", "text/html; charset=utf-8") == "<p>\ufffd\ufffd\ufffd"


def warc(path: Path, packed: bool) -> Path:
    pytest.importorskip("warcio", reason="needs `pip install llmanac[data]`")
    from warcio.statusandheaders import StatusAndHeaders
    from warcio.warcwriter import WARCWriter

    def response(writer: Any, url: str, body: bytes, kind: str, status: str = "200 OK", *more: tuple[str, str]) -> None:
        headers = StatusAndHeaders(status, [("Content-Type", kind), *more], protocol="HTTP/1.1")
        writer.write_record(writer.create_warc_record(url, "response", payload=io.BytesIO(body), http_headers=headers))

    with open(path, "wb") as handle:
        writer = WARCWriter(handle, gzip=packed)
        writer.write_record(writer.create_warcinfo_record(path.name, {"software": "test"}))
        response(writer, "http://a.org/one", b"<html><p>one</p></html>", "text/html; charset=utf-8")
        response(writer, "http://a.org/pic", b"\x89PNG", "image/png")
        response(writer, "http://b.org/two", "<p>Größe</p>".encode("latin-1"), "text/html;charset=ISO-8859-1")
        response(writer, "http://b.org/gone", b"<p>not here</p>", "text/html", "404 Not Found")
        packed_body = gzip.compress("<p>packed ☃</p>".encode())
        response(writer, "http://c.org/z", packed_body, "text/html", "200 OK", ("Content-Encoding", "gzip"))
        response(writer, "http://c.org/big", b"x" * 50_000, "text/plain")
        bomb = zlib.compress(b"y" * 20_000_000)
        response(writer, "http://c.org/bomb", bomb, "text/html", "200 OK", ("Content-Encoding", "deflate"))
        response(writer, "http://c.org/blank", b"  \n", "text/html")
        plain = io.BytesIO(b"plain text of a page")
        writer.write_record(
            writer.create_warc_record("http://d.org/", "conversion", payload=plain, warc_content_type="text/plain")
        )
    return path


class Listed(Problems):
    """Keeps the reasons by line."""

    def __init__(self, **bounds: int) -> None:
        super().__init__("skip", bounds=Bounds(**bounds))
        self.codes: dict[int | None, str] = {}

    def report(self, file: object, line: int | None, reason: str, raw: str = "", *, code: str = "unreadable") -> None:
        super().report(file, line, reason, raw, code=code)
        self.codes[line] = code


@pytest.mark.parametrize("packed", [False, True])
def test_a_warc_gives_its_pages_and_says_why_not_the_others(tmp_path: Path, packed: bool) -> None:
    path = warc(tmp_path / ("a.warc.gz" if packed else "a.warc"), packed)
    problems = Listed(document=10_000)
    found = list(make_method("source", {"name": "warc", "paths": [str(tmp_path)]}).documents(problems))
    assert [(d.id, d.text, d.group, d.meta["format"], d.meta["url"]) for d in found] == [
        (f"{path.name}:2", "<html><p>one</p></html>", "a.org", "html", "http://a.org/one"),
        (f"{path.name}:4", "<p>Größe</p>", "b.org", "html", "http://b.org/two"),
        (f"{path.name}:6", "<p>packed ☃</p>", "c.org", "html", "http://c.org/z"),
        (f"{path.name}:10", "plain text of a page", "d.org", "text", "http://d.org/"),
    ]
    assert problems.codes == {3: "not-text", 5: "http-status", 7: "too-large", 8: "too-large"}
    data = path.read_bytes()
    broken = tmp_path / path.name
    for cut in range(100, len(data), len(data) // 40):
        broken.write_bytes(data[:cut])
        again = Listed(document=10_000)
        part: list[Any] = []
        with contextlib.suppress(DataError):  # too little for a single page
            part += make_method("source", {"name": "files", "paths": [str(broken)]}).documents(again)
        assert [(d.id, d.text) for d in part] == [(d.id, d.text) for d in found][: len(part)], cut


def pdf(pages: list[str], packed: bool = True) -> bytes:
    """A PDF written out by hand: one font, one line of text a page."""
    objects = ["<< /Type /Catalog /Pages 2 0 R >>"]
    kids = " ".join(f"{4 + 2 * n} 0 R" for n in range(len(pages)))
    objects.append(f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>")
    objects.append("<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>")
    streams: dict[int, bytes] = {}
    for n, text in enumerate(pages):
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /Resources << /Font << /F1 3 0 R >> >> /Contents {5 + 2 * n} 0 R "
            "/MediaBox [0 0 300 300] >>"
        )
        content = f"BT /F1 12 Tf 20 200 Td ({text}) Tj ET".encode("latin-1")
        streams[len(objects)] = zlib.compress(content) if packed else content
        objects.append("")
    out, places = io.BytesIO(), []
    out.write(b"%PDF-1.4\n")
    for n, body in enumerate(objects):
        places.append(out.tell())
        out.write(f"{n + 1} 0 obj\n".encode())
        if n in streams:
            filter = " /Filter /FlateDecode" if packed else ""
            out.write(f"<< /Length {len(streams[n])}{filter} >>\nstream\n".encode() + streams[n] + b"\nendstream")
        else:
            out.write(body.encode())
        out.write(b"\nendobj\n")
    start = out.tell()
    out.write(f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n".encode())
    out.writelines(f"{place:010d} 00000 n \n".encode() for place in places)
    out.write(f"trailer << /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{start}\n%%EOF\n".encode())
    return out.getvalue()


def test_a_pdf_is_the_text_of_its_pages(tmp_path: Path) -> None:
    pytest.importorskip("pypdf", reason="needs `pip install llmanac[data]`")
    good = pdf(["The first page", "The second page"])
    (tmp_path / "a.pdf").write_bytes(good)
    (tmp_path / "b.pdf").write_bytes(good[: len(good) // 3])
    (tmp_path / "c.pdf").write_bytes(b"no pdf")
    (tmp_path / "d.pdf").write_bytes(pdf([""]))
    (tmp_path / "e.pdf").write_bytes(pdf(["long " * 100] * 30))
    problems = Listed(document=5000)
    found = list(make_method("source", {"name": "pdf", "paths": [str(tmp_path)]}).documents(problems))
    assert [(d.id, d.text, d.meta["format"], d.meta["pages"]) for d in found] == [
        ("a.pdf", "The first page\n\nThe second page", "pdf", 2)
    ]
    reasons = {Path(p.file).name: p.reason for p in problems.kept}
    assert reasons.keys() == {"b.pdf", "c.pdf", "e.pdf"}
    assert "limits.max_bytes" in reasons["e.pdf"]


def test_what_is_not_installed_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    real = importlib.import_module

    def missing(name: str, *rest: Any) -> Any:
        if name.startswith(("warcio", "pypdf")):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", missing)
    for name in ("a.pdf", "a.warc.gz"):
        (tmp_path / name).write_bytes(b"x")
        source = make_method("source", {"name": "files", "paths": [str(tmp_path / name)]})
        with pytest.raises(DataError, match=r"is not installed, which reads .*pip install 'llmanac\[data\]'"):
            list(source.documents())


def test_html_files_are_documents_with_their_format(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_bytes('<meta charset="koi8-r"><p>Привет</p>'.encode("koi8-r"))
    (tmp_path / "b.html.gz").write_bytes(gzip.compress(b"<p>packed</p>"))
    (tmp_path / "c.htm").write_bytes(b"<p>" + b"x" * 20_000)
    (tmp_path / "rows.jsonl").write_text(json.dumps({"text": "no page"}))
    problems = Listed(document=10_000)
    found = list(make_method("source", {"name": "html", "paths": [str(tmp_path)]}).documents(problems))
    assert [(d.id, d.meta["format"]) for d in found] == [("a.html", "html"), ("b.html.gz", "html")]
    assert "Привет" in found[0].text
    assert problems.codes == {None: "too-large"}
