"""`llmanac new method`: three projects are installed, listed, used and compared; one of every kind is Python."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from _small_models import tokens, transformer
from _studies import ask

from llmanac.core import registry
from llmanac.core.errors import SpecError
from llmanac.core.new_method import write_project
from llmanac.core.spec import make, make_method
from llmanac.data.sources import SourceSpec
from llmanac.generate.engine import Engine

pytestmark = pytest.mark.usefixtures("one_thread")
MADE = {"my-norm": ("norm", "rmsnorm"), "my-files": ("source", "files"), "my-greedy": ("decoding", "greedy")}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the three projects, and where pip installed them."""
    folder = tmp_path_factory.mktemp("projects")
    for name, (kind, like) in MADE.items():
        write_project(name, kind, folder / name, like)
    words = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--target"]
    projects = [str(folder / name) for name in MADE]
    subprocess.run([sys.executable, *words, str(folder / "site"), *projects], check=True, timeout=300)
    return folder


@pytest.fixture
def added(installed: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(installed / "site")
    registry.packages.cache_clear()
    yield installed
    monkeypatch.undo()
    registry.packages.cache_clear()


def test_the_projects_methods_are_used_as_our_own(
    added: Path, recipe: dict[str, Any], store: Path, tmp_path: Path
) -> None:
    for name, (kind, _) in MADE.items():
        assert registry.find(kind, name).path.is_relative_to(added / "site")
    (tmp_path / "text.txt").write_text("One line.\n")
    source = make(SourceSpec, {"name": "my-files", "paths": [str(tmp_path / "text.txt")]})
    assert [document.text for document in source.documents()] == ["One line.\n"]
    engine, prompt = Engine(transformer(max_length=64).eval()), tokens(1, 9)[0].tolist()
    one, two = (engine.generate(prompt, max_new_tokens=9, decoding=[name])[0].ids for name in ("greedy", "my-greedy"))
    assert one == two
    found = ask("norm", "rmsnorm,my-norm", recipe, tmp_path, store, seeds=2)
    values = found.data["values"]["bits_per_byte"]
    assert values["rmsnorm"] == values["my-norm"] and json.loads(json.dumps(values))


def test_a_projects_own_test_passes(added: Path) -> None:
    words = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        *(str(added / name / "tests") for name in MADE),
    ]
    done = subprocess.run(words, cwd=added / "site", capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-1500:]


@pytest.mark.parametrize("kind", registry.KINDS)
def test_a_project_of_every_kind_is_python(kind: str, tmp_path: Path) -> None:
    files = write_project("some-thing", kind, tmp_path / "made")
    (method,) = (tmp_path / "made" / path for path in files if path.endswith("/some_thing.py"))
    names: dict[str, Any] = {"__name__": "some_thing"}
    exec(compile(method.read_text("utf-8"), str(method), "exec"), names)
    assert issubclass(names["Spec"], type(names["Spec"]).mro(names["Spec"])[1])
    assert registry.read_card(method)["title"] == "Some thing"


def test_what_cannot_be_made_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    for wrong, name, kind, like in (
        ("did you mean 'norm'", "mine", "nrm", None), ("is there already", "rmsnorm", "norm", None),
        ("small letters", "My_norm", "norm", None), ("did you mean 'rmsnorm'", "mine", "norm", "rmsnrm"),
    ):  # fmt: skip
        with pytest.raises(SpecError, match=wrong):
            write_project(name, kind, tmp_path / "made", like)
    assert not list(tmp_path.iterdir())
    write_project("mine", "norm", tmp_path / "made")
    with pytest.raises(SpecError, match="is there already; name another folder"):
        write_project("mine", "norm", tmp_path / "made")
    assert make_method("norm", "rmsnorm").name == "rmsnorm"
