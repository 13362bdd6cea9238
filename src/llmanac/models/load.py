"""Models from disk or from the hub, our own or of a family (Llama, GPT-2), without a pickle.

A config is untrusted. The model is first built without memory (on the meta device); every parameter's name and shape
is compared with the files' headers, and tensors are read only if all of them fit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llmanac.core.device import resolve_device, resolve_dtype
from llmanac.core.errors import CheckpointError, SpecError, shown
from llmanac.core.spec import dump, flatten
from llmanac.models._folder import CONFIG, RECORD, read_generation, read_record, read_table
from llmanac.models._weights import Weights, check_finite, some, to
from llmanac.models.families import AXES, OWN_FIELDS, PRESENT, Config, Source, family
from llmanac.models.lm import ngram
from llmanac.models.lm.transformer import Transformer
from llmanac.models.locate import model_folder
from llmanac.models.save import export_model

__all__ = ["export_model", "load_model"]


@dataclass(frozen=True)
class Claim:
    """What a config asks for.

    Attributes:
        path: the file that says so; fields: its names of our sizes; sizes: its whole numbers by name.
        source: the location of one of our parameters in the files.
    """

    path: Path
    spec: Any
    vocab_size: int
    source: Callable[[str], Source]
    fields: Mapping[str, str]
    sizes: Mapping[str, int]


def load_model(
    path: str | Path, *, dtype: str | torch.dtype | None = None, device: str | torch.device = "auto"
) -> Transformer:
    """Load a model for inference or further training.

    Args:
        path: a folder in Hugging Face's layout, or the id of a model on the hub (`owner/name`).
        dtype: of the weights: float32 by default, bfloat16, float16, float64, or "auto" (bfloat16 where it is faster).
        device: auto, cpu, cuda, mps.

    Raises:
        CheckpointError: a file that is missing or damaged, a family that is not known, a config that asks for what is
            not supported, or weights that are missing, unused or of another shape; the message names which.
    """
    folder = model_folder(path)
    where = device if isinstance(device, torch.device) else resolve_device(device)
    target = resolve_dtype(dtype, where)
    data = read_table(folder / CONFIG)
    kind = data.get("model_type")
    if kind == ngram.MODEL_TYPE:
        return ngram.load_pretrained(folder)  # type: ignore[return-value]
    claim, weights = _own(folder) if kind == "llmanac" else _theirs(folder, data)
    _check_layers(claim, weights)
    model = _skeleton(claim, claim.spec)
    _check_fit(model, claim, weights)
    model.generation = read_generation(folder, data)
    _fill(model, claim, weights, target, where)
    return model.eval()


def _own(folder: Path) -> tuple[Claim, Weights]:
    """A model that no family holds."""
    weights = Weights(folder)
    spec, vocab_size = read_record(folder, len(weights))
    path = folder / RECORD
    if getattr(spec, "estimated", False):
        raise CheckpointError(f"{path}: spec.name is {spec.name!r}, but config.json says that it has trained weights")
    sizes = {f"spec.{key}": value for key, value in flatten(dump(spec)).items() if type(value) is int}
    return Claim(path, spec, vocab_size, Source, OWN_FIELDS, {**sizes, "vocab_size": vocab_size}), weights


def _theirs(folder: Path, data: dict[str, Any]) -> tuple[Claim, Weights]:
    """A checkpoint of a family."""
    path, kind = folder / CONFIG, data.get("model_type")
    if not isinstance(kind, str):
        raise CheckpointError(f"{path}: model_type is {shown(kind)}, expected the name of a family")
    chosen = family(kind, f"{path}: model_type")
    config = Config(data, path)
    try:
        spec, vocab_size = chosen.to_spec(config)
    except SpecError as error:
        raise _named(error, path, chosen.FIELDS) from error
    config.finish()
    claim = Claim(path, spec, vocab_size, chosen.source, chosen.FIELDS, config.sizes)
    return claim, Weights(folder, chosen.IGNORED, getattr(chosen, "PREFIX", ""))


def _named(error: SpecError, path: Path, fields: Mapping[str, str]) -> CheckpointError:
    """What a Spec refuses, with the file's own name of the field."""
    field = fields.get(str(error).partition(":")[0].rpartition(".")[2])
    return CheckpointError(f"{path}: {field}: {error}" if field else f"{path}: {error}")


def _skeleton(claim: Claim, spec: Any) -> Transformer:
    """The model without memory."""
    try:
        with torch.device("meta"):
            model: Transformer = spec.build(vocab_size=claim.vocab_size)
    except SpecError as error:
        raise _named(error, claim.path, claim.fields) from error
    except (RuntimeError, OverflowError, TypeError) as error:  # how torch refuses sizes that no tensor can have
        name, size = max(claim.sizes.items(), key=lambda item: item[1])
        raise CheckpointError(f"{claim.path}: {name} is {size:,}, which asks for larger tensors than can be") from error
    return model


def _check_layers(claim: Claim, weights: Weights) -> None:
    """Refuse more layers than the files have tensors for, before each is built: one repetition tells what it takes."""
    blocks = getattr(claim.spec, "blocks", None)
    if blocks is None:
        return
    pattern = _skeleton(claim, replace(claim.spec, layers=len(blocks)))
    _check_names(pattern, claim, weights)
    names = {claim.source(name).name for name, _ in pattern.named_parameters() if name.startswith("model.layers.")}
    layers = claim.spec.layers
    needed = layers // len(blocks) * len(names)
    if needed > len(weights):
        raise CheckpointError(
            f"{claim.path}: {claim.fields['layers']} asks for {layers:,} layers of {needed:,} tensors in all, but "
            f"{weights.folder} holds {len(weights):,}"
        )


def _check_fit(model: Transformer, claim: Claim, weights: Weights) -> None:
    """Compare every parameter with the files' headers: names, shapes, and nothing left over."""
    _check_names(model, claim, weights)
    for name, parameter in model.named_parameters():
        source = claim.source(name)
        entry, shape = weights.entry(source.name), source.shape(tuple(parameter.shape))
        if entry.shape != shape:
            raise CheckpointError(
                f"{entry.path}: {source.name} gives {_numbers(entry.shape)} for {name}, {claim.path} asks for "
                f"{_numbers(shape)}{_follows(claim, name, source, entry.shape, shape)}"
            )
    head = claim.source("lm_head.weight").name
    if getattr(model.spec, "tied", False) and head in weights:
        weights.entry(head)
    if weights.unused:
        unused, layers = sorted(weights.unused), getattr(claim.spec, "layers", None)
        reason = "" if layers is None else f" ({claim.path}: {claim.fields['layers']} is {layers})"
        raise CheckpointError(
            f"{weights.folder}: {len(unused)} weights have no place in the model: {some(unused)}{reason}"
        )


def _check_names(model: Transformer, claim: Claim, weights: Weights) -> None:
    """Every parameter is in the files."""
    wanted = {claim.source(name).name: name for name, _ in model.named_parameters()}
    missing = sorted(name for name in wanted if name not in weights)
    if missing:
        ours = [PRESENT[ending] for name in missing for ending in PRESENT if wanted[name].endswith(ending)]
        fields = dict.fromkeys(claim.fields[name] for name in ours if name in claim.fields)
        reason = f" ({claim.path}: {' and '.join(fields)})" if fields else ""
        raise CheckpointError(f"{weights.folder}: {len(missing)} weights are missing: {some(missing)}{reason}")


def _numbers(shape: tuple[int, ...]) -> str:
    return str(shape) if len(shape) < 10 else f"{len(shape):,} axes"


def _follows(claim: Claim, name: str, source: Source, found: tuple[int, ...], asked: tuple[int, ...]) -> str:
    """Which fields of the config the axes follow from that differ, where it is known."""
    axes = next((axes for ending, axes in AXES.items() if name.endswith(ending)), ())
    axes = axes[::-1] if source.transposed else axes
    if not len(axes) == len(found) == len(asked):
        return ""
    fields = [claim.fields.get(axis, axis) for axis, a, b in zip(axes, found, asked, strict=True) if a != b]
    return f" ({' and '.join(dict.fromkeys(fields))})"


def _fill(model: Transformer, claim: Claim, weights: Weights, dtype: torch.dtype, device: torch.device) -> None:
    """Give every parameter of a model on the meta device its values. Raises CheckpointError where one is not finite."""
    state = {}
    for name, _ in model.named_parameters():
        source = claim.source(name)
        whole = weights.take(source.name)
        state[name] = to(source.take(whole), dtype, device)
        check_finite(state[name], whole, weights.entry(source.name), source.name)
    head = claim.source("lm_head.weight").name
    tied = getattr(model.spec, "tied", False)
    if tied and head in weights:
        _check_tied(weights.take(head), state["model.embed_tokens.weight"], weights.folder)
    model.load_state_dict(state, strict=False, assign=True)
    if tied:
        model.lm_head.weight = model.model.embed_tokens.weight
    model.to(device)  # what is no parameter: frequencies of positions


def _check_tied(head: Tensor, embedding: Tensor, folder: Path) -> None:
    if head.shape != embedding.shape or not torch.equal(head.to(embedding), embedding):
        raise CheckpointError(
            f"{folder}: the config ties the head to the embedding, but lm_head.weight differs from it; "
            "set tie_word_embeddings to false"
        )
