"""Headless Chromium, driven by its own protocol over a pipe, so that nothing but Debian's package is needed.

`LLMANAC_AXE` names axe-core's `axe.min.js` for its checks.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(BROWSER is None, reason="needs chromium (Debian: apt-get install chromium)")
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

    def size(self, width, height=900):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def scheme(self, name):
        """Prefer `dark` or `light`."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def write_text(self, text):
        """Type into what has the focus."""
        self.call("Input.insertText", text=text)

    def violations(self):
        """What axe finds on the open page, by rule; nothing where axe is not there."""
        if not os.environ.get("LLMANAC_AXE"):
            return []
        self.call("Runtime.evaluate", expression=Path(os.environ["LLMANAC_AXE"]).read_text("utf-8") + ";0")
        return self.run("axe.run({preload: false}).then(r => r.violations.map(v => [v.id, v.nodes.map(n => n.html)]))")
