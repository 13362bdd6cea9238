"""Every page's commands and code are run (`_pages.py` says how), and no page shows a command that no test runs."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from _forked import executables
from _pages import INDENTED, Session, blocks

import llmanac
from llmanac.generate.answers import Answer

# the pages whose blocks are run here, and those with blocks that are marked slow
PAGES = [
    "README.md", "docs/align.md", "docs/ask.md", "docs/assistant.md", "docs/classify.md", "docs/commands.md",
    "docs/compare.md",
    "docs/evaluate.md", "docs/finetune.md", "docs/generate.md", "docs/models.md",
    "docs/multimodal.md", "docs/ngrams.md",
    "docs/reason.md", "docs/retrieve.md", "docs/sandbox.md", "docs/scaling.md", "docs/serve.md", "docs/specialize.md",
    "docs/tokenizers.md",
]  # fmt: skip
SLOW = ["docs/assistant.md", "docs/compare.md", "docs/multimodal.md", "docs/tokenizers.md"]
# a minute or more each
LONG = [
    f"docs/{name}.md"
    for name in (
        "align",
        "ask",
        "classify",
        "compare",
        "evaluate",
        "finetune",
        "generate",
        "models",
        "multimodal",
        "ngrams",
        "reason",
        "retrieve",
        "scaling",
        "serve",
        "specialize",
        "tokenizers",
    )
] + ["README.md"]
# what the fast tests type in place of README's words, so that its commands train and ask less
BRIEFLY = {
    "--budget 40s ": "--budget 40s -s train.steps=8 -s train.batch_tokens=1024 -s finetune.steps=5 -s model.dim=64 "
    "-s model.layers=1 -s model.max_length=512 -s evaluate.questions=8 -s evaluate.held_out_bytes=5000 "
    "-s evaluate.baselines=none ",
    "--budget 15m -s model.dim=64 ": "--budget 60m -s model.dim=16 ",  # of a busy machine
    "-s train.steps=200 -s train.batch_tokens=512": "-s train.steps=40 -s train.batch_tokens=256 --seeds 2",
    "--budget 20s -o runs/metres": "--budget 20s -s train.steps=10 -o runs/metres",
}
# pages that go on from another, whose files and servers they use
FURTHER = {
    "docs/models.md": ["docs/embeddings.md", "docs/gguf.md"],
    "docs/compare.md": ["docs/compare-studies.md"],
    "docs/evaluate.md": ["docs/verdict.md", "docs/ratings.md"],
    "docs/serve.md": ["docs/serve-limits.md"],
}
# run by test_data_page.py, which has the page's inputs, test_reference_page.py and tests/contracts/test_contributing.py
ELSEWHERE = [
    "docs/constrain.md",
    "docs/constraints-methods.md",
    "docs/data.md",
    "docs/data-reference.md",
    "docs/guide.md",
    "docs/parallel.md",
    "docs/parallel-engineering.md",
    "docs/reference.md",
    "CONTRIBUTING.md",
]


@pytest.fixture
def session(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Session]:
    """The slow tests start every command as a reader does; in the others torch is imported once for all."""
    slow = request.node.get_closest_marker("slow")
    session = Session(tmp_path, *([] if slow else [str(executables() / "python")]))
    yield session
    session.close()


def prepared(session: Session, root: Path, page: str) -> str:
    """The page and those that go on from it, in a folder with the project's own pages, as a clone has them."""
    for path in [*root.glob("*.md"), *root.glob("docs/*.md")]:
        (session.folder / path.relative_to(root)).parent.mkdir(exist_ok=True)
        shutil.copy(path, session.folder / path.relative_to(root))
    return "\n".join((root / name).read_text("utf-8") for name in (page, *FURTHER.get(page, ())))


def fast(pages: list[str]) -> list[Any]:
    """Short pages run in `make test`, the rest in `make test-slow`; the README there as it is, and briefly below."""
    return [pytest.param(page, marks=pytest.mark.slow if page in LONG else ()) for page in pages]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", fast(PAGES))
def test_every_block_runs(page: str, root: Path, session: Session) -> None:
    text = prepared(session, root, page)
    assert any(block.commands for block in blocks(text)), f"{page} shows no command"
    session.page(text)
    if page == "README.md":
        check_answers(session, root)


@pytest.mark.timeout(1800)
def test_every_block_of_the_readme_runs_briefly(root: Path, session: Session) -> None:
    """With fewer steps, and one question for `chat`: the others are asked below."""
    text = prepared(session, root, "README.md")
    for words, typed in BRIEFLY.items():
        assert text.count(words) == 1, words
        text = text.replace(words, typed)
    _, *others = ECHO.finditer(text)
    for shown in others:
        text = text.replace(shown[0], "")
    session.page(text)
    check_answers(session, root)


def check_answers(session: Session, root: Path) -> None:
    """The run is shorter than README's, so its answers may be others."""
    expected = asked(root)
    assert len(expected) == 5
    found = answers(session, expected)
    assert all(done.refused or (done.text and done.citations) for done in found.values()), found
    assert any(done.citations for done in found.values())


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("page", SLOW)
def test_every_slow_block_runs(page: str, root: Path, session: Session) -> None:
    text = prepared(session, root, page)
    assert any(block.mark == "slow" for block in blocks(text))
    session.page(text, slow=True)


# questions and the first lines of their answers, as the README shows them; and those of its snippets, which print them
ECHO = re.compile(r'^\$ echo "([^"]+)" \| llmanac chat [\w/]+\n([^$\n`][^\n]*)$', re.MULTILINE)
ASKED = {
    "What does itertools.pairwise do?": '"Return an iterator of overlapping pairs taken from the input iterator." [1]',
    "What does heapq.heappush do?": '"Push item onto heap, maintaining the heap invariant." [1]',
}


def asked(root: Path) -> dict[str, str]:
    """The README's questions and their answers."""
    text = (root / "README.md").read_text("utf-8")
    assert all(f'"{question}"' in text for question in ASKED)
    return {**dict(ECHO.findall(text)), **ASKED}


def answers(session: Session, questions: Iterable[str]) -> dict[str, Answer]:
    from llmanac import Engine, load_model, load_tokenizer
    from llmanac.generate.load import load_assistant

    run = session.folder / "runs" / "quickstart"
    model = load_model(run / "model", dtype="float32", device="cpu")
    assistant = load_assistant(run, Engine(model, load_tokenizer(run / "model")))
    assert assistant is not None
    return {question: assistant.answer(question) for question in questions}


def test_a_folder_answers_what_the_readme_shows(root: Path) -> None:
    """In the checkout's own pages, as a reader types it."""
    text = (root / "README.md").read_text("utf-8")
    [(question, answer)] = re.findall(r'`llmanac ask docs "([^"]+)"` quotes `("[^"`]+") \[1\]`', text)
    assert llmanac.ask(root / "docs", question).text.startswith(answer)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_demo_answers_what_the_readme_asks(root: Path, session: Session) -> None:
    """On a run of five minutes, as `make demo` makes it; nothing is left to be compiled for what follows it."""
    assert "BUDGET ?= 5m" in (root / "Makefile").read_text("utf-8")
    cache = session.folder / "compiled"
    session.environment["LLMANAC_CACHE"] = str(cache)
    session.run("llmanac run quickstart --budget 5m")
    compiled = {path for path in cache.rglob("*") if path.is_file()}
    expected = asked(root)
    for question in expected:
        session.run(f'echo "{question}" | llmanac chat runs/quickstart')
    session.run("llmanac serve runs/quickstart --port 8019")
    assert len(compiled) > 50 and {path for path in cache.rglob("*") if path.is_file()} == compiled
    assert {question: done.text.split("\n")[0] for question, done in answers(session, expected).items()} == expected


def test_every_page_is_run(root: Path) -> None:
    """A page that is new is run too, slow blocks say why they are, and no command hides outside of a block."""
    for path in [*root.glob("*.md"), *root.glob("docs/*.md")]:
        page, text = path.relative_to(root).as_posix(), path.read_text("utf-8")
        found = blocks(text)
        assert all(block.why.strip() for block in found if block.mark), page
        assert "not run" not in [block.mark for block in found], page
        if page in (*PAGES, *ELSEWHERE, *itertools.chain(*FURTHER.values())):
            assert not INDENTED.search(text), f"{page}: a command outside of a ```console block is run by no test"
        else:
            assert not any(block.commands or block.language == "python" for block in found), f"{page} is run by no test"
    slow = {page for page in PAGES if any(b.mark == "slow" for b in blocks((root / page).read_text("utf-8")))}
    assert slow == set(SLOW)


LINK = re.compile(r"\]\(([^)#\s]+)(#[^)\s]*)?\)")


OWN = re.compile(r"\]\(#([^)\s]+)\)")


def test_every_link_leads_somewhere(root: Path) -> None:
    for path in [*root.glob("*.md"), *root.glob("docs/*.md"), *root.glob("docs/evidence/*/page.md")]:
        text = path.read_text("utf-8")
        for target, _ in LINK.findall(text):
            assert target.startswith("https://") or (path.parent / target).exists(), f"{path}: {target}"
        heads = [
            re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in re.findall(r"^#+ (.+)$", text, re.M)
        ]
        assert set(OWN.findall(text)) <= set(heads), path


def test_the_map_names_files_that_exist(root: Path) -> None:
    for path in re.findall(r"`((?:\w+/)+\w+\.\w+)`", (root / "docs" / "architecture.md").read_text("utf-8")):
        assert any((base / path).exists() for base in (root, root / "src" / "llmanac")), path


@pytest.mark.parametrize("made_by", ["tools/readme.py", "benchmarks/run.py"])
def test_the_numbers_are_those_of_the_evidence(made_by: str, root: Path) -> None:
    done = subprocess.run([sys.executable, root / made_by, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
