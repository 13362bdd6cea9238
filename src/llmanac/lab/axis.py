"""The axis of a comparison: the path of the recipe that a kind names, and what the arms set there.

Everything outside the axis comes from one base. The differences between each arm and the base are computed from the
resolved recipes, not from what the user asked for, and a difference anywhere else is refused.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from llmanac.core import registry
from llmanac.core.errors import SpecError, nearest
from llmanac.core.spec import Spec, diff, kinds_of, make_method, patch
from llmanac.lab.arms import ArmText, read_value

TrialName = Literal[
    "training", "decoding", "tokenizers", "quantizing", "retrieving", "tunings", "aligning", "pictures", "classifying"
]
Hold = Literal["tokens", "params", "flops", "time"]
HOLDS = ("tokens", "params", "flops", "time")


@dataclass(frozen=True)
class Axis:
    """A kind, its path in the recipe, and how its arms are tried.

    `kind` is empty for an axis that is one field (`train.optimizer.lr`); `path` is empty for complete recipes and for
    methods that are applied to a finished artefact.
    """

    name: str
    kind: str
    path: str
    trial: TrialName = "training"

    def covers(self, path: str) -> bool:
        """Whether a leaf of the recipe is on the axis."""
        if self.name == "recipe":
            return True
        steps = [r"\d+" if step == "*" else re.escape(step) for step in self.path.split(".")]
        return bool(self.path) and re.fullmatch(r"\.".join(steps) + r"(\..*)?", path) is not None

    @property
    def same_start(self) -> bool:
        """Whether arms must share the initial values of every tensor that has one name and shape in both.

        Architectures of images need not: a text tower begins with effect, a language model's blocks as the identity.
        """
        return self.name not in ("recipe", PICTURES)

    @property
    def same_rows(self) -> bool:
        """Whether arms must read the same rows in the same order: they cannot where the axis decides what a row is."""
        decides = ("recipe", "objective")  # an objective says what it reads
        length = self.path == "train.length"
        return self.name not in decides and not length and not self.path.startswith(("data", "tokenizer"))


PATHS = {
    "lm": "model",
    "position": "model.position",
    "norm": "model.norm",
    "head": "model.head",
    "block": "model.blocks.*",
    "mixer": "model.blocks.*.mixer",
    "score": "model.blocks.*.mixer.score",
    "ffn": "model.blocks.*.ffn",
    "optimizer": "train.optimizer",
    "schedule": "train.schedule",
    "objective": "objective",
}
# Kinds where another method starts from its own defaults and keeps no field of the base: a learning rate that suits
# one optimizer says nothing about another. Elsewhere fields of the same name are kept (heads, widths).
OWN_DEFAULTS = ("optimizer",)
POST_HOC: dict[str, TrialName] = {
    "decoding": "decoding",
    "tokenizer": "tokenizers",
    "quantizer": "quantizing",
    "retriever": "retrieving",
    "classifier": "classifying",
    "start": "classifying",
}
FULL = "full"  # the arm of adapters that has none
PICTURES = "multimodal"  # architectures of images, which have a base of their own (`trials/picturing.py`)
KNOWN = (*PATHS, *POST_HOC, PICTURES, "recipe")
# Kinds whose methods can all be compared with each other; objectives, for example, need text of their own kind.
AS_THEY_ARE = frozenset(KNOWN) - {"recipe", "objective", "block", "classifier", "start", PICTURES}


@dataclass(frozen=True)
class Arm:
    """One arm: its label, the resolved Spec that is tried, its difference from the base, and what `--hold` changed."""

    label: str
    spec: Any
    diff: dict[str, tuple[Any, Any]]
    held: dict[str, tuple[Any, Any]]

    def describe(self) -> str:
        """The differences in one line."""
        return described(self.diff)


def described(diff: Mapping[str, Sequence[Any]]) -> str:
    """Differences in one line. Where another method is named, fields that only one of the two has go with the name."""
    named = [path.removesuffix("name") for path in diff if path == "name" or path.endswith(".name")]
    shown = {
        path: pair for path, pair in diff.items()
        if path.endswith("name") or None not in pair or not any(path.startswith(place) for place in named)
    }  # fmt: skip
    return "; ".join(f"{path}: {short(old)} → {short(new)}" for path, (old, new) in shown.items()) or "as the base"


def short(value: Any) -> str:
    """A value of a difference for a reader."""
    return "unset" if value is None else str(value)


def find_axis(kind: str, base: Spec | None = None) -> Axis:
    """The axis that `kind` names: a kind, `recipe` for complete recipes, or a dotted path for one field.

    Args:
        base: where a kind that is not in `PATHS` is looked for, such as the loss of the base's objective.

    Raises:
        SpecError: two axes at once, an unknown kind (names the nearest one), or one that the base has not or twice.
    """
    if re.search(r"[,+\s]", kind.strip()):
        named = [k for k in re.split(r"[,+\s]+", kind.strip()) if k]
        raise SpecError(
            f"{kind!r}: a comparison varies one axis, and this names {len(named)} ({', '.join(named)}); compare them "
            "one after the other, or complete recipes with kind `recipe`"
        )
    if kind in PATHS:
        return Axis(kind, kind, PATHS[kind])
    if kind in POST_HOC:
        return Axis(kind, kind, "", POST_HOC[kind])
    if kind == PICTURES:
        return Axis(kind, kind, "model", "pictures")
    if kind == "recipe":
        return Axis(kind, "", "")
    if "." in kind:
        return Axis(kind, "", kind)
    if base is not None and kind in registry.KINDS:
        return Axis(kind, kind, _path_in(base, kind))
    raise SpecError(
        f"nothing to compare is called {kind!r}{nearest(kind, KNOWN)} (known: {', '.join(KNOWN)}, or a path)"
    )


def _path_in(base: Spec, kind: str) -> str:
    """The path at which a recipe has a method of this kind, or room for one."""
    found = sorted(set(_paths(base, kind)))
    if len(found) == 1:
        return found[0]
    if not found:
        tunings = ", as a tuning's folder, or -s model=MODEL -s rows.file=ROWS" if kind == "adapter" else ""
        raise SpecError(
            f"{kind}: the base recipe has none, so there is nothing to vary; give a --base that has one{tunings}"
        )
    raise SpecError(f"{kind}: the base recipe has several ({', '.join(found)}); name one of these paths instead")


def _paths(spec: Spec, kind: str) -> Iterator[str]:
    """Every path below a Spec whose value is, or may be, a method of this kind; an item of a list is `*`."""
    for field in fields(spec):
        value = getattr(spec, field.name)
        parts = [(field.name, value)] if not isinstance(value, tuple) else [(f"{field.name}.*", v) for v in value]
        if value is None and kind in kinds_of(type(spec), field.name):
            yield field.name
        for path, part in parts:
            if not isinstance(part, Spec):
                continue
            if part.kind == kind:
                yield path
            yield from (f"{path}.{below}" for below in _paths(part, kind))


def resolve(base: Spec, axis: Axis, texts: Sequence[ArmText]) -> list[Arm]:
    """Each arm's recipe: the base with the arm on the axis.

    Raises:
        SpecError: an unknown method (names the nearest), a field it does not have, or a difference outside the axis.
    """
    arms = []
    for text in texts:
        if axis.kind and text.patches is None and (axis.kind, text.name) != ("adapter", FULL):
            known_method(axis.kind, text.name)
        changes = _changes(base, axis, text)
        try:
            spec = patch(base, changes)
        except SpecError as error:
            raise SpecError(f"arm {text.label!r}: {error}") from None
        arms.append(Arm(text.label, spec, diff(base, spec), {}))
    refuse_outside(arms, axis)
    return arms


def known_method(kind: str, name: str) -> None:
    """Raise SpecError for an unknown method; it names the nearest."""
    known = registry.methods(kind)
    if name not in known:
        raise SpecError(f"--arms: no {kind} named {name!r}{nearest(name, known)} (known: {', '.join(known)})")


def _changes(base: Spec, axis: Axis, text: ArmText) -> dict[str, Any]:
    if text.patches is not None:
        return dict(text.patches)
    if axis.kind == "adapter" and text.name == FULL:
        return {axis.path: None}
    if axis.name == "recipe":
        raise SpecError(f"arms.{text.label}: complete recipes are compared by their patches, a table of path = value")
    if axis.kind in OWN_DEFAULTS and text.name not in _names(axis.kind, _at(base, axis.path)):
        own = make_method(axis.kind, {"name": text.name, **dict(text.fields)}, f"arm {text.label!r}")
        return {axis.path: {"name": text.name, **{f.name: getattr(own, f.name) for f in fields(own)}}}
    if axis.kind:
        return {axis.path: text.value}
    if text.fields:
        raise SpecError(f"arm {text.label!r}: {axis.path} is one field; its arms are plain values")
    return {axis.path: read_value(text.name)}


def _at(base: Any, path: str) -> Spec:
    """The Spec at a path without `*`."""
    for step in path.split("."):
        base = getattr(base, step)
    return base


def _names(kind: str, spec: Spec) -> set[str]:
    """Every name of a Spec's method, aliases included."""
    known = registry.methods(kind)
    return {name for name, method in known.items() if method.path == known[spec.name].path}


def refuse_outside(arms: Sequence[Arm], axis: Axis) -> None:
    """Raise SpecError where an arm differs from the base outside the axis, except in what `--hold` changed."""
    for arm in arms:
        outside = [path for path in arm.diff if not axis.covers(path) and path not in arm.held]
        if outside:
            raise SpecError(
                f"arm {arm.label!r}: {', '.join(outside)} would vary too, outside the axis {axis.name} ({axis.path}); "
                "put it into the base for every arm, or compare complete recipes with kind `recipe`"
            )


def methods_of(kind: str, text: ArmText) -> Spec:
    """The Spec that an arm of a post-hoc axis names by itself.

    Raises:
        SpecError: an unknown method, or a field it does not have.
    """
    if text.patches is not None:
        raise SpecError(f"arms.{text.label}: a {kind} is named, not patched; give it a `name`")
    known_method(kind, text.name)
    return make_method(kind, {"name": text.name, **dict(text.fields)}, f"arm {text.label!r}")


def check_hold(hold: str | None) -> Hold:
    """The named hold; tokens by default. Raises SpecError for any other word."""
    if hold is None:
        return "tokens"
    if hold not in HOLDS:
        raise SpecError(f"--hold: {hold!r} is not one of {', '.join(HOLDS)}{nearest(hold, HOLDS)}")
    return hold  # type: ignore[return-value]
