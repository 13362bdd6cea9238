"""Faults in an adapter's folder in PEFT's layout, and in the state that a trainer keeps with a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from llmanac.adapters.load import CONFIG, WEIGHTS, load_adapter
from llmanac.core.errors import CheckpointError, LlmanacError, TokenizerError
from llmanac.core.files import read_table
from llmanac.models.load import load_model
from llmanac.models.locate import locate
from llmanac.recipes.linting.models import tensors_in
from llmanac.recipes.linting.rules import Rule, rules_of
from llmanac.tokenizers.load import load_tokenizer

RULES: list[Rule] = []
OF_CHECKPOINTS: list[Rule] = []
rule, of_checkpoint = rules_of(RULES), rules_of(OF_CHECKPOINTS)
STATE = "trainer_state.json"
A, B = ".lora_A.weight", ".lora_B.weight"
EMBEDDINGS = ("embed_tokens", "lm_head", "wte")


@dataclass
class Adapter:
    """An adapter as it is stored; base: the folder of its model, where it is on this machine."""

    path: Path
    config: Mapping[str, Any]
    places: Mapping[str, Path]
    base: str | None

    def take(self, name: str) -> Tensor:
        """A tensor."""
        with safe_open(self.places[name], framework="pt") as file:
            found: Tensor = file.get_tensor(name)
            return found

    @cached_property
    def tokenizer(self) -> Any:
        """The one that was saved with it; None where there is none."""
        try:
            return load_tokenizer(self.path)
        except TokenizerError:
            return None

    @cached_property
    def of_base(self) -> Mapping[str, Any]:
        """config.json of the base; empty where it is not on this machine."""
        place = Path(locate(self.base)[0]) / "config.json" if self.base else None
        return read_table(place) if place is not None and place.is_file() else {}

    @property
    def trained(self) -> list[str]:
        """Names that are said to be trained whole, or as tokens."""
        return [
            *(self.config.get("modules_to_save") or ()),
            *map(str, self.config.get("trainable_token_indices") or ()),
        ]


@dataclass(frozen=True)
class Checkpoint:
    """A folder that a trainer wrote, with the state in it."""

    path: Path
    state: Any


def opened(path: Path, base: str | None) -> Adapter:
    """The adapter of a folder, with its base where that is named and on this machine."""
    config = read_table(path / CONFIG, error=CheckpointError)
    named = base or config.get("base_model_name_or_path")
    there = isinstance(named, str) and Path(named).exists()
    return Adapter(path, config, tensors_in(path, {}, WEIGHTS)[0], named if there else None)


@rule("adapter-empty", "huggingface/peft#2500")
def _empty(adapter: Adapter) -> Iterator[str]:
    none = [name for name in adapter.places if not adapter.take(name).numel()]
    if not adapter.places or none:
        what = f"{none[0]} has no numbers" if none else "has no tensors"
        yield f"{adapter.path / WEIGHTS}: {what} (sharded weights that were not gathered); save from all processes"


@rule("adapter-untrained", "huggingface/peft#1678")
def _untrained(adapter: Adapter) -> Iterator[str]:
    second = [name for name in adapter.places if name.endswith(B)]
    if second and all(not bool(adapter.take(name).any()) for name in second):
        yield f"{adapter.path / WEIGHTS}: all lora_B are zero: it changes nothing; was it saved before training"


@rule("adapter-not-finite", "ggml-org/llama.cpp#13722")
def _finite(adapter: Adapter) -> Iterator[str]:
    wrong = [name for name in adapter.places if not bool(adapter.take(name).isfinite().all())]
    if wrong:
        yield f"{adapter.path / WEIGHTS}: {wrong[0]} holds NaN or infinite numbers; take an earlier checkpoint"


@rule("adapter-rank", "huggingface/peft#1323")
def _rank(adapter: Adapter) -> Iterator[str]:
    rank, patterns = adapter.config.get("r"), adapter.config.get("rank_pattern")
    ranks = {len(adapter.take(name)) for name in adapter.places if name.endswith(A)} - {0}
    if isinstance(rank, int) and ranks and not patterns and ranks != {rank}:
        yield f"{adapter.path / CONFIG}: r is {rank}, and the tensors have rank {min(ranks)}; they are of two runs"


@rule("adapter-halves", "huggingface/peft#2699")
def _halves(adapter: Adapter) -> Iterator[str]:
    names = set(adapter.places)
    alone = [name for name in names if (name.endswith(A) and name.replace(A, B) not in names)
             or (name.endswith(B) and name.replace(B, A) not in names)]  # fmt: skip
    if alone:
        yield f"{adapter.path / WEIGHTS}: {min(alone)} lacks its other half, which loads as random or zero; save again"


@rule("adapter-targets", "unslothai/unsloth#9331")
def _targets(adapter: Adapter) -> Iterator[str]:
    wanted = adapter.config.get("target_modules")
    if isinstance(wanted, list) and adapter.places:
        lost = [end for end in wanted if not any(f".{end}." in f".{name}" for name in adapter.places)]
        if lost:
            yield f"{adapter.path / CONFIG}: target_modules names {lost[0]}, of which no tensor is stored; save again"


@rule("adapter-does-not-fit", "huggingface/peft#2118")
def _fits(adapter: Adapter) -> Iterator[str]:
    if adapter.base is None or not adapter.places:
        return
    try:
        load_adapter(load_model(locate(adapter.base)[0], device="cpu"), adapter.path)
    except LlmanacError as error:
        yield f"{adapter.path}: does not fit {adapter.base} ({error})"


@rule("added-tokens-untrained", "hiyouga/LlamaFactory#6749")
def _added(adapter: Adapter) -> Iterator[str]:
    size = adapter.of_base.get("vocab_size")
    trained = any(end in name for name in [*adapter.trained, *adapter.places] for end in EMBEDDINGS)
    if adapter.tokenizer is not None and isinstance(size, int) and adapter.tokenizer.vocab_size > size and not trained:
        yield (
            f"{adapter.path}: its tokenizer has {adapter.tokenizer.vocab_size:,} tokens, the base {size:,}, and no "
            "embedding is stored: added tokens are drawn at random; train embed_tokens and lm_head too"
        )


@rule("tied-head-trained", "huggingface/transformers#45127")
def _tied(adapter: Adapter) -> Iterator[str]:
    whole = [end for end in adapter.trained if end in EMBEDDINGS]
    if adapter.of_base.get("tie_word_embeddings") and len(whole) == 1 and not adapter.config.get("ensure_weight_tying"):
        yield (
            f"{adapter.path / CONFIG}: {whole[0]} is trained by itself, and the base ties head and embedding: merging "
            "loses one of them; train both, or set tie_word_embeddings to false in the merged config"
        )


@rule("base-in-4-bits", "unslothai/unsloth#2374")
def _packed(adapter: Adapter) -> Iterator[str]:
    name = str(adapter.config.get("base_model_name_or_path") or "")
    if adapter.of_base.get("quantization_config") or name.lower().endswith(("-bnb-4bit", "-4bit")):
        yield (
            f"{adapter.path / CONFIG}: the base {name} is quantized, and merging into it rounds the change away; merge "
            "into the model in 16 bits (`llmanac merge --base`)"
        )


@of_checkpoint("loss-zero", "ymcui/Chinese-LLaMA-Alpaca-3#29")
def _zero(checkpoint: Checkpoint) -> Iterator[str]:
    logged = [line for line in checkpoint.state.get("log_history", ()) if "loss" in line]
    losses = [float(line["loss"]) for line in logged]
    norms = [float(line["grad_norm"]) for line in logged if line.get("grad_norm") is not None]
    where = checkpoint.path / STATE
    if losses and all(loss == 0 for loss in losses[-3:]):
        yield f"{where}: the loss is 0: no token carries loss, or the weights are NaN; look at a batch's labels"
    if any(not math.isfinite(value) for value in [*losses, *norms]):
        yield f"{where}: a loss or a gradient is not finite; train in bfloat16, or at a lower rate"


@of_checkpoint("checkpoint-without-template", "ollama/ollama#6823")
def _no_template(checkpoint: Checkpoint) -> Iterator[str]:
    try:
        tokenizer = load_tokenizer(checkpoint.path)
    except TokenizerError:
        return
    marks = any(text in tokenizer.special_tokens for text in ("<|im_start|>", "<|user|>", "<start_of_turn>"))
    if marks and tokenizer.chat_template is None:
        yield f"{checkpoint.path}: its tokenizer has tokens of chats and no chat template; copy that of the training"
