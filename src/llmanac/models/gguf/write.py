"""A model and its tokenizer as a GGUF file that llama.cpp loads, in F32, F16, Q8_0, Q4_0 or Q4_1.

Norms and biases stay in F32. With 4 bits the embedding and the head have 8; a matrix whose rows are no multiple of 32
has 16. The file is read again before it gets its name, so what it cannot say of a model is refused.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from llmanac.core import files
from llmanac.core.errors import CheckpointError, TokenizerError
from llmanac.core.spec import diff
from llmanac.kernels.gguf.blocks import KINDS, Array
from llmanac.kernels.gguf.file import Packable, write
from llmanac.models.families import FAMILIES, Family, Misfit, arrange, family
from llmanac.models.families._rope import LISTS
from llmanac.models.families._table import canonical
from llmanac.models.gguf.architectures import (
    ARCHITECTURES,
    FACTORS,
    FREQUENCIES,
    REAL,
    WHOLE,
    Architecture,
    Config,
    interleaved,
)  # fmt: skip
from llmanac.models.gguf.read import PackedWeights, divisors
from llmanac.models.positions._scaling import Scaling
from llmanac.models.save import canonical_state
from llmanac.tokenizers import _gguf
from llmanac.tokenizers._base import Tokenizer

TYPES = {"F32": 0, "F16": 1, "Q8_0": 7, "Q4_0": 2, "Q4_1": 3}  # general.file_type
LARGEST_HALF = 65504.0


def export_gguf(model: Any, tokenizer: Tokenizer, path: Path, kind: str = "F16") -> Path:
    """Write the file; returns its path.

    Raises:
        CheckpointError: a kind that is not written, or a model that no architecture holds; the message says why.
        TokenizerError: a tokenizer for which the format has no form.
    """
    kind = kind.upper()
    if kind not in TYPES:
        raise CheckpointError(f"type: {kind!r} is not written (known: {', '.join(TYPES).lower()})")
    name, table, chosen, config = fitting(model)
    scaling = _scaling(model.spec)
    state = canonical_state(model)
    sources = chosen.names[0].place({key: tuple(tensor.shape) for key, tensor in state.items()})
    metadata = {
        "general.architecture": name,
        "general.name": path.stem,
        "general.file_type": np.uint32(TYPES[kind]),
        "general.quantization_version": np.uint32(2),
        **{f"{name}.{key}": value for key, value in _keys(table, config, scaling, model).items()},
    }
    try:
        metadata |= _gguf.keys(tokenizer, model.vocab_size)
    except TokenizerError as error:
        raise TokenizerError(f"{path}: {error}") from None
    lost = [token for token in table.tokens if token not in metadata["tokenizer.ggml.tokens"]]
    if lost:
        raise TokenizerError(f"{path}: llama.cpp reads no {name} model whose tokenizer lacks {' and '.join(lost)}")
    tensors = {}
    for own, numbers in _lists(scaling, config).items():
        tensors[own] = Packable("F32", numbers.shape, partial(np.asarray, numbers))
    for theirs, tensor in arrange(state, sources).items():
        own = table.ours(theirs)
        chosen_kind = _kind(own, tensor, kind)
        tensors[own] = Packable(chosen_kind, tuple(tensor.shape), _packing(table, config, theirs, tensor, chosen_kind))
    with files.atomic_file(path) as handle:
        write(handle, metadata, tensors)
        handle.flush()
        _check(model, chosen, Path(handle.name), name)
    return path


def fitting(model: Any) -> tuple[str, Architecture, Family, Config]:
    """The first architecture whose family holds the model. Raises Misfit (a CheckpointError) where there is none."""
    problems = []
    for name, table in ARCHITECTURES.items():
        if table.family in FAMILIES:
            chosen = family(table.family)
            try:
                config = chosen.to_config(model.spec, model.vocab_size)
                scaling = _scaling(model.spec)
                if scaling is not None and scaling.type not in table.scalings:
                    raise Misfit(f"the scaling of rotary positions is {scaling.type}, which its files cannot have")
                heads = config["num_attention_heads"]
                config["num_key_value_heads"] = config.get("num_key_value_heads") or heads
                config["head_dim"] = config.get("head_dim") or config["hidden_size"] // heads
                return name, table, chosen, config
            except Misfit as error:
                problems.append(f"{name}: {error}")
    raise Misfit(f"no architecture of GGUF files that is written holds this model ({'; '.join(problems)})")


def _turned(config: Config) -> int:
    return int(config["head_dim"] * config.get("partial_rotary_factor", 1.0))


def _keys(table: Architecture, config: Config, scaling: Scaling | None, model: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, theirs in {**WHOLE, **REAL, **table.keys}.items():
        value = config.get(theirs)
        if value is not None:
            found[key] = (np.uint32 if isinstance(value, int) else np.float32)(value)
    found["attention.value_length"] = found["attention.key_length"]
    found["rope.dimension_count"] = np.uint32(_turned(config))
    found["vocab_size"] = np.uint32(model.vocab_size)
    if scaling is not None and scaling.type != "llama3":
        found["rope.scaling.type"] = scaling.type
    if scaling is not None and scaling.type in ("linear", "yarn"):
        found["rope.scaling.factor"] = np.float32(scaling.factor)
    if scaling is not None and scaling.type in ("yarn", "longrope"):
        found["rope.scaling.original_context_length"] = np.uint32(scaling.original_length)
        own = replace(scaling, attention_factor=None).amplitude if scaling.type == "yarn" else 1.0  # llama.cpp's own
        found["rope.scaling.attn_factor"] = np.float32(scaling.amplitude / own)
    return found


def _scaling(spec: Any) -> Scaling | None:
    """That of the model's rotation, or of its layers without a window where these have one of their own."""
    positions = [getattr(part, "position", None) for part in (*spec.blocks, spec)]
    return next((found for p in positions if (found := getattr(p, "scaling", None)) is not None), None)


def _lists(scaling: Scaling | None, config: Config) -> dict[str, Array]:
    """The tensors that hold what a scaling divides frequencies by."""
    if scaling is None or scaling.type not in ("llama3", "longrope"):
        return {}
    if scaling.type == "llama3":
        return {FREQUENCIES: divisors(scaling, _turned(config), config["rope_theta"]).astype(np.float32)}
    return {own: np.array(getattr(scaling, LISTS[theirs]), np.float32) for theirs, own in FACTORS.items()}


def _kind(name: str, tensor: Tensor, kind: str) -> str:
    if tensor.ndim < 2:
        return "F32"
    if KINDS[kind].size > 1 and tensor.shape[-1] % KINDS[kind].size:
        return "F16"
    return "Q8_0" if kind in ("Q4_0", "Q4_1") and name in ("token_embd.weight", "output.weight") else kind


def _packing(table: Architecture, config: Config, theirs: str, tensor: Tensor, kind: str) -> Any:
    def packed() -> Array:
        numbers: Array = tensor.detach().cpu().float().numpy()
        if theirs.endswith("norm.weight"):
            numbers = numbers + np.float32(table.shift)
        if (heads := table.heads(theirs, config)) is not None:
            numbers = interleaved(numbers, heads)
        largest = float(np.abs(numbers).max(initial=0.0))
        if not largest <= (math.inf if kind == "F32" else LARGEST_HALF):
            raise CheckpointError(f"{theirs}: holds {largest:g}, which {kind} cannot; use --type f32")
        return KINDS[kind].packed(numbers)

    return packed


def _explicit(spec: Any) -> Any:
    """The same model with the factor of its rotation said, whether it is the formula's or not."""
    scaling = getattr(spec.position, "scaling", None)
    if scaling is not None and scaling.type in ("yarn", "longrope"):
        scaling = replace(scaling, attention_factor=scaling.amplitude)
        spec = replace(spec, position=replace(spec.position, scaling=scaling))
    return canonical(spec)


def _check(model: Any, chosen: Family, path: Path, name: str) -> None:
    """Raises Misfit where the file's keys do not give the model's own Spec."""
    read = PackedWeights(path)
    again = chosen.to_spec(chosen.config(read.config, path))[0]
    for field, (ours, theirs) in diff(_explicit(model.spec), _explicit(again)).items():
        if isinstance(ours, float) and isinstance(theirs, float) and math.isclose(ours, theirs, rel_tol=1e-6):
            continue  # the file has 32 bits
        raise Misfit(f"{field} is {ours!r}, which a GGUF file of the architecture {name} cannot say ({theirs!r})")
