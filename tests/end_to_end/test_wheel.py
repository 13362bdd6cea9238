"""The wheel, installed outside the checkout with the packages that a light installation has and no others."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shlex
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from _published import pretrained
from packaging.requirements import Requirement

LARGEST = 400e6  # bytes of a light installation
# what the package reads at run time besides its modules
READ = (
    "core/catalogue.toml",
    "core/evidence.json",
    "core/templates/page.html",
    "retrieve/folder/ranker.json",
    "py.typed",
)


def needed(names: list[str]) -> dict[str, importlib.metadata.Distribution]:
    """The distributions of these names with all that they require."""
    found: dict[str, importlib.metadata.Distribution] = {}
    for name in names:
        if name in found:
            continue
        found[name] = importlib.metadata.distribution(name)
        asked = map(Requirement, found[name].requires or ())
        names.extend(one.name for one in asked if one.marker is None or one.marker.evaluate({"extra": ""}))
    return found


@pytest.fixture(scope="module")
def site(root: Path, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the wheel, and links to the files of what it requires without an extra."""
    folder = tmp_path_factory.mktemp("light") / "a place with ümlauts"
    folder.mkdir()
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    for one in needed([Requirement(text).name for text in project["dependencies"]]).values():
        for file in one.files or ():
            top = Path(file.parts[0])
            if file.parts[0] not in ("..", "__pycache__") and not (folder / top).exists():
                os.symlink(Path(str(one.locate_file(str(top)))).resolve(), folder / top)
    words = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(folder), str(wheel)]
    subprocess.run([sys.executable, *words], check=True, timeout=300)
    yield folder


def run(site: Path, words: str, cwd: Path, status: int = 0) -> str:
    """A command of the installed wheel, by an interpreter that sees nothing else."""
    start = f"import sys; sys.path[:0] = [{str(site)!r}]; from llmanac import cli; cli.main()"
    kept = {"PATH": os.environ["PATH"], "HOME": str(cwd)}
    kept |= {"LLMANAC_CACHE": os.environ["LLMANAC_CACHE"]} if "LLMANAC_CACHE" in os.environ else {}
    command = [sys.executable, "-I", "-S", "-c", start, *shlex.split(words)]
    done = subprocess.run(command, cwd=cwd, env=kept, capture_output=True, text=True, timeout=300)
    assert done.returncode == status, (words, done.stdout[-2000:], done.stderr[-2000:])
    return done.stdout + done.stderr


def test_it_has_what_the_package_reads(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"llmanac/{name}" for name in READ} <= names
    assert not [name for name in names if "__pycache__" in name or "/cells/" in name or name.endswith(".gguf")]


def test_the_citation_is_complete_and_of_this_version(root: Path) -> None:
    text = (root / "CITATION.cff").read_text("utf-8")
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    cited = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line and not line.startswith(" "))
    assert {"message", "title"} <= cited.keys() and "\nauthors:\n  - name: " in text  # what the format requires
    assert (cited["cff-version"], cited["version"]) == ("1.2.0", project["version"])
    assert cited["license"] == project["license"]


def test_a_light_installation_is_small(root: Path, wheel: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    sizes = {
        name: sum(
            Path(str(one.locate_file(file))).stat().st_size
            for file in one.files or ()
            if one.locate_file(file).is_file()
        )
        for name, one in needed([Requirement(text).name for text in project["dependencies"]]).items()
    }
    assert "torch" not in sizes
    assert sum(sizes.values()) + sum(i.file_size for i in zipfile.ZipFile(wheel).infolist()) < LARGEST, sizes


QUICK = (
    ("show position/rope", "verdict"),
    ("list --json", '"position/rope"'),
    ("question list", "chapter"),
    ("verdict a.jsonl b.jsonl", "B is better than A"),
    ("doctor", "Next: llmanac ask"),
    ("--version", "llmanac"),
)
COMPILED = (  # their kernels are compiled anew for the place where the wheel is
    ("ask docs 'What does the server listen on?'", "8017"),
    ("tokenizer train bpe text.txt -o tok -s vocab_size=300", "ids, learned"),
    ("ngram train text.txt -o model.arpa --order 2", "n-grams"),
    ("metric bleu text.txt text.txt", "100"),
)


def inputs(folder: Path) -> None:
    """The files that the commands read."""
    (folder / "docs").mkdir()
    (folder / "docs" / "port.md").write_text("# Server\n\nThe server listens on port 8017 of the loopback.\n", "utf-8")
    (folder / "text.txt").write_text("the old king sees a fool .\nthe queen fears my lord .\n" * 40, "utf-8")
    for name, skill in (("a", 3), ("b", 2)):
        rows = [{"id": i, "score": int(i % skill == 0)} for i in range(600)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


@pytest.mark.parametrize("commands", [QUICK, pytest.param(COMPILED, marks=pytest.mark.slow)], ids=["quick", "compiled"])
def test_commands_run_outside_the_checkout_without_torch(
    commands: tuple[tuple[str, str], ...], site: Path, tmp_path: Path
) -> None:
    inputs(tmp_path)
    for words, text in commands:
        assert text in (said := run(site, words, tmp_path)), (words, said)
    said = run(site, "run quickstart --budget 20s", tmp_path, status=2)
    assert "needs torch" in said and "llmanac[torch]" in said and "Traceback" not in said


@pytest.mark.slow
@pytest.mark.pretrained
def test_a_gguf_file_is_answered_with_without_torch(site: Path, tmp_path: Path) -> None:
    place = pretrained("smollm2")
    assert place is not None, "make models"
    words = f"generate {shlex.quote(str(place))} 'The capital of France is' --max-new-tokens 8"
    assert "Paris" in run(site, words, tmp_path)
