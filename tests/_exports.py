"""Small tuned models, their faithful exports, and the same files with one thing changed."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _small_models import block, randomise, transformer

from llmanac.kernels.gguf import GGUF
from llmanac.kernels.gguf.blocks import KINDS
from llmanac.kernels.gguf.file import Packable, write
from llmanac.models.gguf.write import export_gguf
from llmanac.models.save import export_model
from llmanac.tokenizers.load import train_tokenizer

TEXT = "the cat sat on the mat, and the dog didn't: it's 12 or 345 of them. What is it? It is a day in the week. " * 4
MARKS = ("<s>", "</s>", "<|user|>", "<|assistant|>")
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<|assistant|>{% generation %}"
    "{{ message['content'] }}</s>{% endgeneration %}"
    "{% else %}<|user|>{{ message['role'] }}: {{ message['content'] }}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def words(
    *, adds_bos: bool = True, pattern: str = "gpt2", vocab_size: int = 384, template: str | None = TEMPLATE
) -> Any:
    """A byte-level BPE tokenizer with a chat template."""
    made = train_tokenizer("bpe", [TEXT], vocab_size=vocab_size, pattern=pattern, special_tokens=MARKS)
    marks = made.special_tokens
    made.bos_id, made.eos_id, made.pad_id = marks["<s>"], marks["</s>"], None
    made.adds_bos, made.chat_template = adds_bos, template
    return made


def model(tokenizer: Any, *, dim: int = 64, seed: int = 0, std: float | None = None, **choices: Any) -> Any:
    """A Llama-shaped model of two layers; `std` is small enough that 4 bits leave its answers."""
    blocks = block({"name": "multi-head", "heads": 4, "kv_heads": 2}, {"name": "swiglu", "width": 2 * dim})
    fields = {"layers": 2, "tied": False, "blocks": blocks, "max_length": 256, "position": "rope", **choices}
    made = transformer(dtype=torch.float32, dim=dim, vocab_size=tokenizer.vocab_size, **fields)
    made = randomise(made, seed, std=std or 1 / dim**0.5)
    made.generation = {"eos_token_id": tokenizer.eos_id, "bos_token_id": tokenizer.bos_id}
    return made


def folder(place: Path, made: Any, tokenizer: Any, family: str = "llama") -> Path:
    """A model's folder."""
    export_model(made, place, family)
    tokenizer.save(place)
    return place


def gguf(place: Path, made: Any, tokenizer: Any, kind: str = "f16") -> Path:
    """A .gguf file."""
    return export_gguf(made, tokenizer, place, kind)


def changed(source: Path, target: Path, keys: dict[str, Any] | None = None, tensors: Any = None) -> Path:
    """A .gguf file with other keys (None: without it), and tensors as `tensors(name, numbers)` makes them.

    A tensor that it leaves alone (None) keeps its bytes.
    """
    file = GGUF(source)
    metadata = {key: value for key, value in {**file.metadata, **(keys or {})}.items() if value is not None}
    metadata = {key: _typed(value) for key, value in metadata.items()}
    made = {}
    for name in file.names:
        tensor = file.tensor(name)
        numbers = None if tensors is None else tensors(name, tensor.float32())
        if numbers is False:
            continue
        packed = partial(np.array, tensor.data) if numbers is None else partial(_packed, tensor.kind, numbers)
        made[name] = Packable(tensor.kind, tensor.shape, packed)
    with target.open("wb") as handle:
        write(handle, metadata, made)
    return target


def _packed(kind: str, numbers: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return KINDS[kind].packed(numbers.astype(np.float32), None)


def _typed(value: Any) -> Any:
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return np.uint32(value)
    return np.float32(value) if isinstance(value, float) else value


def edited(place: Path, **values: Any) -> None:
    """Change a JSON table; None takes a key out."""
    table = {**json.loads(place.read_text()), **values}
    place.write_text(json.dumps({key: value for key, value in table.items() if value is not None}))
