"""PEFT's files of low-rank adapters: its modules' names and fused matrices as our products, and the way back.

A product that the family stores fused with others (GPT-2's q, k and v) has one A for all of them and its own rows of B.
Products that were trained with an A each are written as one adapter of their ranks' sum, which computes the same.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from llmanac.adapters._config import AdapterFiles, family_of, places
from llmanac.adapters._linear import EMBEDDING, TokenTerm
from llmanac.adapters._transform import PREFIX
from llmanac.adapters.lora import LoRA, LowRank, Spec
from llmanac.core.errors import CheckpointError, SpecError, shown
from llmanac.models.families import FAMILIES, WeightSource
from llmanac.models.layers import Embedding, LinearMap, upcast
from llmanac.models.quantized import dense
from llmanac.models.targets import ALL_LINEAR
from llmanac.models.weights import Weights, some

LORA_FIELDS = {
    "r", "lora_alpha", "lora_dropout", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "bias",
    "init_lora_weights", "modules_to_save", "trainable_token_indices",
}  # fmt: skip
STARTS = ("gaussian", "eva", "orthogonal", "false", "true")  # initial values that leave the model's weights alone
A, B, LENGTHS = "lora_A.weight", "lora_B.weight", "lora_magnitude_vector"
TOKENS = "token_adapter.trainable_tokens_delta"
OF_EMBEDDINGS = {A: "lora_embedding_A", B: "lora_embedding_B"}
ENDINGS = {ending: ending for ending in (A, B, LENGTHS, TOKENS)} | {
    theirs: own for own, theirs in OF_EMBEDDINGS.items()
}
ENDING = re.compile(rf"(.+)\.({'|'.join(map(re.escape, ENDINGS))})(?:\.weight)?")
BIASES = {"none": "none", "lora_only": "targets", "all": "all"}


def write_lora(transform: LoRA, model: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """adapter_config.json and the tensors of a low-rank adapter."""
    spec, found = transform.spec, places(model, family_of(model))
    groups: dict[str, list[str]] = {}
    low_rank = {name: part for name, part in transform.parts.items() if isinstance(part, LowRank)}
    for name in low_rank:
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
        parts: dict[str, Any] = {name: low_rank[name] for name in names}
        embedding = isinstance(model.get_submodule(names[0]), Embedding)
        a, b, scale = _joined(parts, found, embedding)
        own_a, own_b = OF_EMBEDDINGS.values() if embedding else (A, B)
        tensors[f"{PREFIX}{theirs}.{own_a}"], tensors[f"{PREFIX}{theirs}.{own_b}"] = a, b
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
            rows = next(iter(lengths.values())) if embedding else _rows(lengths, found)
            tensors[f"{PREFIX}{theirs}.{LENGTHS}"] = rows[:, 0]
    tokens = {}
    for name, part in transform.parts.items():
        if isinstance(part, TokenTerm) and not part.follows:
            theirs = found[f"{name}.weight"].name.removesuffix(".weight")
            tokens[theirs] = part.rows.ids.tolist()
            tensors[f"{PREFIX}{theirs}.{TOKENS}"] = part.rows.weight
    copied = _write_copies(transform, model, found)
    modules = {name.rpartition(".")[0] for name in copied}
    whole = {name for name in modules if f"{name}.weight" in copied}
    bias = "none"
    if modules - whole:
        bias = "lora_only" if modules - whole <= groups.keys() else "all"
    for theirs, value in copied.items():
        path, _, own = theirs.rpartition(".")
        tensors[f"{PREFIX}{path}.base_layer.{own}" if path in groups else PREFIX + theirs] = value
    sources = [found[f"{name}.weight"] for name in low_rank]
    config = {
        "peft_type": "LORA", "r": spec.rank, "lora_alpha": spec.alpha, "lora_dropout": spec.dropout, "bias": bias,
        "target_modules": _short(list(groups), found), "use_rslora": spec.scaling == "rank-stabilized",
        "use_dora": spec.form == "weight-decomposed", "rank_pattern": ranks, "alpha_pattern": alphas,
        "fan_in_fan_out": all(source.transposed for source in sources), "modules_to_save": sorted(whole) or None,
        "init_lora_weights": True, "trainable_token_indices": tokens or None,
    }  # fmt: skip
    return config, tensors


def _write_copies(transform: LoRA, model: Any, found: Mapping[str, WeightSource]) -> dict[str, Tensor]:
    """Parameters that were trained whole, by their names; what is stored in one tensor with them comes along."""
    values = {} if transform.copies is None else transform.copies.values
    theirs: dict[str, Tensor] = {}
    for name in values:
        whole = found[name]
        if whole.name not in theirs:
            theirs[whole.name] = upcast(values[name].detach()).new_empty(whole.shape)
            for other, source in found.items():
                if source.name == whole.name:
                    source.put(theirs[whole.name], values.get(other, dense(model.get_parameter(other))).detach())
    return theirs


def _joined(
    parts: Mapping[str, LowRank], found: Mapping[str, WeightSource], embedding: bool
) -> tuple[Tensor, Tensor, float]:
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
    return a, next(iter(rows.values())) if embedding else _rows(rows, found), first.scale


def _rows(ours: Mapping[str, Tensor], found: Mapping[str, WeightSource]) -> Tensor:
    """Rows (outputs, n) of our products as those of their matrix; zero where a product is not among them."""
    first = next(iter(ours))
    whole = found[f"{first}.weight"]
    outputs = whole.shape[1] if whole.transposed else whole.shape[0]
    theirs = ours[first].new_zeros(outputs, ours[first].shape[1])
    for name, rows in ours.items():
        replace(found[f"{name}.weight"], transposed=False).put(theirs, rows.detach())
    return theirs


def _short(names: Sequence[str], found: Mapping[str, WeightSource]) -> list[str]:
    """Their modules by their last names where these mean no others, else by their full names."""
    every = {source.name.removesuffix(".weight") for source in found.values() if source.name.endswith(".weight")}
    last = {name.rpartition(".")[2] for name in names}
    meant = {name for name in every if name.rpartition(".")[2] in last}
    return sorted(last if meant == set(names) else names)


def read_lora(model: Any, adapter: AdapterFiles) -> LoRA:
    """The low-rank adapter of a folder, applied to the model. Raises CheckpointError, SpecError."""
    adapter.check_fields(LORA_FIELDS)
    config, weights = adapter.config, adapter.weights
    rank, alpha = adapter.number("r"), adapter.real("lora_alpha", 1e-30, 1e30, 8.0)
    if str(config.get("bias", "none")) not in BIASES:
        raise adapter.error("bias", f"expected one of {', '.join(BIASES)}")
    start = config.get("init_lora_weights", True)
    if str(start).lower() not in STARTS:
        raise adapter.error(
            "init_lora_weights", "such a start changes the model's weights; convert the adapter in PEFT"
        )
    tensors, copies = _sorted(weights)
    chosen, products = _family(model, tensors, adapter)
    tokens = {theirs: endings.pop(TOKENS) for theirs, endings in tensors.items() if TOKENS in endings}
    tensors = {theirs: endings for theirs, endings in tensors.items() if endings}
    wanted = {n for n in products if adapter.means("target_modules", n) and adapter.layer(n)}
    if config.get("target_modules") == ALL_LINEAR:
        wanted -= {n for n in wanted - tensors.keys() if any(own.endswith(EMBEDDING) for own in products[n])}
    rest = (n for n in wanted - tensors.keys() if not adapter.whole(n))  # which wins over target_modules
    missing = sorted(n for n in rest if not adapter.means("exclude_modules", n, unknown=True))
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
        turned = whole.transposed or isinstance(model.get_submodule(next(iter(sources))), Embedding)
        outputs, inputs = whole.shape[::-1] if turned else whole.shape
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
    values = _values(tensors, products, weights)
    copied = _copies(model, copies, chosen, adapter, tensors)
    rows = {}
    for theirs, name in tokens.items():
        ids, (own, whole) = adapter.ids(theirs), next(iter(products[theirs].items()))
        if weights.entry(name).shape != (len(ids), whole.shape[1]) or max(ids) >= whole.shape[0]:
            raise adapter.error(
                "trainable_token_indices", f"{shown(name)} is {weights.entry(name).shape}{adapter.base}"
            )
        rows[own], values[f"{own}.lora_tokens.weight"] = ids, _finite(weights, name)
    fields: dict[str, Any] = {
        "rank": rank, "alpha": alpha, "dropout": adapter.real("lora_dropout", 0.0, 1.0, 0.0), "scaling": scaling,
        "form": form, "targets": tuple(sizes), "sharing": "files" if len(tensors) < len(sizes) else "none",
    }  # fmt: skip
    transform = LoRA(Spec(**fields), sizes=sizes, shared=shared, rows=rows, names=list(copied)).apply(model)
    with torch.no_grad():
        for name, value in (values | copied).items():
            model.get_parameter(name).copy_(value)
    return transform


def _sorted(weights: Weights) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Names of tensors by module and ending, and those of other weights."""
    tensors: dict[str, dict[str, str]] = {}
    copies = []
    for name in weights.entries:
        match = ENDING.fullmatch(name)
        if match and name.startswith(PREFIX):
            tensors.setdefault(match[1].removeprefix(PREFIX), {})[ENDINGS[match[2]]] = name
        elif ".original_module." in name:  # the model's own, of a module that was trained whole
            continue
        elif ".lora_" in name or not name.startswith(PREFIX):
            raise CheckpointError(f"{weights.folder}: {shown(name)} is no tensor of an adapter of linear maps")
        else:
            copies.append(name)
    if not any(endings.keys() - {TOKENS} for endings in tensors.values()):
        raise CheckpointError(f"{weights.folder}: holds no lora_A and lora_B; the adapter is empty")
    return tensors, copies


def _family(
    model: Any, tensors: Mapping[str, Any], adapter: AdapterFiles
) -> tuple[dict[str, WeightSource], dict[str, dict[str, WeightSource]]]:
    """All places of the family whose names the file has, and the sources of our products by their module."""
    linear = {
        name
        for name, module in model.named_modules()
        if isinstance(module, LinearMap) or (isinstance(module, Embedding) and name.endswith(EMBEDDING))
    }
    lost: list[str] = []
    for kind in dict.fromkeys([family_of(model), None, *FAMILIES]):
        try:
            found = places(model, kind)
        except (AttributeError, KeyError, IndexError, ValueError):  # a family whose parts this model has not
            continue
        products: dict[str, dict[str, WeightSource]] = {}
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


def _finite(weights: Weights, name: str) -> Tensor:
    tensor = weights.take(name)
    if not bool(tensor.isfinite().all()):
        raise CheckpointError(f"{weights.entry(name).path}: {shown(name)} holds a value that is not finite")
    return tensor


def _values(
    tensors: Mapping[str, Mapping[str, str]], products: Mapping[str, Any], weights: Weights
) -> dict[str, Tensor]:
    """Our parameters' values by name."""
    values: dict[str, Tensor] = {}
    for theirs, names in tensors.items():
        for ending, name in names.items():
            tensor = _finite(weights, name)
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


def _copies(
    model: Any,
    names: Sequence[str],
    found: Mapping[str, WeightSource],
    adapter: AdapterFiles,
    targets: Mapping[str, Any],
) -> dict[str, Tensor]:
    """Our parameters that were trained whole, by name: `modules_to_save` and `bias`.

    PEFT also writes the embedding where that or the head has an adapter; this must be the model's own.
    """
    weights, saved, bias = adapter.weights, adapter.saved, BIASES[adapter.config.get("bias", "none")]
    places: dict[str, dict[str, WeightSource]] = {}
    for own, source in found.items():
        places.setdefault(source.name, {})[own] = source
    copied: dict[str, Tensor] = {}
    used: set[str] = set()
    for name in names:
        theirs = name.removeprefix(PREFIX).replace(".base_layer.", ".").replace(".modules_to_save.", ".")
        module, _, own = theirs.rpartition(".")
        meant = adapter.whole(module)
        parts = places.get(theirs, {})
        shape = next((source.shape for source in parts.values()), None)
        if weights.entry(name).shape == shape and (meant or (own == "bias" and bias != "none")):
            used |= meant | {theirs}
            tensor = _finite(weights, name)
            copied |= {own: source.take(tensor) for own, source in parts.items()}
        elif weights.entry(name).shape != shape or not _equal(model, parts, weights.take(name)):
            raise CheckpointError(
                f"{weights.folder}: holds {shown(name)}, trained or of another model, which in {adapter.path.name} "
                f"neither modules_to_save nor bias means{adapter.base}"
            )
    missing = [end for end in saved if end not in used]
    if bias != "none":
        biases = {theirs for theirs in places if theirs.endswith(".bias")}
        missing += sorted(b for b in biases - used if bias == "all" or b.removesuffix(".bias") in targets)
    if missing:
        raise CheckpointError(
            f"{weights.folder}: {adapter.path.name} says that {some(missing)} is trained, which the file lacks; it is "
            "not complete"
        )
    return copied


def _equal(model: Any, parts: Mapping[str, WeightSource], tensor: Tensor) -> bool:
    """Whether a tensor of theirs is what the model has."""
    for name, source in parts.items():
        held = dense(model.get_parameter(name))
        if not torch.equal(source.take(tensor).to(held), held):
            return False
    return True
