"""`llmanac show`: one method described from its file, without importing it (so without torch)."""

from __future__ import annotations

import ast
from pathlib import Path

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


def describe(name: str) -> str:
    """The text of `llmanac show`: title, card, choices with defaults, status of each check, source."""
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
    if method is not None and entry.status != "planned":
        siblings = [n for n in registry.methods(method.kind) if n != method.name][:2]
        if siblings:
            arms = ",".join([method.name, *siblings])
            lines += ["", f"Next: llmanac compare {method.kind} --arms {arms} --budget 3m"]
    return "\n".join(lines)


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
    return [
        f"  contract  {contract}",
        f"  reference {entry.reference or 'none yet'}",
        f"  claim     {entry.claim or 'not measured yet'}",
    ]
