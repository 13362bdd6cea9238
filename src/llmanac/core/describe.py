"""`llmanac show`: one method described from its file, without importing it (so without torch)."""

import ast
import functools
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from llmanac.core import catalogue, registry


def parsed(path: Path) -> ast.Module:
    """A file's syntax tree; the last ones are kept while their files are the same, since bases are read often."""
    return _parsed(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _parsed(path: Path, changed: int) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def choices(path: Path, name: str = "Spec") -> list[tuple[str, str, str]]:
    """`(field, type, default)` of a Spec in a file, those of its bases first, read from the source."""
    tree = parsed(path)
    found = next((n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name), None)
    if found is None:
        return []
    fields: dict[str, tuple[str, str, str]] = {}
    for base in found.bases:
        where, own = _class_of(tree, path, ast.unparse(base))
        if where is not None:
            fields |= {field: (field, kind, default) for field, kind, default in choices(where, own)}
    for node in found.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            kind = ast.unparse(node.annotation)
            if "ClassVar" not in kind:
                default = ast.unparse(_default(node.value)) if node.value else "required"
                fields[node.target.id] = (node.target.id, kind, default)
    return list(fields.values())


def _default(node: ast.expr) -> ast.expr:
    """What a field is without being given: of `field(default_factory=...)` what the factory makes."""
    if not (isinstance(node, ast.Call) and ast.unparse(node.func) in ("field", "dataclasses.field")):
        return node
    given = {keyword.arg: keyword.value for keyword in node.keywords}
    made = given.get("default_factory")
    if made is None:
        return given.get("default", node)
    return made.body if isinstance(made, ast.Lambda) else ast.Call(made, [], [])


def _class_of(tree: ast.Module, path: Path, name: str) -> tuple[Path | None, str]:
    """The file of a class that a module refers to as `name` or `module.name`, and its own name there."""
    owner, _, own = name.rpartition(".")
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("llmanac."):
            for alias in node.names:
                if (alias.asname or alias.name) == (owner or own):
                    module = f"{node.module}.{alias.name}" if owner else str(node.module)
                    place = registry.PACKAGE.joinpath(*module.split(".")[1:])
                    file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
                    return file, own if owner else alias.name
    here = any(isinstance(node, ast.ClassDef) and node.name == name for node in tree.body)
    return (path if here else None), own


def file_of(path: Path, name: str, within: str = "Spec") -> Path | None:
    """The file of a class that a Spec's file, or the file of one of its bases, refers to as `name` or `module.name`."""
    tree = parsed(path)
    if (found := _class_of(tree, path, name)[0]) is not None:
        return found
    own = next((n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == within), None)
    bases = [_class_of(tree, path, ast.unparse(base)) for base in own.bases] if own else []
    return next((found for where, base in bases if where and (found := file_of(where, name, base))), None)


def _docstring(path: Path) -> str:
    return ast.get_docstring(parsed(path)) or ""


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
        if card.get("use"):
            lines.append(f"{'use':<10} {card['use']}")
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
        lines.append(f"source     {entry.file or registry.PACKAGE.parent / entry.source}")
    return "\n".join([*lines, "", f"Next: {_next(entry, method, compared)}"])


def _next(entry: catalogue.CatalogueEntry, method: registry.Method | None, compared: Collection[str]) -> str:
    """A command that works as printed: a comparison where the kind has other methods, else the list."""
    others = _others(method) if method is not None and method.kind in compared and "reads" not in method.card else []
    if method is None or not others:
        return f"llmanac list {method.kind if method else entry.id.partition('/')[0]}"
    arms = ",".join([method.name, *others[:2]])
    return f"llmanac compare {method.kind} --arms {arms}{NEEDS.get(method.kind, ' --budget 3m')}"


def _others(method: registry.Method) -> list[str]:
    """Names of the kind's other methods, the same choices under another name left out."""
    seen = {_resolved(method)}
    found = []
    for name, other in registry.methods(method.kind).items():
        if _resolved(other) not in seen and "reads" not in other.card:  # needs more than a stream of text
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


def _checks(entry: catalogue.CatalogueEntry, method: registry.Method | None) -> list[str]:
    contract = "tests/contracts, run over every name of its kind" if method is not None else "none"
    first, *others = entry.reference or ("none yet",)
    return [
        f"  contract  {contract}",
        f"  reference {first}",
        *(f"            {test}" for test in others),
        f"  claim     {entry.claim or 'not measured yet'}",
        *_verdict(entry),
    ]


def _verdict(entry: catalogue.CatalogueEntry) -> list[str]:
    """What the evidence shows: the word, and a line for each part of the claim."""
    found = entry.verdict
    if not found:
        return []
    lines = [f"verdict    {found['verdict']}" + (f" ({found['note']})" if found["note"] and not found["parts"] else "")]
    for part in found["parts"]:
        effect = measured(part)
        of = f", n = {part['n']}" if part["n"] else ""
        lines.append(f"  {part['verdict']:<12} {part['says']}{': ' if effect else ''}{effect}{of}")
    return lines


def measured(part: Mapping[str, Any], *, margin: bool = False) -> str:
    """Effect of a part of a claim, its 95% interval and with `margin` the margin; empty where there is no effect."""
    if part.get("effect") is None:
        return ""
    scale, mark = (1, f" {part['unit']}") if part.get("unit") else (100, "%")
    ends = part.get("interval")
    known = f"{scale * ends[0]:+.3g} to {scale * ends[1]:+.3g}" if ends else "no interval"
    bar = f"; margin {scale * part['margin']:.3g}{mark[:1].strip()}" if margin else ""
    return f"{scale * part['effect']:+.3g}{mark} ({known}{bar})"
