"""How many files of the project run for four common tasks; docs/architecture.md shows the walks."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import llmanac
from llmanac.core.spec import make_method
from llmanac.generate.engine import Engine
from llmanac.models.load import load_model
from llmanac.retrieve.folder import FolderIndex
from llmanac.retrieve.folder.answers import FolderAssistant
from llmanac.tokenizers.load import train_tokenizer

SOURCE = Path(llmanac.__file__).resolve().parent
MOST = {  # project files whose functions run; the numbers may only fall (aims: 15, 15, 15, 20)
    "a Llama from a folder to logits": 32,
    "a preference pair to its loss": 29,
    "a question to ask": 8,
    "a request to its first token": 33,
}
LLAMA = {"name": "transformer", "dim": 16, "layers": 2, "max_length": 64}
PAIR = {"prompt": "the cat", "chosen": " sat", "rejected": " ran away"}


def files_run(act: Callable[[], Any]) -> list[str]:
    """The project's files whose functions run, without what happens once: imports, compiled kernels, caches."""
    act()
    seen: set[str] = set()

    def watch(frame: Any, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_name != "<module>":
            seen.add(frame.f_code.co_filename)

    threading.setprofile(watch)
    sys.setprofile(watch)
    try:
        act()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
    places = [Path(name) for name in seen]
    return sorted(place.relative_to(SOURCE).as_posix() for place in places if place.is_relative_to(SOURCE))


@pytest.fixture(scope="module")
def walks(tmp_path_factory) -> dict[str, list[str]]:
    tokenizer = train_tokenizer("utf8", [])
    folder = tmp_path_factory.mktemp("llama") / "model"
    model = make_method("lm", LLAMA).build(vocab_size=tokenizer.vocab_size).eval()
    model.save_pretrained(folder)
    reference = make_method("lm", LLAMA).build(vocab_size=tokenizer.vocab_size).eval()
    objective = make_method("objective", "dpo").build(tokenizer=tokenizer, models={"reference": reference})
    documents = tmp_path_factory.mktemp("documents")
    (documents / "rent.txt").write_text("The rent is due on the first day of each month.\n\nPets are allowed.\n")
    assistant, engine = FolderAssistant(FolderIndex.update(documents, None)), Engine(model, tokenizer)
    ids = torch.tensor([[1, 2, 3]])
    acts = {
        "a Llama from a folder to logits": lambda: load_model(folder, device="cpu")(ids).logits,
        "a preference pair to its loss": lambda: objective.loss(model, objective.collate([PAIR])),
        "a question to ask": lambda: assistant.answer("When is the rent due?"),
        "a request to its first token": lambda: next(engine.stream([1, 2, 3], max_new_tokens=2)),
    }
    return {name: files_run(act) for name, act in acts.items()}


@pytest.mark.parametrize("name", MOST)
def test_few_files_run(walks: dict[str, list[str]], name: str) -> None:
    assert 3 < len(walks[name]) <= MOST[name], f"{len(walks[name])}: {' '.join(walks[name])}"


@pytest.mark.parametrize("name", MOST)
def test_the_documentation_shows_the_walk(walks: dict[str, list[str]], name: str, root: Path) -> None:
    text = (root / "docs" / "architecture.md").read_text("utf-8")
    shown = re.search(rf"\*\*{re.escape(name)}\*\* \((\d+) files\): (.*?)\.\n\n", text, re.DOTALL)
    assert shown is not None, name
    assert int(shown[1]) == len(walks[name])
    missing = [path for path in re.findall(r"`([\w/]+\.py)`", shown[2]) if path not in walks[name]]
    assert not missing, missing
