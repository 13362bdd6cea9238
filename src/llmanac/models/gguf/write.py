"""A model and its tokenizer as a GGUF file that llama.cpp loads, of one of `TYPES`.

Norms and biases stay in F32. `mixture` says which kind each matrix has, by llama.cpp's rules (`llama-quant.cpp`). The
file is read again before it gets its name, so what it cannot say of a model is refused.
"""

import math
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from llmanac.core import files
from llmanac.core.errors import CheckpointError, TokenizerError, nearest
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
    Architecture,
    Config,
    interleaved,
)  # fmt: skip
from llmanac.models.gguf.file import divisors
from llmanac.models.gguf.read import PackedWeights
from llmanac.models.save import canonical_state
from llmanac.models.scaling import Scaling
from llmanac.tokenizers import Tokenizer, gguf

TYPES = {  # of a file -> general.file_type, and the kind of most matrices
    "f32": (0, "F32"), "f16": (1, "F16"), "bf16": (32, "BF16"), "q8_0": (7, "Q8_0"), "q6_k": (18, "Q6_K"),
    "q5_k_m": (17, "Q5_K"), "q4_k_m": (15, "Q4_K"), "q4_1": (3, "Q4_1"), "q4_0": (2, "Q4_0"),
}  # fmt: skip
NARROW = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}  # where blocks of 256 do not divide a row
HEAD, LARGEST_HALF = "lm_head.weight", 65504.0


def export_gguf(
    model: Any, tokenizer: Tokenizer, path: Path, kind: str = "f16", importance: Mapping[str, Array] | None = None,
    *, ready: Callable[[], object] = lambda: None,
) -> Path:  # fmt: skip
    """Write the file; returns its path.

    Args:
        kind: one of `TYPES`.
        importance: of the columns of a matrix, by the parameter's name; errors in a column weigh as much.
        ready: called before the written file gets its name; what it raises keeps that back.

    Raises:
        CheckpointError: a kind that is not written, or a model that no architecture holds; the message says why.
        TokenizerError: a tokenizer for which the format has no form.
    """
    kind = kind.lower()
    if kind not in TYPES:
        raise CheckpointError(f"type: {kind!r} is not written{nearest(kind, TYPES)} (known: {', '.join(TYPES)})")
    name, table, chosen, config = fitting(model)
    scaling = _scaling(model.spec)
    window = config.get("sliding_window") if "attention.sliding_window" in table.none else None
    if window is not None and window < config["max_position_embeddings"]:
        warnings.warn(f"{path}: llama.cpp reads {name} files without their window of {window:,} tokens", stacklevel=2)
    state = canonical_state(model)
    sources = chosen.names[0].place({key: tuple(tensor.shape) for key, tensor in state.items()})
    metadata = {
        "general.architecture": name,
        "general.name": path.stem,
        "general.file_type": np.uint32(TYPES[kind][0]),
        "general.quantization_version": np.uint32(2),
        **{f"{name}.{key}": value for key, value in _keys(table, config, scaling, model).items()},
    }
    try:
        metadata |= gguf.keys(tokenizer, model.vocab_size)
    except TokenizerError as error:
        raise TokenizerError(f"{path}: {error}") from None
    lost = [token for token in table.tokens if token not in metadata["tokenizer.ggml.tokens"]]
    if lost:
        raise TokenizerError(f"{path}: llama.cpp reads no {name} model whose tokenizer lacks {' and '.join(lost)}")
    weights = {sources[key].name: columns for key, columns in (importance or {}).items() if key in sources}
    tied = all(source.name != HEAD for source in sources.values())
    lists = _lists(scaling, config).items()
    tensors = {own: Packable("F32", numbers.shape, partial(np.asarray, numbers)) for own, numbers in lists}
    for theirs, tensor in arrange(state, sources).items():
        own, of = table.ours(theirs), weights.get(theirs)
        form = "F32" if tensor.ndim < 2 else mixture(own, tensor.shape[-1], kind, config, tied, of is not None)
        tensors[own] = Packable(form, tuple(tensor.shape), _packing(table, config, theirs, tensor, form, of))
    with files.atomic_file(path) as handle:
        write(handle, metadata, tensors)
        handle.flush()
        _check(model, chosen, Path(handle.name), name)
        ready()
    return path


def fitting(model: Any) -> tuple[str, Architecture, Family, Config]:
    """The first architecture whose family holds the model. Raises Misfit (a CheckpointError) where there is none."""
    known = f"written: {', '.join(ARCHITECTURES)}"
    if model.spec.name != "transformer":
        raise Misfit(f"GGUF files hold decoders of Llama's kind, and this model's form is {model.spec.name} ({known})")
    problems: dict[str, str] = {}
    for name, table in ARCHITECTURES.items():
        if table.family in FAMILIES:
            chosen = family(table.family)
            try:
                config = chosen.to_config(model.spec, model.vocab_size)
                scaling = _scaling(model.spec)
                if scaling is not None and scaling.type not in table.scalings:
                    raise Misfit(f"the scaling of rotary positions is {scaling.type}, which its files cannot have")
                if table.head not in ("either", "tied" if config["tie_word_embeddings"] else "own"):
                    only = "a head of its own" if table.head == "own" else "the embedding as head"
                    raise Misfit(f"llama.cpp reads its files with {only} alone")
                heads = config["num_attention_heads"]
                config["num_key_value_heads"] = config.get("num_key_value_heads") or heads
                config["head_dim"] = config.get("head_dim") or config["hidden_size"] // heads
                if table.square and heads * config["head_dim"] != config["hidden_size"]:
                    raise Misfit("llama.cpp reads its files with heads that are together as wide as the model alone")
                return name, table, chosen, config
            except Misfit as error:
                problems[table.family] = f"{name}: {error}"
    nearest_one = problems.get(model.family) or problems["llama"]
    raise Misfit(f"no architecture of GGUF files that is written holds this model; {nearest_one} ({known})")


def _turned(config: Config) -> int:
    return int(config["head_dim"] * config.get("partial_rotary_factor", 1.0))


def _keys(table: Architecture, config: Config, scaling: Scaling | None, model: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, theirs in table.all_keys.items():
        value = config.get(theirs)
        if value is not None:
            form: Any = {bool: bool, int: np.uint32}.get(type(value), np.float32)
            found[key] = form(value)
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
    positions = [part.position for part in (*spec.blocks, spec)]
    return next((p.scaling for p in positions if p is not None and p.scaling is not None), None)


def _lists(scaling: Scaling | None, config: Config) -> dict[str, Array]:
    """The tensors that hold what a scaling divides frequencies by."""
    if scaling is None or scaling.type not in ("llama3", "longrope"):
        return {}
    if scaling.type == "llama3":
        return {FREQUENCIES: divisors(scaling, _turned(config), config["rope_theta"]).astype(np.float32)}
    return {own: np.array(getattr(scaling, LISTS[theirs]), np.float32) for theirs, own in FACTORS.items()}


def mixture(name: str, columns: int, kind: str, config: Config, tied: bool, important: bool) -> str:
    """The kind of a matrix in a file: more bits for the head, and for values and the last map of some layers.

    Args:
        name: of the file's tensor; columns: of a row; kind: one of `TYPES`.
        config: of the family; tied: whether the embedding is the head; important: whether that of columns is known.
    """
    _, found = TYPES[kind]
    if KINDS[found].size == 1:
        return found
    at, part = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.weight", name).groups("0")  # type: ignore[union-attr]
    layer, layers, values = int(at), config["num_hidden_layers"], part in ("attn_v", "attn_qkv")
    first, last = layer < layers // 8, layer >= 7 * layers // 8
    grouped = config["num_key_value_heads"] < config["num_attention_heads"]
    if part == "output" or (part == "token_embd" and tied):
        found = "Q8_0" if found == "Q8_0" or columns % KINDS[found].size else "Q6_K"
    elif kind in ("q4_k_m", "q5_k_m") and (values or part == "ffn_down"):
        if first or last or (layer - layers // 8) % 3 == 2:
            found = "Q6_K"
        elif kind == "q4_k_m" and values and layers == 80 and grouped:
            found = "Q5_K"  # of 70B, whose values are few
    elif kind == "q4_0" and part == "ffn_down" and first and important:
        found = "Q4_1"
    while columns % KINDS[found].size:
        found = NARROW.get(found, "F16")
    return found


def _packing(table: Architecture, config: Config, theirs: str, tensor: Tensor, kind: str, of: Array | None) -> Any:
    def packed() -> Array:
        numbers: Array = tensor.detach().cpu().float().numpy()
        if theirs.endswith("norm.weight"):
            numbers = numbers + np.float32(table.shift)
        if (heads := table.heads(theirs, config)) is not None:
            numbers = interleaved(numbers, heads)
        largest = float(np.abs(numbers).max(initial=0.0))
        if not largest <= (math.inf if kind in ("F32", "BF16") else LARGEST_HALF):
            raise CheckpointError(f"{theirs}: holds {largest:g}, which {kind} cannot; write f32")
        return KINDS[kind].packed(numbers, of)

    return packed


def _explicit(spec: Any) -> Any:
    """The same model with the factor of its rotation said, whether it is the formula's or not."""
    scaling = spec.position.scaling
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
        raise Misfit(f"{field} is {ours!r}, which a GGUF file of the architecture {name} cannot say (only {theirs!r})")
