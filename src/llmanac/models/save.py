"""Models to disk in Hugging Face's layout: config.json, model.safetensors, generation_config.json, llmanac.json,
README.md.

A model in a family's shape is written as that family, so that transformers loads it; any other is written as
`model_type: llmanac`. Packed matrices stay packed, in the layout that `quantization_config` names.
Each file is renamed into place once it is complete, the config last.
"""

import json
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from llmanac.core import files
from llmanac.core.errors import CheckpointError, LlmanacError
from llmanac.models.card import model_card
from llmanac.models.families import FAMILIES, Misfit, arrange
from llmanac.models.families import family as find_family
from llmanac.models.folder import RECORD, TOKENS, record_of, sums_of
from llmanac.models.layers import LinearMap
from llmanac.models.lm import TrainedModel
from llmanac.models.packed_files import KEY, pack_state
from llmanac.models.quantized import Quantized
from llmanac.models.weights import INDEX, WEIGHTS

SHARD_BYTES = 5_000_000_000
STAGED = f"{files.TEMPORARY}weights"
DTYPE_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16", torch.float64: "float64"}


def save_model(model: TrainedModel, folder: str | Path, *, shard_bytes: int = SHARD_BYTES) -> Path:
    """Write the model as the first family that can hold it, else as `llmanac`; returns the folder.

    Files of other names in the folder (a tokenizer's) are left alone. Raises LlmanacError where the disk refuses.
    """
    for name in FAMILIES:
        try:
            return export_model(model, folder, family=name, shard_bytes=shard_bytes)
        except Misfit:
            continue
    config = {"architectures": [type(model).__name__], "model_type": "llmanac", "vocab_size": model.vocab_size}
    return write_model(model, Path(folder), config, canonical_state(model), shard_bytes)


def export_model(
    model: TrainedModel, folder: str | Path, family: str = "llama", *, shard_bytes: int = SHARD_BYTES
) -> Path:
    """Write the model as a checkpoint of a family; returns the folder.

    Raises:
        Misfit: (a CheckpointError) the family cannot hold this model; the message says what it has no form for.
        CheckpointError: a family that is not known.
    """
    chosen = find_family(family, "family")
    try:
        config = chosen.to_config(model.spec, model.vocab_size)
    except Misfit as error:
        raise Misfit(f"this model cannot be written as {family}: {error}") from None
    state = canonical_state(model)
    sources = chosen.stored(model.spec)[0][0].place(
        {name: tuple(tensor.shape) for name, tensor in state.items()}, model.spec
    )
    for name, tensor in state.items():
        if isinstance(tensor, Quantized) and not (sources[name].alone and not sources[name].transposed):
            raise Misfit(f"{name} is packed, and {family} stores it fused with others or transposed")
    return write_model(model, Path(folder), config, arrange(state, sources), shard_bytes)


def canonical_state(model: TrainedModel) -> dict[str, Tensor]:
    """The parameters under their own names, a tied head's matrix once. Raises CheckpointError for adapters."""
    for name, module in model.named_modules():
        before = isinstance(module, TrainedModel) and module.soft_prompt is not None
        if before or (isinstance(module, LinearMap) and module.own_change is not None):
            raise CheckpointError(
                f"{name or 'model'}: has an adapter, which a model's folder cannot hold; `merge()` it first, or save "
                "it with `save_adapter` and `remove()` it"
            )
    state = {name: p.detach() for name, p in model.named_parameters()}
    for name, tensor in state.items():
        if isinstance(tensor, Quantized) and not tensor.form.quantizer:
            state[name] = tensor.dense()
    for name, tensor in state.items():
        if tensor.device.type == "meta":
            raise CheckpointError(f"{name}: has no values (it is on the meta device); load the model before saving it")
    return state


def write_model(
    model: TrainedModel, folder: Path, config: dict[str, Any], state: dict[str, Tensor], shard_bytes: int = SHARD_BYTES
) -> Path:
    """Write the files of a model's folder; `config` becomes config.json. Raises LlmanacError where the disk refuses."""
    # null where there is none: transformers' own defaults may lie outside the vocabulary
    tokens = {key: model.generation.get(key, config.get(key)) for key in TOKENS}
    dtype = reduce(torch.promote_types, {tensor.dtype for tensor in state.values()})  # frozen ones may be narrower
    config = {**config, **tokens, "dtype": DTYPE_NAMES[dtype], "torch_dtype": DTYPE_NAMES[dtype]}
    state, quantization = pack_state(state, foreign=config["model_type"] != "llmanac")
    if quantization is not None:
        config[KEY] = quantization
    try:
        with files.atomic_folder(folder / STAGED) as temporary:
            names = write_weights(temporary, state, shard_bytes)
            sums = sums_of(temporary, [name for name in names if name != INDEX])
    except LlmanacError as error:
        error.args = (str(error).replace(str(folder / STAGED), str(folder)),)
        raise
    try:
        # without its config a folder is no checkpoint: old and new shards can never be read together
        (folder / "config.json").unlink(missing_ok=True)
        for stale in [*folder.glob("model-*-of-*.safetensors"), folder / WEIGHTS, folder / INDEX]:
            stale.unlink(missing_ok=True)
        for name in names:
            (folder / STAGED / name).replace(folder / name)
        (folder / STAGED).rmdir()
    except OSError as error:
        raise LlmanacError(f"{folder}: cannot write ({error.strerror or error})") from error
    files.write_json(folder / RECORD, record_of(model, sums))
    files.write_json(folder / "generation_config.json", model.generation)
    model_card(folder, config, model.origin)
    files.write_json(folder / "config.json", config)
    return folder


def write_weights(folder: Path, state: dict[str, Tensor], shard_bytes: int) -> list[str]:
    """Write tensors as one safetensors file, or as shards of at most `shard_bytes` with an index; returns the names."""
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in state.items():
        if shards[-1] and size + tensor.nbytes > shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = tensor.contiguous()
        size += tensor.nbytes
    if len(shards) == 1:
        _save_file(shards[0], folder / WEIGHTS)
        return [WEIGHTS]
    where: dict[str, str] = {}
    names = []
    for number, shard in enumerate(shards, start=1):
        names.append(f"model-{number:05d}-of-{len(shards):05d}.safetensors")
        _save_file(shard, folder / names[-1])
        where |= dict.fromkeys(shard, names[-1])
    total = sum(t.nbytes for t in state.values())
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n", "utf-8")
    return [*names, INDEX]


def _save_file(tensors: dict[str, Tensor], path: Path) -> None:
    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:  # how a full disk is reported
        raise LlmanacError(f"{path}: cannot write ({error}); what was there before is kept") from error
