"""Models from disk or from the hub, our own or of a family (Llama, GPT-2), without a pickle."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from llmanac.core import files
from llmanac.core.device import resolve_device, resolve_dtype
from llmanac.core.errors import CheckpointError, DataError, SpecError
from llmanac.core.spec import make_method
from llmanac.models.families import Config, Source, family
from llmanac.models.lm import ngram
from llmanac.models.lm.transformer import Transformer
from llmanac.models.save import FORMAT_VERSION, INDEX, WEIGHTS, export_model

__all__ = ["export_model", "load_model"]

MOST_LAYERS = 10_000  # each is built before any weight is looked for
HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]


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
    folder = locate(path)
    where = device if isinstance(device, torch.device) else resolve_device(device)
    target = resolve_dtype(dtype, where)
    config_path = folder / "config.json"
    data = _read(config_path)
    kind = data.get("model_type")
    if kind == ngram.MODEL_TYPE:
        return ngram.load_pretrained(folder)  # type: ignore[return-value]
    if kind == "llmanac":
        spec, vocab_size = _own(folder)
        source: Callable[[str], Source] = Source
        ignored: tuple[str, ...] = ()
        prefix = ""
    else:
        chosen = family(str(kind), f"{config_path}: model_type")
        config = Config(data, config_path)
        try:
            spec, vocab_size = chosen.to_spec(config)
        except (SpecError, TypeError, ValueError, OverflowError) as error:
            raise CheckpointError(f"{config_path}: {error}") from error
        config.finish()
        source, ignored, prefix = chosen.source, chosen.IGNORED, getattr(chosen, "PREFIX", "")
    layers = getattr(spec, "layers", 0)
    if layers > MOST_LAYERS:
        raise CheckpointError(f"{config_path}: {layers:,} layers are more than {MOST_LAYERS:,}; the file is damaged")
    try:
        with torch.device("meta"):
            model: Transformer = spec.build(vocab_size=vocab_size)
    except (SpecError, RuntimeError, OverflowError) as error:  # RuntimeError: sizes past what a tensor can have
        raise CheckpointError(f"{config_path}: {error}") from error
    weights = Weights(folder, ignored, prefix)
    _fill(model, weights, source, target, where)
    model.generation = _generation(folder, data)
    return model.eval()


def locate(path: str | Path) -> Path:
    """The folder of a checkpoint: the path itself, or the hub model of that name, downloaded.

    Raises:
        CheckpointError: no such folder and no such model on the hub.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        run = folder / "run.json"
        return folder / "model" if run.is_file() and (folder / "model").is_dir() else folder
    name = str(path)
    if folder.exists():
        raise CheckpointError(f"{path}: is a file; give the folder that holds config.json and model.safetensors")
    if name.count("/") > 1 or name.startswith((".", "/", "~")) or (os.sep != "/" and os.sep in name):
        raise CheckpointError(f"{path}: no such folder")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=HUB_FILES))
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: no such folder, and the hub did not give it ({reason})") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        data = files.read_json(path)
    except DataError as error:
        raise CheckpointError(str(error)) from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: expected a table, got {type(data).__name__}")
    return data


def _own(folder: Path) -> tuple[Any, int]:
    """Spec and vocabulary size of a model that no family holds."""
    path = folder / "llmanac.json"
    record = _read(path)
    version = record.get("format_version")
    if version != FORMAT_VERSION:
        raise CheckpointError(f"{path}: format_version is {version!r}, this llmanac reads {FORMAT_VERSION}")
    try:
        return make_method("lm", record["spec"], "spec"), int(record["vocab_size"])
    except KeyError as error:
        raise CheckpointError(f"{path}: {error.args[0]} is missing") from None
    except (SpecError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def _generation(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """generation_config.json, with the special ids that only config.json may have."""
    tokens = {k: config[k] for k in ("bos_token_id", "eos_token_id", "pad_token_id") if config.get(k) is not None}
    path = folder / "generation_config.json"
    own = _read(path) if path.is_file() else {}
    found = {**tokens, **{k: v for k, v in own.items() if v is not None}}
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        ids = found.get(key, [])
        if not all(type(i) is int for i in (ids if isinstance(ids, list) else [ids])):
            raise CheckpointError(f"{folder}: {key} is {ids!r}, expected the id of a token")
    return found


class Weights:
    """The tensors of a folder, by name, read one at a time."""

    def __init__(self, folder: Path, ignored: tuple[str, ...], prefix: str) -> None:
        self.folder = folder
        self._files: dict[str, Path] = {}
        self._handles: dict[Path, Any] = {}
        index = folder / INDEX
        table: Any = {}
        if index.is_file():
            table = _read(index).get("weight_map")
            if not isinstance(table, dict):
                raise CheckpointError(f"{index}: weight_map is missing")
            for name, file in table.items():
                if not isinstance(file, str) or not file or Path(file).name != file:
                    raise CheckpointError(f"{index}: {name} is in {file!r}, which is no file of this folder")
        for path in sorted({folder / name for name in table.values()}) or [folder / WEIGHTS]:
            for name in self._open(path).keys():  # noqa: SIM118 - a safetensors handle is no mapping
                if not name.endswith(ignored):
                    self._files[name] = path
        lost = [name for name in table if name not in self._files and not name.endswith(ignored)]
        if lost:
            raise CheckpointError(f"{index}: names {_some(lost)}, which its files do not hold")
        # the hub's GPT-2 files leave out the prefix that transformers writes
        bare = bool(prefix) and not any(name.startswith(prefix) for name in self._files)
        self.prefix = prefix if bare else ""
        self.unused = set(self._files)

    def _open(self, path: Path) -> Any:
        if path not in self._handles:
            try:
                self._handles[path] = safe_open(path, framework="pt")
            except FileNotFoundError:
                raise CheckpointError(f"{path}: no such file") from None
            except (SafetensorError, OSError) as error:
                raise CheckpointError(f"{path}: not a whole safetensors file ({error})") from error
        return self._handles[path]

    def name(self, name: str) -> str:
        """A family's name as this file spells it."""
        return name.removeprefix(self.prefix) if self.prefix else name

    def __contains__(self, name: str) -> bool:
        return self.name(name) in self._files

    def take(self, name: str) -> Tensor:
        """The tensor of this name, which then counts as used."""
        spelled = self.name(name)
        self.unused.discard(spelled)
        path = self._files[spelled]
        tensor: Tensor = self._open(path).get_tensor(spelled)
        return tensor


def _fill(
    model: Transformer, weights: Weights, source: Callable[[str], Source], dtype: torch.dtype, device: torch.device
) -> None:
    """Give every parameter of a model on the meta device its values."""
    wanted = {name: (source(name), parameter) for name, parameter in model.named_parameters()}
    missing = sorted({s.name for s, _ in wanted.values() if s.name not in weights})
    if missing:
        raise CheckpointError(f"{weights.folder}: {len(missing)} weights are missing: {_some(missing)}")
    state = {}
    for name, (where, parameter) in wanted.items():
        tensor = where.take(weights.take(where.name))
        if tensor.shape != parameter.shape:
            raise CheckpointError(
                f"{weights.folder}: {where.name} gives {tuple(tensor.shape)} for {name}, config.json asks for "
                f"{tuple(parameter.shape)}"
            )
        # a copy of its own: a slice of a fused matrix, or of a mapped file, would keep all of it alive
        state[name] = tensor.to(device=device, dtype=dtype, copy=True).contiguous()
    head = source("lm_head.weight").name
    tied = getattr(model.spec, "tied", False)
    if tied and head in weights:
        _check_tied(weights.take(head), state["model.embed_tokens.weight"], weights.folder)
    if weights.unused:
        unused = sorted(weights.unused)
        raise CheckpointError(f"{weights.folder}: {len(unused)} weights have no place in the model: {_some(unused)}")
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


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
