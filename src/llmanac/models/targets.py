"""Which linear maps of a model a list of name patterns means."""

import difflib
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from llmanac.core.errors import SpecError, shown
from llmanac.models.heads import Head
from llmanac.models.layers import LinearMap

ALL_LINEAR = "all-linear"


def find_targets(model: nn.Module, patterns: Sequence[str], kinds: tuple[type, ...] = (LinearMap,)) -> dict[str, Any]:
    """The linear maps that a pattern fits, by name, in the model's order.

    Args:
        patterns: as in file names, for a full name or its last parts; `all-linear` for all but the head.
        kinds: of modules that may be named.

    Raises:
        SpecError: a pattern that fits nothing, or fits only modules that are no linear map.
    """
    modules = dict(model.named_modules())
    products: dict[str, Any] = {name: module for name, module in modules.items() if isinstance(module, kinds)}
    chosen: set[str] = set()
    for pattern in patterns:
        fitting = {name for name in products if _fits(pattern, name, products[name])}
        if not fitting:
            raise SpecError(f"targets: {shown(pattern)} {_why(pattern, modules, list(products))}")
        chosen |= fitting
    return {name: module for name, module in products.items() if name in chosen}


def _fits(pattern: str, name: str, module: nn.Module) -> bool:
    if pattern == ALL_LINEAR:
        return isinstance(module, LinearMap) and not isinstance(module, Head) and name.rpartition(".")[2] != "lm_head"
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"*.{pattern}")


def _why(pattern: str, modules: dict[str, nn.Module], products: list[str]) -> str:
    """What is wrong with a pattern that fits no linear map."""
    for name, module in modules.items():
        if name and pattern != ALL_LINEAR and _fits(pattern, name, module):
            return f"is {name} ({type(module).__name__}), which is no linear map; name linear maps, such as q_proj"
    known = list(dict.fromkeys([name.rpartition(".")[2] for name in products] + products))
    near = difflib.get_close_matches(pattern[:200], known, n=3) or known[:8]
    return f"fits no linear map of this model (near: {', '.join(near)})"
