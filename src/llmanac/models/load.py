"""Models from disk or from the hub, our own or of a family (Llama, GPT-2, ...), without a pickle.

A config is untrusted. The model is first built without memory (on the meta device); every parameter's name and shape
is compared with the files' headers, and tensors are read only if all of them fit.
"""

import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llmanac.core.device import resolve_device, resolve_dtype
from llmanac.core.errors import CheckpointError, SpecError, shown
from llmanac.core.progress import progress
from llmanac.core.spec import dump, flatten
from llmanac.models.families import AXES, OWN_FIELDS, PRESENT, Names, WeightSource, family
from llmanac.models.families._wrapped import LEFT_OUT, WRAPPED, inside, text_of
from llmanac.models.folder import CONFIG, RECORD, read_generation, read_record, read_table
from llmanac.models.gguf.read import PackedWeights
from llmanac.models.layers import Embedding, LinearMap
from llmanac.models.lm import ngram
from llmanac.models.lm.transformer import Transformer
from llmanac.models.locate import model_folder
from llmanac.models.packed_files import KEY, PackedLayout, QuantizedWeights, layout_of
from llmanac.models.quantized import Quantized
from llmanac.models.save import export_model
from llmanac.models.scaling import stretched, windowed
from llmanac.models.weights import INDEX, MOST_TENSORS, WEIGHTS, Weights, check_finite, check_tied, some, to

__all__ = ["export_model", "load_model"]


@dataclass(frozen=True)
class Claim:
    """What a config asks for.

    Attributes:
        path: the file that says so; fields: its names of our sizes; sizes: its whole numbers by name.
        names: the layouts that the files may have.
    """

    path: Path
    spec: Any
    vocab_size: int
    names: Sequence[Names]
    fields: Mapping[str, str]
    sizes: Mapping[str, int]

    def sources(self, model: Any, weights: Weights) -> dict[str, WeightSource]:
        """Where each parameter of the model is, in the layout with the most names that the files have.

        A tied head has a place too.
        """
        shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
        if model.spec.tied:
            shapes["lm_head.weight"] = tuple(model.embedding.weight.shape)
        found = [names.place(shapes, self.spec) for names in self.names]
        return max(found, key=lambda sources: sum(source.name in weights for source in sources.values()))


def load_model(
    path: str | Path,
    *,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device = "auto",
    rope: str | None = None,
    sinks: str | None = None,
    ignore: Sequence[str] = (),
) -> Transformer:
    """Load a model for inference or further training.

    Args:
        path: a folder in Hugging Face's layout, a .gguf file, or the id of a model on the hub (`owner/name`
            or `owner/name@revision`), from its cache where that has it.
        dtype: of the weights: float32 by default, bfloat16, float16, float64, or "auto" (bfloat16 where it is faster).
            The matrices of a .gguf file stay packed, in float32 to whoever looks, unless a dtype is given.
        device: auto, cpu, cuda, mps; torch.device("meta") for a model without memory, whose values ranks read in parts.
        rope: scale rotary positions for a longer context, as "yarn:4".
        sinks: read only so many first tokens and a window of the last ones, as "4+1020".
        ignore: keys of config.json that are read as if they were not there, where they are known to change nothing.

    Raises:
        SpecError: a scaling or window that is not known, or that the model cannot have.
        CheckpointError: a file that is missing or damaged, a family that is not known, a config that asks for what is
            not supported, or weights that are missing, unused or of another shape; the message names which.
    """
    where = device if isinstance(device, torch.device) else resolve_device(device)
    target = resolve_dtype(dtype, where)
    model, sources, weights = open_model(path, rope=rope, sinks=sinks, ignore=ignore)
    if weights is None:
        return model
    if where.type == "meta":
        model.values_at = {"path": str(path), "rope": rope, "sinks": sinks, "ignore": list(ignore)}
        return model.to(target).eval()
    _fill(model, sources, weights, target, where, keep=dtype is None or not isinstance(weights, PackedWeights))
    return model.eval()


def open_model(
    path: str | Path, *, rope: str | None = None, sinks: str | None = None, ignore: Sequence[str] = ()
) -> tuple[Any, dict[str, WeightSource], Weights | None]:
    """As `load_model`: the model without memory, where each parameter is, and the files, which were not read yet.

    An n-gram model is read, and has no files then.
    """
    place = model_folder(path)
    packed = PackedWeights(place) if place.is_file() else None
    data = read_table(place / CONFIG) if packed is None else packed.config
    if lost := [key for key in ignore if key not in data]:
        raise CheckpointError(f"{place}: ignore: no key {some(lost)} in its config; leave it out")
    data = {key: value for key, value in data.items() if key not in ignore}
    kind = data.get("model_type")
    if kind == ngram.MODEL_TYPE:
        return ngram.load_pretrained(place), {}, None
    quantization = data.pop(KEY, None) or None
    layout = None if quantization is None else layout_of(place / CONFIG, quantization)
    if sees := packed is None and isinstance(kind, str) and kind in WRAPPED:
        warnings.warn(
            f"{place}: vision_tower and multi_modal_projector are left out; the model reads text alone", stacklevel=3
        )
        data = text_of(data, place / CONFIG)
        kind = data["model_type"]
    claim, weights = _own(place, layout) if kind == "llmanac" else _theirs(place, data, packed, layout, sees)
    if rope is not None:
        claim = replace(claim, spec=stretched(claim.spec, rope))
    if sinks is not None:
        claim = replace(claim, spec=windowed(claim.spec, sinks))
    _check_counts(claim, weights)
    model = _skeleton(claim, claim.spec)
    sources = claim.sources(model, weights)
    _check_fit(model, sources, claim, weights)
    model.generation = read_generation(place, data)
    model.origin, model.family = str(path), None if kind == "llmanac" else str(kind)
    return model, sources, weights


def _weights(folder: Path, layout: PackedLayout | None, *names: Any, **more: Any) -> Weights:
    return Weights(folder, *names, **more) if layout is None else QuantizedWeights(folder, layout, *names, **more)


def _own(folder: Path, layout: PackedLayout | None) -> tuple[Claim, Weights]:
    """A model that no family holds."""
    weights = _weights(folder, layout)
    spec, vocab_size = read_record(folder, len(weights))
    path = folder / RECORD
    if spec.estimated:
        raise CheckpointError(f"{path}: spec.name is {spec.name!r}, but config.json says that it has trained weights")
    sizes = {f"spec.{key}": value for key, value in flatten(dump(spec)).items() if type(value) is int}
    return Claim(path, spec, vocab_size, (Names(),), OWN_FIELDS, {**sizes, "vocab_size": vocab_size}), weights


def _theirs(
    place: Path, data: dict[str, Any], packed: PackedWeights | None, layout: PackedLayout | None, sees: bool
) -> tuple[Claim, Weights]:
    """A checkpoint of a family, in a folder or packed in a file."""
    path, kind = place if packed else place / CONFIG, data.get("model_type")
    if not isinstance(kind, str):
        raise CheckpointError(f"{path}: model_type is {shown(kind)}, expected the name of a family")
    chosen = family(kind, f"{path}: model_type")
    chosen = inside(chosen) if sees else chosen
    config, fields = chosen.config(data, path), dict(chosen.fields)
    for theirs, own in (packed.fields if packed else {}).items():
        fields = {name: field.replace(theirs, own) for name, field in fields.items()}
    try:
        spec, vocab_size = chosen.to_spec(config)
    except SpecError as error:
        raise _named(error, path, fields) from error
    skipped = (*_further(config, chosen, spec), *(LEFT_OUT if sees else ()))
    if unknown := config.finish():
        warnings.warn(f"{path}: {some(unknown)}: ignored; no model of transformers computes with it", stacklevel=5)
    if packed is None:
        _check_pickles(place, data.get("architectures"))
    names, left_out = chosen.stored(spec)
    weights = packed or _weights(place, layout, left_out, chosen.prefix, skipped=skipped)
    bare = bool(weights.prefix) and "model.embed_tokens.weight" in weights and "lm_head.weight" not in weights
    if bare and spec.name == "transformer" and not spec.tied and not spec.head.labels:  # as E5-Mistral's
        reason = "it gives vectors of texts, and what it would write says nothing"
        warnings.warn(f"{place}: holds no head; {reason}", stacklevel=5)
        spec = replace(spec, tied=True)
    return Claim(path, spec, vocab_size, names, fields, config.sizes), weights


def _check_pickles(folder: Path, named: Any) -> None:
    """Raises CheckpointError where a folder has its weights as pickles alone, with the command that converts them."""
    pickles = sorted(path.name for ending in ("*.bin", "*.pt", "*.pth") for path in folder.glob(ending))
    if not pickles or any((folder / name).exists() for name in (WEIGHTS, INDEX)):
        return
    found = re.fullmatch(r"\['(\w+)'\]", str(named))
    name = found[1] if found else "AutoModelForCausalLM"
    raise CheckpointError(
        f"{folder}: has its weights as a pickle ({pickles[0]}), which can run any program and is not read; where you "
        f"trust it, convert it: python -c \"import transformers as t; t.{name}.from_pretrained('{folder}')"
        f".save_pretrained('{folder}')\""
    )


def _further(config: Any, chosen: Any, spec: Any) -> tuple[str, ...]:
    """Beginnings of the names of layers after the model's own, which are not read."""
    count = config.get(chosen.further, 0) if chosen.further else 0
    if type(count) is not int or not 0 <= count <= MOST_FURTHER:
        raise CheckpointError(f"{config.path}: {chosen.further} is {shown(count)}, expected 0 to {MOST_FURTHER}")
    return tuple(f"{chosen.names[0].layers.replace('*', str(spec.layers + i))}" for i in range(count))


def _named(error: SpecError, path: Path, fields: Mapping[str, str]) -> CheckpointError:
    """What a Spec refuses, with the file's own name of the field."""
    field = fields.get((error.field or "").rpartition(".")[2])
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


MOST_FURTHER = 16
CLASSIFIERS = ("score.weight", "classifier.weight", "classifier.out_proj.weight", "qa_outputs.weight")
STACKS = (("layers", "blocks", "model.layers."), ("encoder_layers", "encoder", "encoder.layers."))


def _check_counts(claim: Claim, weights: Weights) -> None:
    """Refuse more layers or experts than the files have tensors for, before each is built.

    One repetition of the blocks with one expert each tells what it takes.
    """
    spec = claim.spec
    stacks = [stack for stack in STACKS if getattr(spec, stack[1])]
    if not stacks:
        return
    for layers, blocks, _ in stacks:  # each block has a tensor, and a pattern may be as long as the model
        _enough(claim, weights, layers, getattr(spec, layers), len(getattr(spec, blocks)))
    few = {blocks: tuple(map(_one_expert, getattr(spec, blocks))) for _, blocks, _ in stacks}
    pattern = _skeleton(claim, replace(spec, **few, **{layers: len(few[blocks]) for layers, blocks, _ in stacks}))
    sources = claim.sources(pattern, weights)
    _check_names(pattern, sources, weights, claim)
    for layers, blocks, prefix in stacks:
        own = {name: source for name, source in sources.items() if name.startswith(prefix)}
        count, size = getattr(spec, layers), len(few[blocks])
        place = {name: int(name.split(".")[2]) for name in own}  # in the pattern, whose last repetition may be cut
        repeats = {name: count // size + (at < count % size) for name, at in place.items()}
        needed = {source.name: repeats[name] for name, source in own.items()}
        _enough(claim, weights, layers, count, sum(needed.values()))
        tensors, parameters = 0, 0
        for name, source in own.items():
            experts = getattr(spec, blocks)[place[name]].ffn.experts
            times = repeats[name] * (experts or 1 if ".mlp.experts." in name else 1)
            parameters += times
            tensors += times if source.expert is None and source.rows is None else 0
        _enough(claim, weights, "experts", None, tensors)
        if parameters > MOST_TENSORS:
            raise CheckpointError(
                f"{claim.path}: {claim.fields[layers]} and {claim.fields.get('experts', 'experts')} ask for "
                f"{parameters:,} matrices; at most {MOST_TENSORS:,} are read"
            )


def _one_expert(block: Any) -> Any:
    """The block with a single expert where it has some."""
    if block.ffn.experts is None:
        return block
    return replace(block, ffn=replace(block.ffn, experts=1, top_k=1, groups=1, top_groups=1))


def _enough(claim: Claim, weights: Weights, what: str, count: int | None, needed: int) -> None:
    if needed > len(weights):
        asks = f"{count:,} layers" if count is not None else "layers with experts"
        raise CheckpointError(
            f"{claim.path}: {claim.fields.get(what, what)} asks for {asks} of {needed:,} tensors in all, but "
            f"{weights.folder} holds {len(weights):,}"
        )


def _check_fit(model: Transformer, sources: Mapping[str, WeightSource], claim: Claim, weights: Weights) -> None:
    """Compare every parameter with the files' headers: names, shapes, and nothing left over."""
    _check_names(model, sources, weights, claim)
    for name, _ in model.named_parameters():
        source = sources[name]
        entry, shape = weights.entry(source.name), source.shape
        if entry.shape != shape:
            raise CheckpointError(
                f"{entry.path}: {source.name} gives {_numbers(entry.shape)} for {name}, {claim.path} asks for "
                f"{_numbers(shape)}{_follows(claim, name, source, entry.shape, shape)}"
            )
    if model.spec.tied and sources["lm_head.weight"].name in weights:
        weights.entry(sources["lm_head.weight"].name)
    if isinstance(weights, QuantizedWeights):
        weights.drop_zero_biases()
    if weights.unused:
        unused, layers = sorted(weights.unused), claim.spec.layers if claim.spec.blocks else None
        reason = "" if layers is None else f" ({claim.path}: {claim.fields['layers']} is {layers})"
        if heads := [name for name in unused if name in CLASSIFIERS]:
            reason = f"; {heads[0]} is a classification head, which a language model has no place for"
        raise CheckpointError(
            f"{weights.folder}: {len(unused)} weights have no place in the model: {some(unused)}{reason}"
        )


def _check_names(model: Transformer, sources: Mapping[str, WeightSource], weights: Weights, claim: Claim) -> None:
    """Every parameter is in the files."""
    wanted = {sources[name].name: name for name, _ in model.named_parameters()}
    missing = sorted(name for name in wanted if name not in weights)
    if missing:
        ours = [PRESENT[ending] for name in missing for ending in PRESENT if wanted[name].endswith(ending)]
        fields = dict.fromkeys(claim.fields[name] for name in ours if name in claim.fields)
        reason = f" ({claim.path}: {' and '.join(fields)})" if fields else ""
        if heads := [name for name in weights.entries if name in CLASSIFIERS]:
            reason = f"; {heads[0]} is a classification head: this model gives labels, not text, and is not read"
        raise CheckpointError(f"{weights.folder}: {len(missing)} weights are missing: {some(missing)}{reason}")


def _numbers(shape: tuple[int, ...]) -> str:
    return str(shape) if len(shape) < 10 else f"{len(shape):,} axes"


def _follows(claim: Claim, name: str, source: WeightSource, found: tuple[int, ...], asked: tuple[int, ...]) -> str:
    """Which fields of the config the axes follow from that differ, where it is known."""
    axes = next((axes for ending, axes in AXES.items() if name.endswith(ending)), ())
    axes = axes[::-1] if source.transposed else axes
    axes = axes if source.expert is None else ("experts", *axes)
    if not len(axes) == len(found) == len(asked):
        return ""
    fields = [claim.fields.get(axis, axis) for axis, a, b in zip(axes, found, asked, strict=True) if a != b]
    return f" ({' and '.join(dict.fromkeys(fields))})"


def _fill(
    model: Transformer, sources: Mapping[str, WeightSource], weights: Weights, dtype: torch.dtype, device: torch.device,
    keep: bool,
) -> None:  # fmt: skip
    """Give every parameter of a model on the meta device its values. Raises CheckpointError where one is not finite.

    Args:
        keep: whether matrices that are packed stay so.
    """
    state: dict[str, Tensor] = {}
    shared = Counter(sources[name].name for name, _ in model.named_parameters())
    held: dict[str, Tensor] = {}  # tensors of which several parameters are parts, while some are still to come
    dense: list[str] = []  # packed matrices of theirs that have no packed form here
    for name in _with_progress(model, dtype):
        source = sources[name]
        if keep and isinstance(weights, (QuantizedWeights, PackedWeights)) and weights.is_packed(source.name):
            layer = model.get_submodule(name.removesuffix(".weight"))
            whole_rows = source.expert is None and isinstance(weights, PackedWeights)  # of fused ones any are a matrix
            if (source.alone or whole_rows) and not source.transposed and isinstance(layer, (LinearMap, Embedding)):
                packed: Any = weights.packed(source.name, dtype).moved(device)
                if not source.alone:
                    rows = {"": source.take(packed.parts[""])}
                    packed = Quantized(packed.form, rows, tuple(layer.weight.shape), dtype)
                layer.weight = nn.Parameter(packed, requires_grad=False)
                continue
            dense += [] if source.name in held else [source.name]
        if source.name not in held:
            held[source.name] = weights.take(source.name)
        whole = held[source.name]
        state[name] = to(source.take(whole), dtype, device)
        check_finite(state[name], whole, weights.entry(source.name), source.name)
        shared[source.name] -= 1
        if not shared[source.name]:
            del held[source.name]
    if dense:
        warnings.warn(
            f"{weights.folder}: {len(dense)} packed matrices are read as dense ones, because they are stored fused "
            f"with others or transposed: {some(dense)}",
            stacklevel=3,
        )
    tied = model.spec.tied
    if tied and (head := sources["lm_head.weight"].name) in weights:
        embedding = model.embedding.weight
        own = embedding if isinstance(embedding, Quantized) else state["model.embed_tokens.weight"]
        check_tied(weights.take(head), own, weights.folder)
    model.load_state_dict(state, strict=False, assign=True)
    if tied:
        model.lm_head.weight = model.model.embed_tokens.weight
    model.to(device)  # what is no parameter: frequencies of positions


def _with_progress(model: nn.Module, dtype: torch.dtype) -> Iterator[str]:
    """The names of the parameters; what is done is counted in the bytes that they take."""
    sizes = {name: parameter.numel() * dtype.itemsize for name, parameter in model.named_parameters()}
    with progress("load weights", sum(sizes.values()), "B") as bar:
        for name, size in sizes.items():
            yield name
            bar.advance(size)
