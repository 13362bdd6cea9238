"""A package imports only from itself and from those before it; the package never imports a peer."""

from __future__ import annotations

import ast
import functools
import re
from collections import Counter
from pathlib import Path

FLOORS = {
    "foundation": ["core", "kernels", "metrics", "sandbox"],
    "text": ["tokenizers", "data"],
    "models": ["models", "adapters", "quant"],
    "computing": ["generate", "objectives", "rewards", "parallel", "train"],
    "uses": ["evaluate", "reason", "act", "retrieve", "recipes", "lab"],
    "doors": ["web", "guide", "apps", "cli"],
}
LAYERS = [package for floor in FLOORS.values() for package in floor]
PEERS = {
    "transformers", "tokenizers", "tiktoken", "sentencepiece", "peft", "trl", "sacrebleu", "rouge_score", "bert_score",
    "datasketch", "rensa", "datatrove", "spacy", "bitsandbytes", "diffusers", "rank_bm25", "bm25s", "kenlm", "nltk",
    "scipy", "sklearn", "lm_eval",
}  # fmt: skip
# numba keeps compiled code as pickles; what is read has the digest that this user's own process wrote with it
PICKLES = {"kernels/cache.py"}
SOURCE = Path(__file__).resolve().parents[2] / "src" / "llmanac"
FILES = sorted(SOURCE.rglob("*.py"))


@functools.cache
def tree(path: Path) -> ast.AST:
    return ast.parse(path.read_text("utf-8"))


@functools.cache
def imports(path: Path) -> frozenset[str]:
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def test_layers_and_peers() -> None:
    for path in FILES:
        relative = path.relative_to(SOURCE)
        layer = relative.parts[0].removesuffix(".py")
        for name in imports(path):
            assert name.partition(".")[0] not in PEERS, f"{relative} imports the peer {name}"
            parts = name.split(".")
            if layer in LAYERS and parts[0] == "llmanac" and len(parts) > 1 and parts[1] in LAYERS:
                later = LAYERS.index(parts[1]) > LAYERS.index(layer)
                assert not later, f"{relative} imports {name}, which comes later"


def test_the_floors_are_those_of_the_documentation(root: Path) -> None:
    text = (root / "docs" / "architecture.md").read_text("utf-8")
    for floor, packages in FLOORS.items():
        assert re.search(rf"{floor} +{re.escape(', '.join(packages))}\n", text), floor
    assert sorted(LAYERS) == sorted(p.name for p in SOURCE.iterdir() if p.is_dir() and any(p.glob("*.py")))


def test_no_private_name_of_another_package() -> None:
    assert not [
        (path, alias.name)
        for path in FILES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("llmanac.")
        for alias in node.names
        if node.module.split(".")[1] != path.relative_to(SOURCE).parts[0].removesuffix(".py")
        and any(part.startswith("_") for part in (*node.module.split("."), alias.name))
    ]


def circles(edges: dict[str, set[str]]) -> list[str]:
    """What can be peeled off neither from the top nor from the bottom is a circle, or lies between two."""
    left = {name: set(to) for name, to in edges.items()}
    while gone := {name for name, to in left.items() if not to & left.keys()}:
        left = {name: to for name, to in left.items() if name not in gone}
    while gone := left.keys() - {one for to in left.values() for one in to}:
        left = {name: to for name, to in left.items() if name not in gone}
    return sorted(left)


def test_no_module_imports_itself_through_others() -> None:
    """Imports inside functions and those for types alone count; a package's own modules may import it."""
    names = {path: ".".join(("llmanac", *path.relative_to(SOURCE).with_suffix("").parts)) for path in FILES}
    names = {path: name.removesuffix(".__init__") for path, name in names.items()}
    known = set(names.values())
    edges: dict[str, set[str]] = {name: set() for name in known}
    for path, name in names.items():
        for found in imports(path):
            while found and found not in known:
                found = found.rpartition(".")[0]
            if found and found != name and not name.startswith(f"{found}."):
                edges[name].add(found)
    assert not circles(edges)
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}) == ["b", "c"]


def test_a_class_has_a_name_of_its_own() -> None:
    """Every method has a `Spec`; a `Step` is of environments, which users write, and of the compiled runner. What `web`
    reads is named as the interfaces name it."""
    own = [path for path in FILES if path.relative_to(SOURCE).parts[0] != "web"]
    found = Counter(node.name for path in own for node in ast.walk(tree(path)) if isinstance(node, ast.ClassDef))
    assert {name for name, count in found.items() if count > 1} == {"Spec", "Step"}


def test_no_file_over_400_lines_and_no_pickle() -> None:
    for path in FILES:
        text, relative = path.read_text("utf-8"), path.relative_to(SOURCE).as_posix()
        assert text.count("\n") <= 400, relative
        if relative not in PICKLES:
            assert "pickle" not in {name.partition(".")[0] for name in imports(path)}, relative
        assert "torch.save(" not in text, relative
        assert "torch.load(" not in text, relative


def test_only_the_command_line_parses_options_draws_tables_and_is_named() -> None:
    for path in FILES:
        relative = path.relative_to(SOURCE)
        if relative.parts[0] == "cli":
            continue
        assert not {name.partition(".")[0] for name in imports(path)} & {"typer", "rich", "click"}, relative
        texts = {n.value for n in ast.walk(tree(path)) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
        assert not [text for text in texts if re.match(r"llmanac\.cli\b", text)], relative


def test_every_layer_is_a_package() -> None:
    packages = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    assert packages - {"evidence_results"} == set(LAYERS)
