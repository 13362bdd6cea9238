"""Errors carry data: what a program wants to know of one is an attribute, and nothing reads its message."""

from __future__ import annotations

import ast
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmanac.core import errors
from llmanac.core.errors import DataError, LlmanacError, RequestError, SpecError
from llmanac.data.quarantine import MissingLibrary, Unreadable

SOURCE = Path(__file__).resolve().parents[2] / "src" / "llmanac"
READS = {"startswith", "endswith", "removeprefix", "removesuffix", "partition", "rpartition", "find", "index"}
# messages of other libraries, which have no other sign, and where they are read
FOREIGN = {
    "cli/complexity.py": "torch has no error of its own for memory on a CPU",
    "data/readers.py": "csv.Error for an open quote",
    "core/files.py": "tomllib's error, of which the advice is left out",
    "parallel/mesh.py": "gloo and nccl raise RuntimeError for a lost connection",
    "retrieve/memory/store.py": "sqlite3 for a lock",
}
NOT_YET = {  # of these the errors name a field as all do, and are read by their text
    "generate/_options.py", "generate/constrain/__init__.py", "generate/constrain/template.py",
    "generate/constrain/_json_keywords.py", "guide/demos/decoding.py",
    "retrieve/folder/index.py",
}  # fmt: skip


@pytest.mark.parametrize(
    ("message", "field", "reason"),
    [
        ("model.layers: 0 must be at least 1", "model.layers", "0 must be at least 1"),
        ("messages[0].content: is empty", "messages[0].content", "is empty"),
        ("blocks.0.mixer: 'x' is none: 'y'", "blocks.0.mixer", "'x' is none: 'y'"),
        ("--budget 5m: is too little", None, "--budget 5m: is too little"),
        ("rows.jsonl:3: not JSON", None, "rows.jsonl:3: not JSON"),
        ("the body is not JSON", None, "the body is not JSON"),
        ("", None, ""),
    ],
)
def test_an_error_knows_its_field_and_its_reason(message: str, field: str | None, reason: str) -> None:
    for kind in (LlmanacError, SpecError, DataError, RequestError):
        error = kind(message)
        assert (str(error), error.field, error.reason, error.place, error.code) == (message, field, reason, None, None)


def test_an_error_with_a_place_and_a_code() -> None:
    error = Unreadable(Path("a.csv"), "name: is there twice", "two-columns")
    assert (str(error), error.place, error.code) == ("a.csv: name: is there twice", Path("a.csv"), "two-columns")
    assert error.reason == "name: is there twice"  # a file's reason names no field of ours
    assert MissingLibrary("a.pdf", "pypdf is not installed").code == "not-installed"
    found = errors.too_long("prompt", 21, 20)
    assert (found.field, found.code) == ("prompt", "context_length_exceeded") and "21 tokens" in found.reason


@pytest.mark.parametrize(
    "error", [SpecError("a.b: c", code="d"), Unreadable("a.csv", "b", "c"), errors.too_long("prompt", 2, 1)]
)
def test_an_error_crosses_processes_as_it_is(error: LlmanacError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error) and str(again) == str(error) and vars(again) == vars(error)


def reads(tree: ast.AST) -> Iterator[int]:
    """Lines that look into the text of an error that was caught."""
    for handler in ast.walk(tree):
        if not isinstance(handler, ast.ExceptHandler) or handler.name is None:
            continue
        text = f"str({handler.name})"
        for node in ast.walk(handler):
            searched = isinstance(node, ast.Compare) and isinstance(node.ops[0], (ast.In, ast.NotIn))
            if searched and text in ast.unparse(node.comparators[0]):
                yield node.lineno
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                of, given = ast.unparse(node.func.value), " ".join(map(ast.unparse, node.args))
                if (node.func.attr in READS and of.startswith(text)) or (of in ("re", "regex") and text in given):
                    yield node.lineno


def test_the_search_finds_what_reads_a_message() -> None:
    for read in ("'x' in str(e)", "str(e).removeprefix('x')", "re.match('x', str(e))", "'x' in str(e).lower()"):
        assert list(reads(ast.parse(f"try: ...\nexcept E as e:\n    {read}"))) == [3], read
    assert not list(reads(ast.parse("try: ...\nexcept E as e:\n    f(str(e), e.field)")))


def test_nothing_reads_a_message() -> None:
    found = {
        path.relative_to(SOURCE).as_posix(): lines
        for path in sorted(SOURCE.rglob("*.py"))
        if (lines := list(reads(ast.parse(path.read_text("utf-8")))))
    }
    assert {name: lines for name, lines in found.items() if name not in FOREIGN.keys() | NOT_YET} == {}
    assert NOT_YET | FOREIGN.keys() - {"parallel/mesh.py"} <= found.keys()  # what no longer does is taken off the lists
