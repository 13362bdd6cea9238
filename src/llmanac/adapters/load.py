"""Adapters on disk in PEFT's layout: adapter_config.json and adapter_model.safetensors.

    save_adapter(transform, folder);  transform = load_adapter(model, folder)

What PEFT wrote is read, and PEFT reads what is written here, for its types LORA (rsLoRA and DoRA too), PREFIX_TUNING
and PROMPT_TUNING. A field that asks for what is not built here is refused by name, never dropped. Files are untrusted:
shapes are compared with the model before memory is taken. llmanac.json next to them has the checksum of the tensors,
and those of the model where its folder has them: an adapter of weights that have changed since is said to be so.
"""

from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from llmanac.adapters._config import AdapterFiles
from llmanac.adapters._peft import read_lora, write_lora
from llmanac.adapters._soft_prompt import MOST, NAME, SoftPromptTransform
from llmanac.adapters._transform import Transform
from llmanac.adapters.lora import LoRA
from llmanac.adapters.prefix import PrefixTuning
from llmanac.core import files
from llmanac.core.errors import CheckpointError, SpecError, shown
from llmanac.core.progress import say_once
from llmanac.core.spec import make_method
from llmanac.core.types import capabilities
from llmanac.models.card import TAG, first_card
from llmanac.models.folder import RECORD, SUMS, read_sums, read_table, sums_of
from llmanac.models.lm import TrainedModel
from llmanac.models.locate import ADAPTER as CONFIG
from llmanac.models.locate import say_stopped
from llmanac.models.weights import Weights, some

WEIGHTS = "adapter_model.safetensors"
SOFT_PROMPTS = {"PREFIX_TUNING": "prefix", "PROMPT_TUNING": "prompt"}
BASE = "base_sha256"  # of llmanac.json
EMBEDDINGS = "prompt_embeddings"
LEAD_FIELDS = {
    "num_virtual_tokens", "token_dim", "num_attention_heads", "num_layers", "num_transformer_submodules",
    "init_weights", "encoder_hidden_size", "prefix_projection", "prompt_tuning_init", "prompt_tuning_init_text",
    "tokenizer_kwargs", "tokenizer_name_or_path",
}  # fmt: skip

CARD_TEXT = "Written by llmanac: `llmanac generate FOLDER` uses it, `llmanac merge FOLDER` writes one model."


def save_adapter(transform: Transform, folder: str | Path, *, base: str | None = None) -> Path:
    """Write an applied Transform; returns the folder.

    Args:
        base: path or name of the model that it belongs to; by default where that was loaded from.

    Raises:
        SpecError: the Transform is not applied to a model, or has no form in PEFT.
        LlmanacError: the disk refuses.
    """
    model: Any = transform.model
    if model is None:
        raise SpecError("adapter: is not applied to a model; save it before it is removed or merged")
    if isinstance(transform, LoRA):
        config, tensors = write_lora(transform, model)
    elif isinstance(transform, SoftPromptTransform):
        config, tensors = _write_soft_prompt(transform, model)
    else:
        raise SpecError(f"adapter: {transform.spec.name} has no form in PEFT's files")
    origin = model.origin if isinstance(model, TrainedModel) else None
    config = {
        "base_model_name_or_path": base or origin, "inference_mode": True,
        "task_type": "SEQ_2_SEQ_LM" if capabilities(model).reads_source else "CAUSAL_LM", **config,
    }  # fmt: skip
    path = Path(folder)
    data = to_bytes({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, {"format": "pt"})
    try:  # without it a folder is no adapter: old and new files are never mixed
        (path / CONFIG).unlink(missing_ok=True)
    except OSError as error:
        raise files.refused(error, path) from error
    files.write_bytes(path / WEIGHTS, data)
    record = read_table(path / RECORD) if (path / RECORD).exists() else {}  # of a model in the same folder
    sums = {**read_sums(path), **sums_of(path, [WEIGHTS])}
    files.write_json(path / RECORD, {**record, SUMS: sums, BASE: read_sums(Path(origin)) if origin else {}})
    if not (path / "config.json").exists():  # a model's folder has a card of its own
        first_card(path, f"{transform.spec.name} adapter", CARD_TEXT, config["base_model_name_or_path"],
                   library_name="peft", tags=[TAG, transform.spec.name])  # fmt: skip
    files.write_json(path / CONFIG, config)
    return path


def load_adapter(model: nn.Module, folder: str | Path) -> Transform:
    """Apply the adapter of a folder to a model; returns the Transform.

    Raises:
        CheckpointError: a file that is missing or damaged, a type or a field that is not built here, or tensors that
            do not fit the model; the message names which. The model is then as before.
        SpecError: the model has no place for it.
    """
    path = Path(folder)
    config = read_table(path / CONFIG)
    kind = config.get("peft_type")
    if not isinstance(kind, str) or (kind != "LORA" and kind not in SOFT_PROMPTS):
        known = ", ".join(("LORA", *SOFT_PROMPTS))
        raise CheckpointError(f"{path / CONFIG}: peft_type is {shown(kind)}; this llmanac reads {known}")
    if not (path / WEIGHTS).exists() and (path / "adapter_model.bin").exists():
        raise CheckpointError(f"{path}: holds a pickle, adapter_model.bin; convert it to {WEIGHTS}")
    adapter = AdapterFiles(path / CONFIG, config, Weights(path, file=WEIGHTS))
    say_stopped(path)
    if isinstance(model, TrainedModel) and model.origin and (path / RECORD).exists():
        before, now = read_table(path / RECORD).get(BASE), read_sums(Path(model.origin))
        if before and now and before != now:
            known = "unless these are the same in fewer bits, tune that model again"
            say_once(f"note: {path}: was trained on other weights than {model.origin} has now: {known}")
    return read_lora(model, adapter) if kind == "LORA" else _read_soft_prompt(model, adapter, SOFT_PROMPTS[kind])


def _write_soft_prompt(transform: SoftPromptTransform, model: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    with torch.no_grad():
        rows = transform.modules[NAME]()
    config: dict[str, Any] = {"num_virtual_tokens": transform.tokens, "num_transformer_submodules": 1}
    if isinstance(transform, PrefixTuning):
        rows = rows[:, transform.columns().argsort()]
        held = [shapes for shapes in transform.shapes if shapes]
        heads = held[0][0][0]
        config |= {
            "peft_type": "PREFIX_TUNING", "num_layers": len(held), "num_attention_heads": heads,
            "token_dim": rows.shape[1] // (2 * len(held)), "encoder_hidden_size": rows.shape[1] // (2 * len(held)),
            "prefix_projection": False,
        }  # fmt: skip
    else:
        shapes = [block.mixers[0].head_shape(model.spec.dim) for block in model.spec.blocks if block.mixers]
        config |= {
            "peft_type": "PROMPT_TUNING", "num_layers": model.spec.layers, "token_dim": rows.shape[1],
            "num_attention_heads": next((shape[0] for shape in shapes if shape), 1), "prompt_tuning_init": "RANDOM",
        }  # fmt: skip
    return config, {EMBEDDINGS: rows}


def _read_soft_prompt(model: Any, adapter: AdapterFiles, name: str) -> Transform:
    adapter.check_fields(LEAD_FIELDS)
    tokens = adapter.number("num_virtual_tokens", most=MOST)
    if adapter.number("num_transformer_submodules", 1) != 1:
        raise adapter.error("num_transformer_submodules", "an adapter of an encoder-decoder is not built")
    weights = adapter.weights
    if set(weights.entries) != {EMBEDDINGS}:
        raise CheckpointError(f"{weights.folder / WEIGHTS}: holds {some(weights.entries)}, expected {EMBEDDINGS} alone")
    entry = weights.entry(EMBEDDINGS)
    if entry.shape[0] != tokens:
        raise adapter.error("num_virtual_tokens", f"{WEIGHTS} holds {entry.shape[0]:,}")
    transform: Any = make_method("adapter", {"name": name, "tokens": tokens, "start": "normal"}).build()
    transform.apply(model)
    own = transform.modules[NAME].weight
    try:
        if entry.shape != tuple(own.shape):
            raise CheckpointError(
                f"{entry.path}: {EMBEDDINGS} is {entry.shape}, this model takes {tuple(own.shape)} for {tokens} tokens"
                f"{adapter.base}"
            )
        rows = weights.take(EMBEDDINGS).to(own)
        rows = rows[:, transform.columns()] if isinstance(transform, PrefixTuning) else rows
        try:
            transform.load_state({f"{NAME}.weight": rows})
        except CheckpointError as error:
            raise CheckpointError(error, place=entry.path) from error
    except CheckpointError:
        transform.remove()
        raise
    return cast(Transform, transform)
