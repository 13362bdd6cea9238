"""The guide in headless Chromium: demos used for real, the keyboard alone, no console error; axe where it is there."""

from __future__ import annotations

import json
import threading
import time

import pytest
from _browser import needs_chromium

from llmanac.guide.app import create_app
from llmanac.guide.chapter import texts
from llmanac.guide.demos import Models, demos
from llmanac.guide.exercise import exercises
from llmanac.guide.explorables import explorables
from llmanac.guide.progress import ReviewLog
from llmanac.guide.site import ASSETS, Site

pytestmark = needs_chromium
PAGES = [*(f"chapter/{name}.html" for name in texts()), "index.html", "row/position/rope.html", "exercise/elo.html",
         "plan.html", "placement.html", "questions.html", "search.html", "evidence/quantization/page.html"]  # fmt: skip


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    import uvicorn

    app = create_app(ReviewLog(tmp_path_factory.mktemp("p") / "p.sqlite"), models=Models(small=True))
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.mark.parametrize("name", list(demos()))
def test_a_demo_is_used(browser, address, name):
    browser.errors.clear()
    browser.open(f"{address}/demo/{name}.html")
    browser.run("document.querySelector('main form button').focus()")
    browser.press("Enter", 13)
    browser.until("document.querySelector('#result, [role=alert]') !== null && document.readyState === 'complete'")
    assert browser.run("document.querySelector('[role=alert]')?.textContent ?? ''") == ""
    assert browser.run("document.querySelectorAll('.demo td').length") > 3 and not browser.errors


@pytest.mark.parametrize("page", PAGES)
def test_a_page_by_keyboard_and_without_errors(browser, address, page):
    browser.errors.clear()
    browser.open(f"{address}/{page}")
    wanted = browser.run(
        "Array.from(document.querySelectorAll('a[href], button, input:not([type=hidden]), textarea, select, summary'))"
        ".filter(e => e.checkVisibility() && !(e.type === 'radio')).slice(0, 25).length"
    )
    seen = set()
    for _ in range(wanted + 5):
        browser.press("Tab", 9)
        seen.add(
            browser.run("(e => e.tagName + (e.id || e.href || e.textContent.slice(0, 30)))(document.activeElement)")
        )
    assert len(seen) >= min(wanted, 20) - 2 and browser.run("document.documentElement.scrollWidth <= innerWidth + 1")
    assert not browser.errors
    assert browser.violations() == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The explorables as an export writes them; a whole export takes a minute."""
    site, place = Site(), tmp_path_factory.mktemp("export")
    for path in ["explorables.html", *(f"explore/{name}.html" for name in explorables())]:
        (place / path).parent.mkdir(exist_ok=True)
        (place / path).write_text(site.page(path), "utf-8")
    for name, file in ASSETS.items():
        (place / name).write_bytes(file.read_bytes())
    return place


@pytest.mark.parametrize("name", list(explorables()))
def test_an_explorable_from_a_folder_by_keyboard(browser, folder, name):
    """Opened from a file: each control is reached by Tab and changed by keys, and what is shown follows."""
    browser.errors.clear()
    browser.size(390)
    for scheme in ("light", "dark"):
        browser.scheme(scheme)
        browser.open((folder / f"explore/{name}.html").as_uri())
        assert browser.run("document.querySelector('#shown').children.length") > 1
        assert browser.run("document.documentElement.scrollWidth") <= 390 and not browser.violations()
    before = browser.run("document.querySelector('#shown').innerHTML")
    changed = browser.run("document.querySelectorAll('.knobs [id]').length")
    browser.run("document.querySelector('.knobs [id]').focus()")
    for _ in range(changed):
        kind = browser.run("document.activeElement.closest('.knobs') && document.activeElement.type")
        assert kind in ("range", "text", "textarea", "select-one"), kind
        if kind == "range":
            browser.press("ArrowLeft", 37)
        elif kind == "select-one":
            browser.press("ArrowDown", 40)
        else:
            browser.press("End", 35)
            browser.write_text(" 1" if name in ("sampling", "grpo") else " the")
        browser.press("Tab", 9)
    browser.until(
        f"document.querySelector('#shown').innerHTML !== {json.dumps(before)}"
        " || !document.querySelector('.error').hidden"
    )
    assert browser.run("document.querySelector('.knobs').checkValidity()") and not browser.errors
    browser.size(1200)
    assert browser.run("document.documentElement.scrollWidth") <= 1200
    browser.scheme("light")


def test_an_explorable_in_the_app(browser, address):
    """Under the policy, which forbids scripts and styles inside a page."""
    browser.errors.clear()
    for name in explorables():
        browser.open(f"{address}/explore/{name}.html")
        assert browser.run("document.querySelector('#shown').children.length") > 1
    assert not browser.errors


def test_a_readers_way_through_a_chapter(browser, address):
    """Text, explorable, exercise, question, and the day on which it is due again, by the links of the pages."""
    browser.errors.clear()
    browser.size(1200)

    def follow(place):
        browser.run(f"document.querySelector({json.dumps(place)}).click()")
        browser.until(f"document.readyState === 'complete' && !document.querySelector({json.dumps(place)})")

    chapter = f"{address}/chapter/inference-and-generation.html"
    browser.open(chapter)
    assert browser.run("document.querySelector('main').textContent.split(/\\s+/).length") > 2000
    browser.run("document.querySelector('#practice').scrollIntoView()")
    follow("a[href$='explore/sampling.html']")
    before = browser.run("document.querySelector('#shown').textContent")
    browser.run("document.querySelector('#c-topK').focus()")
    browser.press("ArrowRight", 39)
    browser.until(f"document.querySelector('#shown').textContent !== {json.dumps(before)}")
    browser.open(chapter)
    follow("a[href$='exercise/top-k.html']")
    browser.run(f"document.querySelector('#code').value = {json.dumps(exercises()['top-k'].solution)}")
    browser.run("document.querySelector('main form button').click()")
    browser.until("document.querySelector('#verdict')?.textContent.startsWith('Passed')")
    browser.open(chapter)
    follow("a[href$='question/top-k-against-top-p.html']")
    browser.run("document.querySelector('button[value=good]').click()")
    browser.until("location.pathname === '/index.html' && document.readyState === 'complete'")
    later = browser.run("document.querySelector('main').textContent")
    assert "question/top-k-against-top-p" in later and "exercise/top-k" in later
    assert not browser.errors


def test_a_chapter_is_printed_without_its_controls(browser, address):
    browser.open(f"{address}/chapter/fundamentals.html")
    browser.call("Emulation.setEmulatedMedia", media="print")
    assert browser.run("getComputedStyle(document.querySelector('header')).display") == "none"
    assert len(browser.call("Page.printToPDF")["data"]) > 20_000
    browser.call("Emulation.setEmulatedMedia", media="")
