"""A package imports only from itself and from those before it; the package never imports a peer."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

LAYERS = [
    "core", "kernels", "metrics", "sandbox", "tokenizers", "data", "models", "adapters", "quant", "generate",
    "objectives", "rewards", "parallel", "train", "evaluate", "reason", "act", "retrieve", "multimodal", "recipes",
    "lab", "web", "guide", "apps", "cli",
]  # fmt: skip
PEERS = {
    "transformers", "tokenizers", "tiktoken", "sentencepiece", "peft", "trl", "sacrebleu", "rouge_score", "bert_score",
    "datasketch", "rensa", "datatrove", "spacy", "bitsandbytes", "diffusers", "rank_bm25", "bm25s", "kenlm", "nltk",
    "scipy", "sklearn", "lm_eval",
}  # fmt: skip
# numba keeps compiled code as pickles; what is read has the digest that this user's own process wrote with it
PICKLES = {"kernels/_cache.py"}
SOURCE = Path(__file__).resolve().parents[2] / "src" / "llmanac"
FILES = sorted(SOURCE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(SOURCE).as_posix())
def test_layers_and_peers(path: Path) -> None:
    relative = path.relative_to(SOURCE)
    layer = relative.parts[0].removesuffix(".py")
    for name in imports(path):
        assert name.partition(".")[0] not in PEERS, f"{relative} imports the peer {name}"
        parts = name.split(".")
        if layer not in ("__init__", "__main__") and parts[0] == "llmanac" and len(parts) > 1 and parts[1] in LAYERS:
            assert LAYERS.index(parts[1]) <= LAYERS.index(layer), f"{relative} imports {name}, which comes later"


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(SOURCE).as_posix())
def test_no_file_over_400_lines_and_no_pickle(path: Path) -> None:
    text = path.read_text("utf-8")
    assert text.count("\n") <= 400
    if path.relative_to(SOURCE).as_posix() not in PICKLES:
        assert "pickle" not in {name.partition(".")[0] for name in imports(path)}
    assert "torch.save(" not in text
    assert "torch.load(" not in text


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(SOURCE).as_posix())
def test_only_the_command_line_parses_options_and_draws_tables(path: Path) -> None:
    if path.relative_to(SOURCE).parts[0] != "cli":
        assert not {name.partition(".")[0] for name in imports(path)} & {"typer", "rich", "click"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(SOURCE).as_posix())
def test_nothing_below_the_command_line_names_it_by_a_string(path: Path) -> None:
    if path.relative_to(SOURCE).parts[0] != "cli":
        texts = {n.value for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, ast.Constant)}
        assert not [text for text in texts if isinstance(text, str) and re.match(r"llmanac\.cli\b", text)]
