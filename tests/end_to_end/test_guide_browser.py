"""The guide in headless Chromium: demos used for real, the keyboard alone, no console error; axe where it is there."""

from __future__ import annotations

import threading
import time

import pytest
from _browser import needs_chromium

from llmanac.guide.app import create_app
from llmanac.guide.chapter import texts
from llmanac.guide.demos import Models, demos
from llmanac.guide.progress import ReviewLog

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
