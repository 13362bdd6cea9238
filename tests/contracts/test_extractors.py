"""Every extractor, and the stage that runs them: any page gives text or one of the known reasons, in bounded memory."""

from __future__ import annotations

import subprocess
import sys

import pytest

from llmanac.core import registry, spec
from llmanac.core.errors import DataError, SpecError
from llmanac.core.registry import build
from llmanac.data.documents import Document
from llmanac.data.extractors import Extracted, Unusable
from llmanac.data.stages import Dropped

NAMES = list(registry.methods("extractor"))
REASONS = {
    "page_too_large", "too_many_attributes", "too_many_elements", "nested_too_deep", "not_html", "no_text",
}  # fmt: skip
PAGE = (
    "<html><head><title>T</title></head><body><article><h1>Head</h1><p>" + "Some words here. " * 30 + "</p></article>"
)
HOSTILE = {
    "deep": "<div>" * 1_000_000,
    "deep inline": "<font>" * 100_000 + "x",
    "deep lists": "<ul><li>" * 5_000 + "x",
    "deep tables": "<table><tr><td>" * 5_000 + "x",
    "just too deep": "<div>" * 240 + "x" + "</div>" * 240,
    "attribute": "<div class='" + "a" * 50_000_000 + "'>x</div>",
    "attributes": "<div " + " ".join(f"a{i}=1" for i in range(100_000)) + ">x</div>",
    "attributes behind a quoted bracket": '<div x=">" ' + " ".join(f"a{i}=1" for i in range(100_000)) + ">x</div>",
    "entities": "&amp;" * 2_000_000,
    "entities that expand": "<!DOCTYPE x [<!ENTITY a 'aaaaaaaaaa'><!ENTITY b '&a;&a;&a;&a;&a;'>]><p>" + "&b;" * 10_000,
    "unclosed tags": "<p" * 500_000,
    "unclosed comments": "<!--" * 500_000,
    "less-than signs": "<" * 2_000_000,
    "null bytes": "<p>a\0b</p>" * 10_000,
    "misnested": "<b><i><p>" * 20_000,
    "closing only": "</div></p></b>" * 100_000,
    "spans": "<table><tr>" + "<td colspan=99999999 rowspan=99999999>x" * 2_000,
    "one text": "word " * 3_000_000,
    "cdata": "<![CDATA[" * 100_000,
    "script": "<script>" + "a<b " * 500_000,
    "half surrogates": "<p>\ud800\udfff\ud800 x</p>",
    "empty": "",
    "blank": " \n\t",
    "frames": "<frameset><frame><noframes>" * 1_000,
    "backticks": "<pre>" + "`" * 200_000,
}


def stage(name: str):
    return build("stage", "extraction", extractor=name)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_pages(name: str, case: str) -> None:
    if name != "structured":
        pytest.importorskip(name)
        if case in ("misnested", "closing only", "entities", "less-than signs", "spans", "one text", "unclosed tags"):
            pytest.skip("the library's own time, which the pipeline's limit ends")
    document = Document("a", HOSTILE[case], "g", {"format": "html"})
    (found,) = stage(name).apply([document])
    if isinstance(found, Dropped):
        assert found.reason in REASONS
        assert found.document is document
        assert len(found.detail) < 300
    else:
        assert "\0" not in found.text
        found.text.encode("utf-8")


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory of one process is read from /proc")
def test_hostile_pages_in_bounded_memory_and_time() -> None:
    """In a process of its own, whose peak is these pages' alone, and which the system ends if it does not end."""
    script = (
        "import resource, runpy\n"
        "resource.setrlimit(resource.RLIMIT_CPU, (300, 300))\n"
        f"found = runpy.run_path({__file__!r})\n"
        "stage = found['stage']('structured')\n"
        "for page in found['HOSTILE'].values():\n"
        "    list(stage.apply([found['Document']('a', page, 'g', {'format': 'html'})]))\n"
        "status = open('/proc/self/status').read()\n"  # ru_maxrss would begin at what the parent held
        "print(int(status.split('VmHWM:')[1].split()[0]) // 1024)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) < 600, "megabytes"


@pytest.mark.parametrize("name", NAMES)
def test_text_and_title_come_out_the_same_each_time(name: str) -> None:
    if name != "structured":
        pytest.importorskip(name)
    extractor = build("extractor", name)
    first = extractor.extract(PAGE)
    assert isinstance(first, Extracted)
    assert "Some words here." in first.text
    assert extractor.extract(PAGE.encode()) == first == build("extractor", name).extract(PAGE)
    made = spec.make_method("extractor", name)
    assert spec.make_method("extractor", spec.dump(made)) == made


@pytest.mark.parametrize("name", NAMES)
def test_too_large_is_refused_and_a_bad_limit_named(name: str) -> None:
    if name != "structured":
        pytest.importorskip(name)
    with pytest.raises(Unusable, match="page_too_large: 500 bytes where 100 are allowed"):
        build("extractor", name, max_bytes=100).extract("x" * 500)
    with pytest.raises(SpecError, match="max_bytes"):
        build("extractor", name, max_bytes=0)


def test_a_missing_library_is_one_sentence(monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "trafilatura", None)
    with pytest.raises(DataError, match=r"extractor 'trafilatura': it needs the library trafilatura; pip install"):
        build("extractor", "trafilatura")


def test_the_stage_looks_at_pages_only() -> None:
    documents = [
        Document("plain", "<p>not a page</p>", "g"),
        Document("page", PAGE, "g", {"format": "html", "url": "u"}),
        Document("nothing", "<html><body><script>x</script></body></html>", "g", {"format": "html"}),
    ]
    plain, page, nothing = stage("structured").apply(documents)
    assert plain is documents[0]
    assert page.meta == {"format": "markdown", "url": "u", "extractor": "structured", "title": "T"}
    assert page.text.startswith("# Head\n\nSome words here.")
    assert isinstance(nothing, Dropped) and nothing.reason == "no_text"
    short = build("stage", "extraction", min_characters=10_000)
    assert next(iter(short.apply(documents[1:2]))).reason == "no_text"
