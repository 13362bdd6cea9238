"""Faults in a model's folder or .gguf file: what its config, tokenizer and weights say of each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from llmanac.core.errors import TokenizerError
from llmanac.core.files import read_table
from llmanac.models.gguf.read import PackedWeights
from llmanac.recipes.linting.rules import Rule, rules_of
from llmanac.tokenizers.load import load_tokenizer

RULES: list[Rule] = []
rule = rules_of(RULES)
HEAD, EMBEDDING = "lm_head.weight", "embed_tokens.weight"
LEFTOVER = ("_orig_mod.", "base_layer.", ".lora_A", ".lora_B", "modules_to_save.", "base_model.model.", "module.")
CHAT = [{"role": "user", "content": "Yes?"}, {"role": "assistant", "content": "Yes."}]


@dataclass
class Model:
    """A model as it is stored.

    Attributes:
        places: of its tensors by name; take: gives one of them. tokenizer: None where there is none that can be read.
        missing: files or tensors that an index names and that are not there.
    """

    path: Path
    config: Mapping[str, Any]
    generation: Mapping[str, Any]
    places: Mapping[str, Any]
    take: Callable[[str], Tensor]
    tokenizer: Any
    missing: list[str]

    @cached_property
    def embedding(self) -> str | None:
        """The name of the embedding."""
        return next((name for name in self.places if name.endswith((EMBEDDING, "wte.weight"))), None)

    @cached_property
    def size(self) -> int | None:
        """Rows of the embedding."""
        return None if self.embedding is None else len(self.take(self.embedding))


def opened(where: str, words: str) -> Model:
    """What is stored in a folder or .gguf file; weights are read one at a time, when a rule asks."""
    try:
        tokenizer = load_tokenizer(words)
    except TokenizerError:
        tokenizer = None
    path = Path(where)
    if path.is_file():
        packed = PackedWeights(path)
        return Model(path, packed.config, packed.config, packed.entries, packed.take, tokenizer, [])
    tables = [read_table(path / name) if (path / name).is_file() else {} for name in
              ("config.json", "generation_config.json", "model.safetensors.index.json")]  # fmt: skip
    config, generation, index = tables
    places, missing = tensors_in(path, index.get("weight_map") or {})

    def take(name: str) -> Tensor:
        with safe_open(places[name], framework="pt") as file:
            found: Tensor = file.get_tensor(name)
            return found

    return Model(path, config, generation, places, take, tokenizer, missing)


def tensors_in(
    folder: Path, index: Mapping[str, str], pattern: str = "*.safetensors"
) -> tuple[dict[str, Path], list[str]]:
    """`(file of each tensor, what an index names in vain)`."""
    places: dict[str, Path] = {}
    for file in sorted(folder.glob(pattern)):
        with safe_open(file, framework="pt") as found:
            places |= dict.fromkeys(found.keys(), file)
    return places, [name for name in index if name not in places]


def _ends(tokenizer: Any) -> int | None:
    """The special token with which the template ends an answer."""
    try:
        ids, mask = tokenizer.encode_chat(CHAT)
    except TokenizerError:
        return None
    special = set(tokenizer.special_tokens.values())
    return next((id for id, own in zip(ids[::-1], mask[::-1], strict=True) if own and id in special), None)


def _listed(value: Any) -> list[int]:
    return [] if value is None else value if isinstance(value, list) else [value]


@rule("end-token-differs", "QwenLM/Qwen3#927")
def _end_differs(model: Model) -> Iterator[str]:
    stops = _listed(model.generation.get("eos_token_id", model.config.get("eos_token_id")))
    end = _ends(model.tokenizer) if getattr(model.tokenizer, "chat_template", None) else None
    if end is not None and stops and end not in stops:
        yield (
            f"{model.path}: its chat template ends answers with token {end} ({model.tokenizer.decode([end])}), and "
            f"generation stops at {stops}, so that it goes on; add {end} to eos_token_id of generation_config.json"
        )


@rule("no-end-mark", "unslothai/unsloth#416")
def _no_end(model: Model) -> Iterator[str]:
    tokenizer = model.tokenizer
    if getattr(tokenizer, "chat_template", None) and tokenizer.special_tokens and _ends(tokenizer) is None:
        yield (
            f"{model.path}: its chat template puts no special token after an answer, so that nothing teaches the model "
            "to stop; write the end token into the template"
        )


@rule("tied-head-apart", "huggingface/peft#2777")
def _tied(model: Model) -> Iterator[str]:
    if model.embedding is None:
        return
    tied, there = model.config.get("tie_word_embeddings"), HEAD in model.places
    if tied and there:
        head, embedding = model.take(HEAD), model.take(model.embedding)
        if head.shape != embedding.shape or not bool((head == embedding).all()):
            yield (
                f"{model.path}: config.json ties the head to the embedding, and the file has another {HEAD}, which is "
                "thrown away at loading; set tie_word_embeddings to false"
            )
    elif tied is False and not there and model.config.get("model_type") in ("llama", "qwen2", "qwen3", "mistral"):
        yield (
            f"{model.path}: config.json says that the head is not tied, and no file has {HEAD}: readers draw it at "
            "random; set tie_word_embeddings to true, or save the head"
        )


@rule("more-tokens-than-rows", "ggml-org/llama.cpp#5910")
def _rows(model: Model) -> Iterator[str]:
    if model.tokenizer is not None and model.size is not None and model.tokenizer.vocab_size > model.size:
        yield (
            f"{model.path}: the tokenizer has {model.tokenizer.vocab_size:,} tokens, the embedding {model.size:,} rows;"
            " resize the embedding, or remove the added tokens"
        )


@rule("untrained-token", "huggingface/peft#334")
def _untrained(model: Model) -> Iterator[str]:
    if model.embedding is None or not getattr(model.tokenizer, "chat_template", None):
        return
    try:
        used = set(model.tokenizer.encode_chat(CHAT)[0]) & set(model.tokenizer.special_tokens.values())
    except TokenizerError:
        return
    table = model.take(model.embedding).float()
    ids = sorted(id for id in used if id < len(table))
    mean = table.mean(0)
    zero = [id for id in ids if float(table[id].abs().max()) == 0 or bool((table[id] - mean).abs().max() < 1e-7)]
    same = [b for a, b in pairwise(ids) if bool((table[a] == table[b]).all())]
    if found := sorted({*zero, *same}):
        yield (
            f"{model.path}: the chat template writes token {found[0]} ({model.tokenizer.decode([found[0]])}), whose "
            "embedding was never trained; train the embedding of added tokens, or use tokens that the model knows"
        )


@rule("not-finite", "ggml-org/llama.cpp#13722")
def _finite(model: Model) -> Iterator[str]:
    for name in model.places:
        if not bool(model.take(name).float().sum().isfinite()) and not bool(model.take(name).isfinite().all()):
            yield f"{model.path}: {name} holds NaN or infinite numbers; take an earlier checkpoint, or save as bfloat16"
            return


@rule("leftover-names", "pytorch/pytorch#101107")
def _leftover(model: Model) -> Iterator[str]:
    left = [name for name in model.places if any(part in f".{name}" for part in LEFTOVER) and "router" not in name]
    if left:
        yield (
            f"{model.path}: {len(left)} tensors have names of a wrapper or an adapter ({left[0]}), which readers skip "
            "and draw at random; unwrap or merge the model before it is saved"
        )


@rule("index-names-missing", "huggingface/transformers#34068")
def _missing(model: Model) -> Iterator[str]:
    if model.missing:
        count, first = len(model.missing), model.missing[0]
        yield f"{model.path}: its index names {count} tensors that no file has ({first}); save or copy all shards"


@rule("beyond-its-config", "huggingface/transformers#32551")
def _vocabulary_size(model: Model) -> Iterator[str]:
    said = model.config.get("vocab_size")
    if isinstance(said, int) and model.size is not None and said != model.size:
        yield (
            f"{model.path}: config.json says vocab_size {said:,}, the embedding has {model.size:,} rows; write the "
            "number of rows into config.json"
        )
