"""Models of images from disk and to disk, our own or of a family (CLIP, LLaVA, ...), without a pickle.

A config is untrusted: the model is first built without memory, every parameter's name and shape is compared with the
files' headers, and tensors are read only if all of them fit.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llmanac.core import files
from llmanac.core.device import resolve_device, resolve_dtype
from llmanac.core.errors import CheckpointError, SpecError, shown
from llmanac.core.spec import dump, flatten
from llmanac.models.card import TAG, first_card
from llmanac.models.families._config import Misfit, WeightSource, arrange
from llmanac.models.folder import CONFIG, RECORD, read_record, read_table, record_of, sums_of
from llmanac.models.images.families import WRITTEN, family
from llmanac.models.images.families._family import PartNames
from llmanac.models.lm.transformer import Transformer
from llmanac.models.locate import model_folder
from llmanac.models.save import DTYPE_NAMES, SHARD_BYTES, write_weights
from llmanac.models.weights import INDEX, Weights, check_finite, some, to

OWN = "llmanac-multimodal"


def load_multimodal(
    path: str | Path, *, dtype: str | torch.dtype | None = None, device: str | torch.device = "auto"
) -> Any:
    """Load a model of images.

    Args:
        path: a folder in Hugging Face's layout, or the id of a model on the hub (`owner/name`).
        dtype: of the weights: float32 by default, bfloat16, float16, float64, or "auto".
        device: auto, cpu, cuda, mps.

    Raises:
        CheckpointError: a file that is missing or damaged, a family that is not known, a config that asks for what is
            not supported, or weights that are missing, unused or of another shape; the message names which.
    """
    folder = model_folder(path)
    where = device if isinstance(device, torch.device) else resolve_device(device)
    table = read_table(folder / CONFIG)
    kind, chosen = table.get("model_type"), None
    parts: tuple[PartNames, ...] = ()
    if kind == OWN:
        spec, vocab_size = read_record(folder, kind="multimodal")
        weights = Weights(folder)
    else:
        chosen = family(kind, f"{folder / CONFIG}: model_type")
        try:
            spec, vocab_size, parts = chosen.to_spec(table, folder / CONFIG)
        except SpecError as error:
            raise CheckpointError(f"{folder / CONFIG}: {error}") from error
        weights = Weights(folder, chosen.ignored)
    _check_count(spec, weights, folder)
    try:
        with torch.device("meta"):
            model = spec.build(vocab_size=vocab_size)
    except (SpecError, RuntimeError, OverflowError, TypeError) as error:
        raise CheckpointError(f"{folder / CONFIG}: {str(error)[:300]}") from error
    absent = chosen.absent if chosen else ()
    shapes = {name: tuple(p.shape) for name, p in tensors(model).items() if not any(part in name for part in absent)}
    sources = (
        chosen.place(shapes, parts, weights.__contains__)
        if chosen
        else {n: WeightSource(n, s) for n, s in shapes.items()}
    )
    state = _read(shapes, sources, dict(chosen.joined) if chosen else {}, weights, resolve_dtype(dtype, where), where)
    if weights.unused:
        raise CheckpointError(f"{folder}: weights have no place in the model: {some(sorted(weights.unused))}")
    if any(tensor.is_meta and name not in state for name, tensor in tensors(model, own=False).items()):
        made = spec.build(vocab_size=vocab_size)  # what no file holds
        state = {name: value.to(resolve_dtype(dtype, where)) for name, value in tensors(made).items()} | state
        fixed = {name: value for name, value in tensors(made, own=False).items() if name not in state}
        for name, value in fixed.items():
            owner, _, own = name.rpartition(".")
            model.get_submodule(owner)._buffers[own] = value
    model.load_state_dict(state, strict=False, assign=True)
    if absent:
        model.settle()
    _tie(model)
    return model.to(where).eval()  # what is no parameter: frequencies of positions


def tensors(model: Any, *, own: bool = True) -> dict[str, Tensor]:
    """What a file holds of a model: parameters, and the buffers that are saved; with `own=False` the others too."""
    kept = {name for name, _ in model.named_parameters()}
    kept |= {name for name in model.state_dict() if own}
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: tensor for name, tensor in named.items() if name in kept or not own}


def _tie(model: Any) -> None:
    """Give a tied head of a language model inside the embedding's matrix, which replaced that of the meta device."""
    for part in model.modules():
        if isinstance(part, Transformer) and part.spec.tied:
            part.lm_head.weight = part.model.embed_tokens.weight


def _check_count(spec: Any, weights: Weights, folder: Path) -> None:
    """Refuse more layers than the files have tensors for, before they are built."""
    counts = {path: n for path, n in flatten(dump(spec)).items() if path.endswith("layers") and type(n) is int}
    for path, count in counts.items():
        if count > len(weights):
            raise CheckpointError(
                f"{folder / CONFIG}: {path} asks for {count:,} layers, but {folder} holds {len(weights):,} tensors"
            )


def _with_axes(name: str, tensor: Tensor, axes: Mapping[str, int]) -> Tensor:
    """A tensor with the leading axes of size 1 that a family's files have."""
    count = next((n for ending, n in axes.items() if name.endswith(ending)), 0)
    return tensor.reshape((1,) * count + tuple(tensor.shape))


def _read(
    shapes: Mapping[str, tuple[int, ...]],
    sources: Mapping[str, WeightSource],
    joined: Mapping[str, tuple[str, ...]],
    weights: Weights,
    dtype: torch.dtype,
    device: torch.device,
) -> dict[str, Tensor]:
    """Every parameter's values. Raises CheckpointError for what is missing, of another shape, or not finite."""
    missing = [s.name for n, s in sources.items() if n not in joined and s.name not in weights]
    if missing:
        raise CheckpointError(f"{weights.folder}: {len(missing)} weights are missing: {some(sorted(missing))}")
    for name, source in sources.items():
        if name not in joined:
            found = weights.entry(source.name)
            if tuple(n for n in found.shape if n != 1) != tuple(n for n in source.shape if n != 1):
                raise CheckpointError(
                    f"{found.path}: {source.name} has the shape {found.shape}, the config asks for {source.shape}"
                )
    state: dict[str, Tensor] = {}
    for name, source in sources.items():
        if name in joined:
            there = [part for part in joined[name] if part in weights]
            whole = torch.cat([weights.take(part) for part in there]) if there else torch.empty(0)
            source = WeightSource(joined[name][0], tuple(whole.shape))
            if tuple(whole.shape) != shapes[name]:
                raise CheckpointError(f"{weights.folder}: {' and '.join(joined[name])} do not give {shapes[name]}")
        else:
            whole = weights.take(source.name).reshape(source.shape)
        state[name] = to(source.take(whole), dtype, device).reshape(shapes[name])
        check_finite(state[name], whole, weights.entry(source.name), source.name)
    return state


def save_multimodal(model: Any, folder: str | Path, kind: str | None = None) -> Path:
    """Write config.json, model.safetensors and llmanac.json; returns the folder.

    Args:
        kind: the family to write it as; by default the first that holds it, else our own layout.

    Raises:
        Misfit: (a CheckpointError) that family cannot hold this model; the message says why.
    """
    folder = Path(folder)
    state = {name: p.detach() for name, p in tensors(model).items()}
    config: dict[str, Any] = {"architectures": [type(model).__name__], "model_type": OWN}
    if kind is not None and kind not in WRITTEN:
        raise Misfit(f"family: {shown(kind)} is not written, only {', '.join(WRITTEN)}")
    for name in WRITTEN if kind is None else (kind,):
        chosen = family(name, "family")
        try:
            config, parts = chosen.to_config(model.spec, model.vocab_size)
        except CheckpointError:
            if kind is not None:
                raise
            continue
        sources = chosen.place({n: tuple(t.shape) for n, t in state.items()}, parts, lambda name: True)
        state = {n: _with_axes(n, t, chosen.axes) for n, t in arrange(state, sources).items()}
        break
    dtype = next(iter(state.values())).dtype
    config = {**config, "dtype": DTYPE_NAMES[dtype], "torch_dtype": DTYPE_NAMES[dtype]}
    with files.atomic_folder(folder) as temporary:
        names = write_weights(temporary, state, SHARD_BYTES)
        sums = sums_of(temporary, [name for name in names if name != INDEX])
        files.write_json(temporary / RECORD, record_of(model, sums))
        text = "Written by llmanac: `llmanac classify-image`, `caption` or `generate-image` use it."
        kind = config["model_type"]
        library = TAG if kind == OWN else "transformers"
        first_card(temporary, f"{kind}, {model.spec.name}", text, library_name=library, pipeline_tag=None,
                   tags=[TAG, *({kind} - {OWN})])  # fmt: skip
        files.write_json(temporary / CONFIG, config)
    return folder


def load_part(module: torch.nn.Module, state: Mapping[str, Tensor], prefix: str) -> None:
    """Give a module the parameters of another model below a prefix (a trained encoder to a model that reads it)."""
    own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    module.load_state_dict(own)
