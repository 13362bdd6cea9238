"""A small made-up library of documented functions, for tests of questions and of the assistant."""

from __future__ import annotations

import random

from llmanac.data.sources._public import Entry


def entry(name: str, signature: str, doc: str, kind: str = "function") -> Entry:
    return Entry(name, signature, doc, name.rpartition(".")[0] or "builtins", kind)  # type: ignore[arg-type]


COPY = entry(
    "shutil.copytree",
    "(src, dst, symlinks=False, *, follow=True)",
    "Recursively copy a directory tree and return\nthe destination directory.\n\nIf the `symlinks` flag is true, links "
    "stay links.\nRaises Error when a file cannot be copied.\n\n>>> copytree('a', 'b')\n'b'",
)
GOOGLE = entry(
    "web.fetch",
    "(url, timeout=30)",
    "Fetch a page.\n\nArgs:\n  url: Where the page is,\n      as text.\n  timeout: Seconds to wait.\n\nReturns:\n  "
    "The body of the page.\n\nRaises:\n  OSError: the host is down.\n  ValueError: the url is wrong.\n\n"
    "It caches nothing.",
)
REST = entry(
    "web.post",
    "(url, data)",
    "Send data to a page.\n\n:param url: Where to send it.\n:returns: The status code.\n:raises OSError: on failure.",
)
NUMPY = entry(
    "num.scale",
    "(x, by)",
    "Scale numbers.\n\nParameters\n----------\nx : array\n    The numbers.\nby : float\n    The factor.\n\n"
    "Returns\n-------\narray\n    The scaled numbers.",
)
SILENT = entry("os.nap", "(seconds)", "Sleep for a while.")
LEN = entry("len", "(obj, /)", "Return the number of items in a container.")
ENTRIES = [COPY, GOOGLE, REST, NUMPY, SILENT, LEN]


def library() -> list[Entry]:
    """A made-up library, large enough to rank in."""
    rng = random.Random(5)
    verbs = ["open", "close", "merge", "split", "count", "sort", "read", "write", "send", "parse", "copy", "check"]
    things = [
        "socket",
        "table",
        "window",
        "packet",
        "header",
        "matrix",
        "archive",
        "colour",
        "signal",
        "queue",
        "cursor",
        "graph",
    ]
    out = list(ENTRIES)
    for m in range(24):
        for verb in rng.sample(verbs, 5):
            thing, other = rng.sample(things, 2)
            doc = f"{verb.title()} the {thing} of a {other} number {m}.\n\n"
            doc += f"Returns the {thing} that was {verb}ed in module {m}."
            if rng.random() < 0.5:
                doc += f"\n\nRaises {thing.title()}Error if the {other} is missing from module {m}."
            out.append(
                Entry(f"mod{m}.{verb}_{thing}", f"({thing}, {other}=None, depth={m})", doc, f"mod{m}", "function")
            )
    return list({e.name: e for e in out}.values())
