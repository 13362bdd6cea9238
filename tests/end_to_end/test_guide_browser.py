"""The guide in headless Chromium: demos used for real, the keyboard alone, no console error; axe where it is there.

Chromium is driven by its own protocol over a pipe, so that nothing but Debian's package is needed. `LLMANAC_AXE` names
axe-core's `axe.min.js` for its checks.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest

from llmanac.guide.app import create_app
from llmanac.guide.chapter import texts
from llmanac.guide.demos import Models, demos
from llmanac.guide.progress import ReviewLog

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs chromium (Debian: apt-get install chromium)")
PAGES = [*(f"chapter/{name}.html" for name in texts()), "index.html", "row/position/rope.html", "exercise/elo.html",
         "plan.html", "placement.html", "questions.html", "search.html", "evidence/quantization/page.html"]  # fmt: skip
SECONDS = 60


class Chromium:
    """One page of a browser: `call` sends a command, `run` evaluates an expression, `errors` has the console's."""

    def __init__(self, folder):
        read, child_out = os.pipe()
        child_in, write = os.pipe()
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run"]

        def places():  # the browser reads commands from 3 and answers on 4
            high = [fcntl.fcntl(end, fcntl.F_DUPFD, 100) for end in (child_in, child_out)]
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)

        self.process = subprocess.Popen(
            [BROWSER, *flags, f"--user-data-dir={folder}", "about:blank"], close_fds=False, preexec_fn=places,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(child_in)
        os.close(child_out)
        self.read, self.write = os.fdopen(read, "rb", 0), os.fdopen(write, "wb", 0)
        self.count, self.held, self.errors = 0, b"", []
        self.session = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def _message(self):
        while b"\0" not in self.held:
            data = self.read.read(65536)
            assert data, "the browser has ended"
            self.held += data
        first, _, self.held = self.held.partition(b"\0")
        return json.loads(first)

    def _note(self, message):
        method, given = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown" or (
            method == "Log.entryAdded" and given["entry"]["level"] in ("error", "warning")
        ):
            self.errors.append(given)

    def call(self, method, **params):
        self.count += 1
        message = {"id": self.count, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        self.write.write(json.dumps(message).encode() + b"\0")
        while True:
            found = self._message()
            if found.get("id") == self.count:
                assert "error" not in found, (method, found)
                return found["result"]
            self._note(found)

    def run(self, expression):
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, expression):
        end = time.monotonic() + SECONDS
        while not self.run(expression):
            assert time.monotonic() < end, expression
            time.sleep(0.1)

    def open(self, address):
        self.call("Page.navigate", url=address)
        self.until(f"document.readyState === 'complete' && location.href === {json.dumps(address)}")

    def press(self, key, code):
        for kind in ("keyDown", "keyUp"):
            more = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **more)


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


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    made = Chromium(tmp_path_factory.mktemp("chromium"))
    yield made
    made.process.terminate()
    made.process.wait()


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
    if not os.environ.get("LLMANAC_AXE"):
        return
    browser.call("Page.setBypassCSP", enabled=True)
    browser.open(f"{address}/{page}")
    browser.run(Path(os.environ["LLMANAC_AXE"]).read_text("utf-8") + ";0")
    assert browser.run("axe.run().then(r => r.violations.map(v => [v.id, v.nodes.length]))") == []
