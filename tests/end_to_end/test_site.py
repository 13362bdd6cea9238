"""The documentation's site: it builds without a warning, loads nothing from outside, and its search answers."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from _browser import Chromium, needs_chromium

LARGEST = 300_000  # bytes of a page
OUTSIDE = re.compile(r"<(?:script|img|link|iframe|source)\b[^>]*\b(?:src|href)=[\"']?(?:https?:)?//[^>]*>")
QUESTIONS = {  # and the page that answers
    "how do I resume": "commands",
    "which families": "models",
    "how do I add a sampler": "contributing",
    "how is a verdict made": "compare",
    "how do I serve two models": "serve",
    "export to a GGUF file": "gguf",
    "train on several GPUs": "parallel",
    "JSON schema": "constrain",
    "deduplicate a corpus": "data",
    "ask a folder of documents": "ask",
    "load a model from the hub": "models",
    "contamination check": "data",
    "rope scaling long context": "models",
    "GRPO reward": "align",
    "kernels compile warm-up": "commands",
    "docker": "commands",
    "install without torch": "index",
    "wandb tensorboard mlflow": "run-folder",
}


@pytest.fixture(scope="module")
def site(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("site")
    words = ["-m", "mkdocs", "build", "--quiet", "--strict", "-f", str(root / "mkdocs.yml"), "-d", str(place)]
    quiet = {"NO_MKDOCS_2_WARNING": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, *words], env=quiet, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    return place


def test_pages_are_small_and_load_nothing_from_outside(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 100
    for page in pages:
        text = page.read_text("utf-8")
        assert len(text.encode()) < LARGEST, page
        assert not OUTSIDE.findall(text), page


@needs_chromium
@pytest.mark.parametrize("question", QUESTIONS)
def test_the_search_answers(site: Path, browser: Chromium, question: str) -> None:
    browser.size(1200)
    browser.open((site / "index.html").as_uri())
    browser.run("document.querySelector('[data-md-component=search-query]').focus()")
    browser.until("document.querySelector('.md-search-result__meta').textContent.includes('Type')")  # it is ready
    browser.write_text(question)
    browser.press("End", 35)
    links = "[...document.querySelectorAll('.md-search-result__link')].map(a => a.pathname)"
    browser.until(f"{links}.length")
    pages = dict.fromkeys(Path(one).relative_to(site).with_suffix("").as_posix() for one in browser.run(links))
    assert QUESTIONS[question] in list(pages)[:3]


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_pages_fit_the_window(site: Path, browser: Chromium, width: int, scheme: str) -> None:
    browser.errors.clear()
    browser.size(width)
    browser.scheme(scheme)
    browser.open((site / "index.html").as_uri())
    for name in ("index", "models", "reference", "evidence/norms/page"):
        browser.run("localStorage.clear()")  # the theme keeps the scheme of its first page there
        browser.open((site / f"{name}.html").as_uri())
        assert browser.run("document.documentElement.scrollWidth") <= width, name
        assert not browser.violations(), name
    assert not browser.errors
