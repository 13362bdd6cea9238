"""Faults in weights: a model's folder or .gguf file, an adapter in PEFT's layout, the state that a trainer keeps.

How rules are applied to an artefact.

A rule is a function of an artefact that gives, for each thing that it finds, what a sentence is filled with.
`rules.toml` has the sentences by name, and the thread where users met the fault, as `owner/name#number`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from llmanac.adapters.load import CONFIG, WEIGHTS, load_adapter
from llmanac.core.errors import DataError, LlmanacError
from llmanac.core.files import read_table, read_toml
from llmanac.models.gguf.read import PackedWeights
from llmanac.models.load import load_model
from llmanac.models.locate import locate
from llmanac.recipes.verifying.files import HEAD, end_of_turn
from llmanac.recipes.verifying.sides import tried
from llmanac.tokenizers.load import load_tokenizer

TABLE = read_toml(Path(__file__).with_name("rules.toml"))
Fields = Iterable[Mapping[str, Any]]  # what a sentence is filled with, for each thing that was found


@dataclass(frozen=True)
class LintFinding:
    """A fault that was found: its rule's name and thread, and what was seen where."""

    name: str
    said: str
    thread: str


@dataclass
class LintedArtefact:
    """What rules read, at a path."""

    path: Path

    def at(self, found: Any, **fields: Any) -> Fields:
        """The fields of a sentence, where something was found."""
        return [{"where": self.path, **fields}] if found else []


@dataclass
class LintTable(LintedArtefact):
    """Rows of a file, by line."""

    rows: list[tuple[int, Mapping[str, Any]]]

    def at(self, found: Any, **fields: Any) -> Fields:
        """Those of a sentence on lines, where there are some: the first is named, all are counted."""
        share = f" ({len(found):,} of {len(self.rows):,} rows)" if found else ""
        return [{"where": f"{self.path}:{found[0]}", "share": share, **fields}] if found else []

    def where(self, wrong: Callable[[Mapping[str, Any]], bool]) -> Fields:
        """Those of the rows of which something is so."""
        return self.at([line for line, values in self.rows if wrong(values)])


def applied(checks: Mapping[str, Callable[[Any], Fields]], artefact: Any) -> list[LintFinding]:
    """What rules say of an artefact."""
    return [
        LintFinding(
            name, f"{seen['where']}: {TABLE[name]['says'].format(**seen)}{seen.get('share', '')}", TABLE[name]["thread"]
        )
        for name, check in checks.items()
        for seen in check(artefact)
    ]


EMBEDDING = ("embed_tokens.weight", "wte.weight")
LEFTOVER = ("_orig_mod.", "base_layer.", ".lora_A", ".lora_B", "modules_to_save.", "base_model.model.", "module.")
CHAT = [{"role": "user", "content": "Yes?"}, {"role": "assistant", "content": "Yes."}]
SAME = 1e-7  # of a row and the mean of all, with which new rows are filled


@dataclass
class LintedModel(LintedArtefact):
    """A model as it is stored.

    Attributes:
        places: of its tensors by name; take: gives one of them. tokenizer: None where there is none that can be read.
    """

    config: Mapping[str, Any]
    generation: Mapping[str, Any]
    places: Mapping[str, Any]
    take: Callable[[str], Tensor]
    tokenizer: Any

    @cached_property
    def embedding(self) -> Tensor | None:
        """The embedding, where it is stored under one of the usual names."""
        name = next((name for name in self.places if name.endswith(EMBEDDING)), None)
        return None if name is None else self.take(name)

    @property
    def size(self) -> int | None:
        """Rows of the embedding."""
        return None if self.embedding is None else len(self.embedding)

    @property
    def template(self) -> str | None:
        """The chat template."""
        return None if self.tokenizer is None else self.tokenizer.chat_template

    @cached_property
    def end(self) -> int | None:
        """The special token with which the template ends an answer."""
        return end_of_turn(self.tokenizer) if self.template else None


def opened(where: str, words: str) -> LintedModel:
    """What is stored in a folder or .gguf file; weights are read one at a time, when a rule asks."""
    path, tokenizer = Path(where), tried(load_tokenizer, words)
    if path.is_file():
        packed = PackedWeights(path)
        return LintedModel(path, packed.config, packed.config, packed.entries, packed.take, tokenizer)
    names = ("config.json", "generation_config.json")
    config, generation = (read_table(path / name) if (path / name).is_file() else {} for name in names)
    return LintedModel(path, config, generation, *tensors_in(path), tokenizer)


def tensors_in(folder: Path, pattern: str = "*.safetensors") -> tuple[dict[str, Path], Callable[[str], Tensor]]:
    """`(file of each tensor, what gives one by its name)`."""
    places: dict[str, Path] = {}
    for file in sorted(folder.glob(pattern)):
        with safe_open(file, framework="pt") as found:
            places |= dict.fromkeys(found.keys(), file)

    def take(name: str) -> Tensor:
        with safe_open(places[name], framework="pt") as found:
            tensor: Tensor = found.get_tensor(name)
            return tensor

    return places, take


def _end_differs(model: LintedModel) -> Fields:
    given = model.generation.get("eos_token_id", model.config.get("eos_token_id"))
    stops = given if isinstance(given, list) else [] if given is None else [given]
    text = None if model.end is None else model.tokenizer.decode([model.end])
    return model.at(text and stops and model.end not in stops, end=model.end, text=text, stops=stops)


def _no_end(model: LintedModel) -> Fields:
    return model.at(model.template and model.tokenizer.special_tokens and model.end is None)


def _tied(model: LintedModel) -> Fields:
    if model.embedding is None or HEAD not in model.places or not model.config.get("tie_word_embeddings"):
        return []
    head = model.take(HEAD)
    return model.at(head.shape != model.embedding.shape or not bool((head == model.embedding).all()))


def _rows(model: LintedModel) -> Fields:
    tokens = 0 if model.tokenizer is None else model.tokenizer.vocab_size
    return model.at(model.size is not None and tokens > model.size, tokens=tokens, rows=model.size)


def _untrained(model: LintedModel) -> Fields:
    if model.embedding is None or model.end is None:
        return []
    used = set(model.tokenizer.encode_chat(CHAT)[0]) & set(model.tokenizer.special_tokens.values())
    table = model.embedding.float()
    ids, mean = sorted(id for id in used if id < len(table)), table.mean(0)
    fresh = [id for id in ids if not bool(table[id].any()) or bool((table[id] - mean).abs().max() < SAME)]
    fresh += [b for a, b in pairwise(ids) if bool((table[a] == table[b]).all())]
    return model.at(fresh, id=min(fresh, default=0), text=model.tokenizer.decode(fresh[:1]))


def _finite(one: LintedModel | LintedAdapter) -> Fields:
    wrong = next((name for name in one.places if not bool(one.take(name).isfinite().all())), None)
    return one.at(wrong, name=wrong)


def _leftover(model: LintedModel) -> Fields:
    left = [name for name in model.places if any(part in f".{name}" for part in LEFTOVER)]
    return model.at(left, count=len(left), name=next(iter(left), None))


MODELS = {
    "end-token-differs": _end_differs, "no-end-mark": _no_end, "tied-head-apart": _tied, "more-tokens-than-rows": _rows,
    "untrained-token": _untrained, "not-finite": _finite, "leftover-names": _leftover,
}  # fmt: skip


# --------------------------------------------------------------------------------------- adapters and checkpoints
STATE = "trainer_state.json"
A, B = ".lora_A.weight", ".lora_B.weight"
EMBEDDINGS = ("embed_tokens", "lm_head", "wte")
MARKS = ("<|im_start|>", "<|user|>", "<start_of_turn>")
LAST = 3  # logged losses that are 0


@dataclass
class LintedAdapter(LintedArtefact):
    """An adapter as it is stored; base: the folder of its model, where it is on this machine."""

    config: Mapping[str, Any]
    places: Mapping[str, Path]
    take: Callable[[str], Tensor]
    base: str | None

    @cached_property
    def of_base(self) -> Mapping[str, Any]:
        """config.json of the base; empty where it is not on this machine."""
        place = Path(locate(self.base)[0]) / "config.json" if self.base else None
        return read_table(place) if place is not None and place.is_file() else {}

    @property
    def whole(self) -> list[str]:
        """Embeddings and heads that are trained whole, or of which tokens are."""
        named = [self.config.get(key) or () for key in ("modules_to_save", "trainable_token_indices")]
        return [end for ends in named for end in ends if end in EMBEDDINGS]


def opened_adapter(path: Path, base: str | None) -> LintedAdapter:
    """The adapter of a folder, with its base where that is named and on this machine."""
    config = read_table(path / CONFIG)
    named = base or config.get("base_model_name_or_path")
    there = isinstance(named, str) and Path(named).exists()
    if base and not there:
        raise DataError(f"--model: {base}: no such file or folder")
    return LintedAdapter(path, config, *tensors_in(path, WEIGHTS), named if there else None)


def _empty(adapter: LintedAdapter) -> Fields:
    none = next((name for name in adapter.places if not adapter.take(name).numel()), None)
    return adapter.at(none or not adapter.places, what=f"{none} has no numbers" if none else "has no tensors")


def _unchanged(adapter: LintedAdapter) -> Fields:
    second = [name for name in adapter.places if name.endswith(B)]
    return adapter.at(second and all(not bool(adapter.take(name).any()) for name in second))


def _fits(adapter: LintedAdapter) -> Fields:
    if adapter.base is not None and adapter.places:
        try:
            load_adapter(load_model(locate(adapter.base)[0], device="cpu"), adapter.path)
        except LlmanacError as error:
            return adapter.at(error, base=adapter.base, error=error)
    return []


def _added(adapter: LintedAdapter) -> Fields:
    size, tokenizer = adapter.of_base.get("vocab_size"), tried(load_tokenizer, adapter.path)
    stored = adapter.whole or any(end in name for name in adapter.places for end in EMBEDDINGS)
    tokens = 0 if tokenizer is None else tokenizer.vocab_size
    return adapter.at(isinstance(size, int) and tokens > size and not stored, tokens=tokens, size=size)


def _half_tied(adapter: LintedAdapter) -> Fields:
    tied = adapter.of_base.get("tie_word_embeddings") and not adapter.config.get("ensure_weight_tying")
    return adapter.at(tied and len(adapter.whole) == 1, name=next(iter(adapter.whole), None))


def _packed(adapter: LintedAdapter) -> Fields:
    name = str(adapter.config.get("base_model_name_or_path") or "")
    return adapter.at(adapter.of_base.get("quantization_config") or name.lower().endswith("4bit"), name=name)


def _zero(checkpoint: LintedArtefact) -> Fields:
    logged = [line for line in read_table(checkpoint.path / STATE).get("log_history", ()) if "loss" in line]
    losses = [float(line["loss"]) for line in logged]
    numbers = [*losses, *(float(line["grad_norm"]) for line in logged if line.get("grad_norm") is not None)]
    zero = losses and all(loss == 0 for loss in losses[-LAST:])
    return checkpoint.at(zero or not all(map(math.isfinite, numbers)))


def _no_template(checkpoint: LintedArtefact) -> Fields:
    tokenizer = tried(load_tokenizer, checkpoint.path)
    without = tokenizer is not None and tokenizer.chat_template is None
    return checkpoint.at(without and any(text in tokenizer.special_tokens for text in MARKS))


ADAPTERS = {
    "adapter-empty": _empty, "adapter-untrained": _unchanged, "adapter-not-finite": _finite,
    "adapter-does-not-fit": _fits, "added-tokens-untrained": _added, "tied-head-trained": _half_tied,
    "base-in-4-bits": _packed,
}  # fmt: skip
CHECKPOINTS = {"loss-zero": _zero, "checkpoint-without-template": _no_template}
