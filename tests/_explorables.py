"""Explorables' own functions in node: what their pages would show at given settings."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

import pytest

from llmanac.guide.explorables import FOLDER, explorables

NODE = shutil.which("node") or shutil.which("nodejs")
needs_node = pytest.mark.skipif(NODE is None, reason="needs node (Debian: apt-get install nodejs)")
RUN = """
const fs = require("fs"), vm = require("vm");
const given = JSON.parse(fs.readFileSync(0, "utf8"));
for (const file of given.files) vm.runInThisContext(fs.readFileSync(file, "utf8"), { filename: file });
guide.measured = given.measured;
const defaults = Object.fromEntries(guide.page.controls.map((c) => [c.name, c.text ?? c.value]));
const work = vm.runInThisContext(given.work);
console.log(JSON.stringify(given.settings.map((s) => work({ ...defaults, ...s }))));
"""


def computed(name: str, settings: list[dict[str, Any]], work: str = "(v) => guide.page.compute(v)") -> list[Any]:
    """What an explorable computes for each of several settings; the others are what its page begins with.

    Args:
        work: JavaScript of a function of the settings, in place of the page's own `compute`.
    """
    one = explorables()[name]
    files = [str(FOLDER / file) for file in one.order]
    given = {"files": files, "settings": settings, "measured": json.loads(one.numbers()), "work": work}
    done = subprocess.run([str(NODE), "-e", RUN], input=json.dumps(given), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    found: list[Any] = json.loads(done.stdout)
    return found


def controls(name: str) -> list[dict[str, Any]]:
    """The controls of a page."""
    found: list[dict[str, Any]] = computed(name, [{}], "() => guide.page.controls")[0]
    return found
