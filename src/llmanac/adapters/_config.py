"""An adapter's files in PEFT's layout, and what the fields of adapter_config.json mean. The files are untrusted.

Where the linear maps of a model are in the files of its family; PEFT's names are those of the family's modules.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from llmanac.core.errors import CheckpointError, shown
from llmanac.models.families import FAMILIES, Misfit, Names, WeightSource, family
from llmanac.models.lm import TrainedModel
from llmanac.models.targets import ALL_LINEAR
from llmanac.models.weights import Weights

# fields that say nothing of what is computed, or that the tensors say
IGNORED = {
    "auto_mapping", "base_model_name_or_path", "inference_mode", "peft_type", "peft_version", "revision", "task_type",
    "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "megatron_config", "megatron_core",
    "loftq_config", "qalora_group_size", "fan_in_fan_out", "eva_config", "ensure_weight_tying", "runtime_config",
}  # fmt: skip
MOST_RANK = 1 << 16


@dataclass(frozen=True)
class AdapterFiles:
    """An adapter's files: the config at `path`, and the tensors."""

    path: Path
    config: Mapping[str, Any]
    weights: Weights

    def error(self, field: str, why: str) -> CheckpointError:
        """The error for the value of a field."""
        return CheckpointError(f"{self.path}: {field} is {shown(self.config.get(field))}; {why}")

    def check_fields(self, known: set[str]) -> None:
        """Raises CheckpointError for a field that asks for what is not built."""
        for name, value in self.config.items():
            if name not in known and name not in IGNORED and value not in (None, False, {}, []):
                raise self.error(shown(name)[1:-1], "this is not built; load it with PEFT and merge it there")

    def number(self, field: str, default: int | None = None, most: int = MOST_RANK) -> int:
        """A whole number from 1 on."""
        value = self.config.get(field, default)
        if type(value) is not int or not 1 <= value <= most:
            raise self.error(field, f"expected a whole number from 1 to {most:,}")
        return value

    def real(self, field: str, low: float, high: float, default: float) -> float:
        """A number, `low` < or = it < `high`."""
        value = self.config.get(field, default)
        if type(value) not in (int, float) or not low <= value < high:
            raise self.error(field, f"expected a number from {low:g} to {high:g}")
        return float(value)

    def flag(self, field: str) -> bool:
        value = self.config.get(field, False)
        if not isinstance(value, bool):
            raise self.error(field, "expected true or false")
        return value

    def pattern(self, field: str, name: str) -> Any:
        """The value that a table of name patterns has for a module, or None."""
        table = self.config.get(field) or {}
        if not isinstance(table, dict):
            raise self.error(field, "expected a table")
        for key, value in table.items():
            if self._fits(field, key, rf"(?:.*\.)?(?:{key})$", name, unknown=None):
                if type(value) not in (int, float) or not 0 < value <= MOST_RANK:
                    raise self.error(field, f"expected numbers from 1 to {MOST_RANK:,}")
                return value
        return None

    def means(self, field: str, name: str, unknown: bool = False) -> bool:
        """Whether a field of module names (PEFT's: names, ends of names, or one pattern) means a module.

        Args:
            unknown: the answer where a pattern cannot be tried in bounded time.
        """
        wanted = self.config.get(field)
        if isinstance(wanted, str):
            if wanted == ALL_LINEAR:
                return not name.endswith("lm_head")
            return self._fits(field, wanted, f"(?:{wanted})$", name, unknown=unknown)
        if wanted is not None and not (isinstance(wanted, list) and all(isinstance(end, str) for end in wanted)):
            raise self.error(field, "expected names or a regular expression")
        return any(name == end or name.endswith(f".{end}") for end in wanted or ())

    def _fits(self, field: str, given: str, pattern: str, name: str, *, unknown: bool | None) -> bool:
        """Whether the beginning of a name matches; `unknown` where that could take long, an error for None."""
        if len(given) > 1000 or len(re.findall(r"[*+{]", given)) > 3 or re.search(r"\)\s*[*+{?]", given):
            if unknown is None:
                raise self.error(
                    field, "only patterns with at most 3 repetitions, and none of a group, are read as keys"
                )
            return unknown
        try:
            return re.match(pattern, name) is not None
        except re.error as error:
            raise self.error(field, f"this is no regular expression ({error})") from None

    @property
    def saved(self) -> list[str]:
        """Ends of names of the modules that were trained whole."""
        listed = self.config.get("modules_to_save") or []
        if not isinstance(listed, list) or not all(isinstance(end, str) and end for end in listed):
            raise self.error("modules_to_save", "expected a list of names")
        return listed

    def whole(self, module: str) -> set[str]:
        """Those of `saved` that mean a module, or one that holds it."""
        around = [module[: end.start()] for end in re.finditer(r"\.|$", module)]
        return {end for end in self.saved if any(name.endswith(end) for name in around)}

    def ids(self, module: str) -> tuple[int, ...]:
        """The tokens whose rows of a module were trained."""
        found = self.config.get("trainable_token_indices")
        if isinstance(found, dict):
            found = next((ids for end, ids in found.items() if f".{module}".endswith(f".{end}")), None)
        if not isinstance(found, list) or not all(type(id) is int and id >= 0 for id in found) or not found:
            raise self.error("trainable_token_indices", f"expected a list of ids for {shown(module)}")
        if len(set(found)) < len(found):
            raise self.error("trainable_token_indices", "an id is listed twice")
        return tuple(found)

    def layer(self, name: str) -> bool:
        """Whether a module is of the layers that `layers_to_transform` means."""
        layers = self.config.get("layers_to_transform")
        found = re.search(r"\.(\d+)\.", name)
        own = layers if isinstance(layers, list) else [layers]
        return layers is None or (found is not None and int(found[1]) in own)

    @property
    def base(self) -> str:
        """What the files say of the model they belong to, for messages."""
        named = self.config.get("base_model_name_or_path")
        return f"; the adapter belongs to {shown(named)}" if isinstance(named, str) and named else ""


def family_of(model: Any) -> str | None:
    """The family that a model was read from, else the first that can hold it; None for no family."""
    if not isinstance(model, TrainedModel):
        return None
    if model.family is not None:
        return model.family
    for name in FAMILIES:
        try:
            family(name).to_config(model.spec, model.vocab_size)
            return name
        except Misfit:
            continue
    return None


def places(model: Any, kind: str | None) -> dict[str, WeightSource]:
    """Where each parameter is in the files of family `kind`; under its own name for None."""
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters() if ".lora_" not in name}
    spec = model.spec if isinstance(model, TrainedModel) else None
    if spec is not None and spec.tied:
        shapes["lm_head.weight"] = tuple(model.embedding.weight.shape)
    names = Names() if kind is None else family(kind).names[0]
    return names.place(shapes, spec)


def together(model: nn.Module, layers: Iterable[str]) -> dict[str, str]:
    """The name of each layer's matrix in the family's files: layers of one name are one matrix there."""
    found = places(model, family_of(model))
    return {name: found[f"{name}.weight"].name for name in layers if found[f"{name}.weight"].expert is None}
