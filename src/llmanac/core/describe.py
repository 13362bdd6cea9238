"""`llmanac show`: one method described from its file, without importing it (so without torch)."""

from __future__ import annotations

import ast
from collections.abc import Collection
from pathlib import Path
from typing import Any

from llmanac.core import catalogue, registry


def choices(path: Path) -> list[tuple[str, str, str]]:
    """`(field, type, default)` of the Spec in a method file, read from its source."""
    tree = ast.parse(path.read_text("utf-8"))
    found = next((n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Spec"), None)
    if found is None:
        return []
    return [
        (node.target.id, ast.unparse(node.annotation), ast.unparse(node.value) if node.value else "required")
        for node in found.body
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and "ClassVar" not in ast.unparse(node.annotation)
    ]


def _docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""


# Further flags that a comparison of a kind needs.
NEEDS = {"decoding": " --artefact runs/quickstart --budget 3m", "tokenizer": ""}


def describe(name: str, compared: Collection[str] = ()) -> str:
    """The text of `llmanac show`: title, card, choices with defaults, status of each check, source, what to do next.

    Args:
        compared: the kinds whose methods `llmanac compare` tries against each other as they are.
    """
    entry = catalogue.find(name)
    lines = [f"{entry.id}: {entry.title}", ""]
    method = None
    if entry.method:
        kind, _, short = entry.method.partition("/")
        known = registry.methods(kind)
        method = known.get(short)
    if method is not None:
        lines += [_docstring(method.path), ""]
        lines += _choices(method)
        card = method.card
        for key in ("paper", "reference"):
            if card.get(key):
                lines.append(f"{key:<10} {card[key]}")
        others = sorted({n for n, m in registry.methods(method.kind).items() if m.path == method.path} - {method.name})
        if others:
            lines.append(f"aliases    {', '.join(others)}")
    elif entry.status == "planned":
        lines += ["Not built yet; it is listed so that the list stays honest.", ""]
    lines += [f"status     {entry.status}", *_checks(entry, method)]
    if entry.source:
        lines.append(f"source     {registry.PACKAGE.parent / entry.source}")
    return "\n".join([*lines, "", f"Next: {_next(entry, method, compared)}"])


def _next(entry: catalogue.Entry, method: registry.Method | None, compared: Collection[str]) -> str:
    """A command that works as printed: a comparison where the kind has other methods, else the list."""
    others = _others(method) if method is not None and method.kind in compared else []
    if method is None or not others:
        return f"llmanac list {method.kind if method else entry.id.partition('/')[0]}"
    arms = ",".join([method.name, *others[:2]])
    return f"llmanac compare {method.kind} --arms {arms}{NEEDS.get(method.kind, ' --budget 3m')}"


def _others(method: registry.Method) -> list[str]:
    """Names of the kind's other methods, the same choices under another name left out."""
    seen = {_resolved(method)}
    found = []
    for name, other in registry.methods(method.kind).items():
        if _resolved(other) not in seen:
            seen.add(_resolved(other))
            found.append(name)
    return found


def _resolved(method: registry.Method) -> tuple[str, ...]:
    """The file and the value of each choice, as text."""
    preset = {name: repr(value) for name, value in method.defaults.items()}
    return str(method.path), *(preset.get(name, _plain(default)) for name, _, default in choices(method.path))


def _plain(default: str) -> str:
    """A default's source as `repr` writes its value, where it is a literal."""
    try:
        value: Any = ast.literal_eval(default)
    except ValueError:
        return default
    return repr(value)


def _choices(method: registry.Method) -> list[str]:
    fields = choices(method.path)
    if not fields:
        return ["choices    none", ""]
    width = max(len(name) for name, _, _ in fields)
    lines = ["choices"]
    for name, kind, default in fields:
        preset = f"   (preset by {method.name})" if name in method.defaults else ""
        value = repr(method.defaults[name]) if name in method.defaults else default
        lines.append(f"  {name:<{width}}  {kind} = {value}{preset}")
    return [*lines, ""]


def _checks(entry: catalogue.Entry, method: registry.Method | None) -> list[str]:
    contract = "tests/contracts, run over every name of its kind" if method is not None else "none"
    first, *others = entry.reference or ("none yet",)
    return [
        f"  contract  {contract}",
        f"  reference {first}",
        *(f"            {test}" for test in others),
        f"  claim     {entry.claim or 'not measured yet'}",
    ]
