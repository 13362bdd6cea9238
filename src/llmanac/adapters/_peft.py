"""PEFT's files of low-rank adapters: its modules' names and fused matrices as our products, and the way back.

A product that the family stores fused with others (GPT-2's q, k and v) has one A for all of them and its own rows of B.
Products that were trained with an A each are written as one adapter of their ranks' sum, which computes the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llmanac.adapters import PREFIX
from llmanac.adapters._names import family_of, places
from llmanac.adapters._targets import ALL_LINEAR
from llmanac.adapters.lora import LoRA, LowRank, Spec
from llmanac.core.errors import CheckpointError, SpecError, shown
from llmanac.models._layers import Product, upcast
from llmanac.models._quantized import dense
from llmanac.models._weights import Weights, some
from llmanac.models.families import FAMILIES, Source

# fields that say nothing of what is computed, or that the tensors say
IGNORED = {
    "auto_mapping", "base_model_name_or_path", "inference_mode", "peft_type", "peft_version", "revision", "task_type",
    "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "megatron_config", "megatron_core",
    "loftq_config", "qalora_group_size", "fan_in_fan_out", "eva_config", "ensure_weight_tying", "runtime_config",
}  # fmt: skip
LORA_FIELDS = {
    "r", "lora_alpha", "lora_dropout", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "bias",
    "init_lora_weights",
}  # fmt: skip
STARTS = ("gaussian", "eva", "orthogonal", "false", "true")  # initial values that leave the model's weights alone
A, B, LENGTHS = "lora_A.weight", "lora_B.weight", "lora_magnitude_vector"
ENDING = re.compile(r"(.+)\.(lora_A\.weight|lora_B\.weight|lora_magnitude_vector)(?:\.weight)?")
MOST_RANK = 1 << 16


@dataclass(frozen=True)
class Adapter:
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
            plain = key.removeprefix("^").removesuffix("$").replace("\\.", ".")
            if not re.fullmatch(r"[\w.]+", plain):
                raise self.error(field, "only names, or ends of names, are read as its keys")
            if name == plain or (not key.startswith("^") and name.endswith(f".{plain}")):
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
            if len(wanted) > 1000 or len(re.findall(r"[*+{]", wanted)) > 3 or re.search(r"\)\s*[*+{?]", wanted):
                return unknown
            try:
                return re.fullmatch(wanted, name) is not None
            except re.error as error:
                raise self.error(field, f"this is no regular expression ({error})") from None
        if wanted is not None and not (isinstance(wanted, list) and all(isinstance(end, str) for end in wanted)):
            raise self.error(field, "expected names or a regular expression")
        return any(name == end or name.endswith(f".{end}") for end in wanted or ())

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


def write_lora(transform: LoRA, model: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """adapter_config.json and the tensors of a low-rank adapter."""
    spec, found = transform.spec, places(model, family_of(model))
    groups: dict[str, list[str]] = {}
    for name in transform.parts:
        source = found[f"{name}.weight"]
        if source.expert is not None:
            raise SpecError(
                f"adapter: {name} is stored in one tensor with other experts, which PEFT's files cannot name"
            )
        groups.setdefault(source.name.removesuffix(".weight"), []).append(name)
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    for theirs, names in groups.items():
        parts: dict[str, Any] = {name: transform.parts[name] for name in names}
        a, b, scale = _joined(parts, found)
        tensors[f"{PREFIX}{theirs}.{A}"], tensors[f"{PREFIX}{theirs}.{B}"] = a, b
        alpha = scale * (len(a) if spec.scaling == "standard" else len(a) ** 0.5)
        if len(a) != spec.rank:
            ranks[theirs] = len(a)
        if not abs(alpha - spec.alpha) < 1e-9 * alpha:
            alphas[theirs] = alpha
        if spec.form == "weight-decomposed":
            lengths = {n: p.lengths.weight[:, None] for n, p in parts.items()}
            for name, source in found.items():  # of the rows that were not trained
                own = name.removesuffix(".weight")
                if source.name == f"{theirs}.weight" and own not in lengths:
                    lengths[own] = upcast(dense(model.get_submodule(own).weight)).norm(dim=1, keepdim=True)
            tensors[f"{PREFIX}{theirs}.{LENGTHS}"] = _rows(lengths, found)[:, 0]
    sources = [found[f"{name}.weight"] for name in transform.parts]
    config = {
        "peft_type": "LORA", "r": spec.rank, "lora_alpha": spec.alpha, "lora_dropout": spec.dropout, "bias": "none",
        "target_modules": _short(list(groups), found), "use_rslora": spec.scaling == "rank-stabilized",
        "use_dora": spec.form == "weight-decomposed", "rank_pattern": ranks, "alpha_pattern": alphas,
        "fan_in_fan_out": all(source.transposed for source in sources), "modules_to_save": None,
        "init_lora_weights": True,
    }  # fmt: skip
    return config, tensors


def _joined(parts: Mapping[str, LowRank], found: Mapping[str, Source]) -> tuple[Tensor, Tensor, float]:
    """A, B and s of the parts of one matrix of theirs."""
    distinct = {id(part.a): part for part in parts.values()}
    first = next(iter(parts.values()))
    starts, at = {}, 0
    for key, part in distinct.items():
        starts[key], at = at, at + len(part.a.weight)
    a = torch.cat([part.a.weight.detach() for part in distinct.values()])
    rows = {}
    for name, part in parts.items():
        own = part.b.weight.detach() * (part.scale / first.scale)
        rows[name] = own.new_zeros(len(own), at)
        rows[name][:, starts[id(part.a)] : starts[id(part.a)] + own.shape[1]] = own
    return a, _rows(rows, found), first.scale


def _rows(ours: Mapping[str, Tensor], found: Mapping[str, Source]) -> Tensor:
    """Rows (outputs, n) of our products as those of their matrix; zero where a product is not among them."""
    first = next(iter(ours))
    whole = found[f"{first}.weight"]
    outputs = whole.shape[1] if whole.transposed else whole.shape[0]
    theirs = ours[first].new_zeros(outputs, ours[first].shape[1])
    for name, rows in ours.items():
        replace(found[f"{name}.weight"], transposed=False).put(theirs, rows.detach())
    return theirs


def _short(names: Sequence[str], found: Mapping[str, Source]) -> list[str]:
    """Their modules by their last names where these mean no others, else by their full names."""
    every = {source.name.removesuffix(".weight") for source in found.values() if source.name.endswith(".weight")}
    last = {name.rpartition(".")[2] for name in names}
    meant = {name for name in every if name.rpartition(".")[2] in last}
    return sorted(last if meant == set(names) else names)


def read_lora(model: Any, adapter: Adapter) -> LoRA:
    """The low-rank adapter of a folder, applied to the model. Raises CheckpointError, SpecError."""
    adapter.check_fields(LORA_FIELDS)
    config, weights = adapter.config, adapter.weights
    rank, alpha = adapter.number("r"), adapter.real("lora_alpha", 1e-30, 1e30, 8.0)
    if config.get("bias", "none") != "none":
        raise adapter.error("bias", "trained biases are not built; expected none")
    start = config.get("init_lora_weights", True)
    if str(start).lower() not in STARTS:
        raise adapter.error(
            "init_lora_weights", "such a start changes the model's weights; convert the adapter in PEFT"
        )
    tensors, copies = _sorted(weights)
    chosen, products = _family(model, tensors, adapter)
    wanted = {n for n in products if adapter.means("target_modules", n) and adapter.layer(n)}
    missing = sorted(n for n in wanted - tensors.keys() if not adapter.means("exclude_modules", n, unknown=True))
    if missing:
        raise CheckpointError(
            f"{weights.folder}: target_modules of {adapter.path.name} means {len(missing)} modules of which the file "
            f"has no tensors: {some(missing)}; it is not complete"
        )
    form = "weight-decomposed" if adapter.flag("use_dora") else "sum"
    scaling = "rank-stabilized" if adapter.flag("use_rslora") else "standard"
    sizes: dict[str, tuple[int, float]] = {}
    shared: dict[str, str] = {}
    for theirs, found in tensors.items():
        own = adapter.pattern("rank_pattern", theirs) or rank
        sources = products[theirs]
        whole = next(iter(sources.values()))
        outputs, inputs = whole.shape[::-1] if whole.transposed else whole.shape
        needed = {A: (own, inputs), B: (outputs, own), **({LENGTHS: (outputs,)} if form != "sum" else {})}
        if found.keys() != needed.keys():
            missing, unused = sorted(needed.keys() - found.keys()), sorted(found.keys() - needed.keys())
            what = f"{missing[0]} is missing" if missing else f"{unused[0]} has no use (use_dora is false)"
            raise CheckpointError(f"{weights.folder}: {theirs}: {what}")
        for ending, shape in needed.items():
            entry = weights.entry(found[ending])
            if entry.shape != shape:
                raise CheckpointError(
                    f"{entry.path}: {shown(found[ending])} is {entry.shape}, the model and {adapter.path.name} ask for "
                    f"{shape}{adapter.base}"
                )
        for name in sources:
            sizes[name] = int(own), float(adapter.pattern("alpha_pattern", theirs) or alpha)
            shared[name] = theirs
    values = _values(model, tensors, products, weights)
    _check_copies(model, copies, chosen, weights)
    fields: dict[str, Any] = {
        "rank": rank, "alpha": alpha, "dropout": adapter.real("lora_dropout", 0.0, 1.0, 0.0), "scaling": scaling,
        "form": form, "targets": tuple(sizes), "sharing": "files" if len(tensors) < len(sizes) else "none",
    }  # fmt: skip
    transform = LoRA(Spec(**fields), sizes=sizes, shared=shared).apply(model)
    with torch.no_grad():
        for name, value in values.items():
            model.get_parameter(name).copy_(value)
    return transform


def _sorted(weights: Weights) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Names of tensors by module and ending, and those of other weights."""
    tensors: dict[str, dict[str, str]] = {}
    copies = []
    for name in weights.entries:
        match = ENDING.fullmatch(name)
        if match and name.startswith(PREFIX):
            tensors.setdefault(match[1].removeprefix(PREFIX), {})[match[2]] = name
        elif ".lora_" in name or not name.startswith(PREFIX):
            raise CheckpointError(f"{weights.folder}: {shown(name)} is no tensor of an adapter of linear maps")
        else:
            copies.append(name)
    if not tensors:
        raise CheckpointError(f"{weights.folder}: holds no lora_A and lora_B; the adapter is empty")
    return tensors, copies


def _family(
    model: Any, tensors: Mapping[str, Any], adapter: Adapter
) -> tuple[dict[str, Source], dict[str, dict[str, Source]]]:
    """All places of the family whose names the file has, and the sources of our products by their module."""
    linear = {name for name, module in model.named_modules() if isinstance(module, Product)}
    lost: list[str] = []
    for kind in dict.fromkeys([family_of(model), None, *FAMILIES]):
        try:
            found = places(model, kind)
        except (AttributeError, KeyError, IndexError, ValueError):  # a family whose parts this model has not
            continue
        products: dict[str, dict[str, Source]] = {}
        for name, source in found.items():
            own = name.removesuffix(".weight")
            if name.endswith(".weight") and own in linear and source.expert is None:
                products.setdefault(source.name.removesuffix(".weight"), {})[own] = source
        missing = sorted(tensors.keys() - products.keys())
        if not missing:
            return found, products
        lost = missing if not lost or len(missing) < len(lost) else lost
    raise CheckpointError(
        f"{adapter.weights.folder}: {len(lost)} of its {len(tensors)} modules are no linear maps of this model: "
        f"{some(lost)}{adapter.base}"
    )


def _values(
    model: Any, tensors: Mapping[str, Mapping[str, str]], products: Mapping[str, Any], weights: Weights
) -> dict[str, Tensor]:
    """Our parameters' values by name."""
    values: dict[str, Tensor] = {}
    for theirs, names in tensors.items():
        for ending, name in names.items():
            tensor = weights.take(name)
            if not bool(tensor.isfinite().all()):
                raise CheckpointError(f"{weights.entry(name).path}: {shown(name)} holds a value that is not finite")
            for own, source in products[theirs].items():
                if ending == A:
                    values[f"{own}.{A}"] = tensor
                    continue
                rows = tensor[:, None] if tensor.ndim == 1 else tensor
                part = replace(source, transposed=False).take(rows)
                values[f"{own}.{ending}" if ending == B else f"{own}.{LENGTHS}.weight"] = (
                    part[:, 0] if tensor.ndim == 1 else part
                )
    return values


def _check_copies(model: Any, copies: Sequence[str], found: Mapping[str, Source], weights: Weights) -> None:
    """PEFT adds the embedding where the head has an adapter; read only where it is the model's own."""
    ours = {source.name: name for name, source in found.items() if source.alone}
    for name in copies:
        own = ours.get(name.removeprefix(PREFIX).replace(".base_layer.", "."))
        if own == "lm_head.weight" and getattr(model.spec, "tied", False):
            own = "model.embed_tokens.weight"
        held = None if own is None else dense(model.get_parameter(own))
        if held is None or weights.entry(name).shape != tuple(held.shape) or not torch.equal(
            weights.take(name).to(held), held
        ):  # fmt: skip
            raise CheckpointError(
                f"{weights.folder}: holds {shown(name)}, trained or of another model; only adapters of linear maps are "
                "read"
            )
