"""Fine-tuning: a language model with a classification head, trained on pairs of a text and its label.

    h = LM(start, x_1 ... x_n) (n + 1, D)        z = h_n, or the mean of h        s = z W^T      W (C, D)

The model has already learned what words mean and how they combine from text without labels; the labelled pairs only
have to say which of it matters. Every weight moves (`trained = "all"`), or only the head (`"head"`: a linear probe, for
which the model is a fixed feature extractor). A causal model has read all of the text only at its last token, so `pool`
is "last" by default. Any language model with hidden states works.

Papers: Radford et al. 2018, section 3.2; Howard & Ruder 2018 (https://arxiv.org/abs/1801.06146).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from llmanac.core.errors import CheckpointError, SpecError
from llmanac.core.ranges import COUNT, within
from llmanac.core.rng import parameter_generator
from llmanac.core.types import HIDDEN, Batch
from llmanac.data.examples import Examples, batch_of
from llmanac.models.classifiers import ClassifierSpec
from llmanac.models.classifiers._base import (
    Classifier,
    Training,
    check_texts,
    need,
    open_model,
    read_model,
    start_id,
    write_model,
)
from llmanac.models.classifiers.load import WEIGHTS, read_tensors
from llmanac.models.layers import Linear

CARD = {
    "title": "Classification by fine-tuning",
    "paper": "Radford et al. 2018; Howard & Ruder 2018, arXiv:1801.06146",
    "reference": "a plain PyTorch loop: the same losses; transformers' LlamaForSequenceClassification: the same scores",
}

TOKENS = 8192  # tokens scored at a time
LEAST_STEPS = 60


@dataclass(frozen=True, kw_only=True)
class Spec(ClassifierSpec):
    """Choices of fine-tuning.

    Attributes:
        path: of the language model's folder (with its tokenizer), where `build` is not given the objects.
        trained: every weight, or the head alone. pool: which hidden state represents the text.
        length: tokens of a text that are read; a longer one is cut.
        epochs, batch, lr, weight_decay: of training.
    """

    path: str | None = None
    trained: Literal["all", "head"] = "all"
    pool: Literal["last", "mean"] = "last"
    length: int = 256
    epochs: int = 3
    batch: int = 32
    lr: float = 3e-4
    weight_decay: float = 0.01

    ranges = within(COUNT, "length epochs batch")

    def build(self, *args: Any, model: Any = None, tokenizer: Any = None, **dims: Any) -> FineTuning:
        """A classifier on this language model, which is trained in place."""
        dtype = "float32" if self.trained == "all" else None
        return FineTuning(self, *open_model(model, tokenizer, self.path, dtype)[:2])


class Headed(nn.Module):
    """A language model and a head: ids (B, T) with lengths (B,) -> scores (B, C)."""

    def __init__(self, lm: Any, outputs: int, dim: int, pool: str, trained: str) -> None:
        super().__init__()
        self.lm, self.pool, self.trained = lm, pool, trained
        self.head = Linear(dim, outputs, std=0.02)
        for parameter in lm.parameters():
            parameter.requires_grad_(trained == "all")

    @property
    def vocab_size(self) -> int:
        """The language model's: its embedding is then trained as one."""
        return int(self.lm.vocab_size)

    def forward(self, batch: Batch) -> Tensor:
        """Scores (B, C)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.trained == "all"):
            hidden = hidden_states(self.lm, Batch(ids=batch.ids, lengths=batch.lengths))
        scores: Tensor = self.head(self.pooled(hidden, batch.lengths))
        return scores

    def pooled(self, hidden: Tensor, lengths: Tensor | None) -> Tensor:
        """(B, T, D) -> (B, D): the last real token's state, or the mean of the real ones."""
        if lengths is None:
            return hidden[:, -1] if self.pool == "last" else hidden.mean(1)
        if self.pool == "last":
            return hidden[torch.arange(len(hidden), device=hidden.device), lengths - 1]
        real = torch.arange(hidden.shape[1], device=hidden.device)[None] < lengths[:, None]
        return (hidden * real[..., None]).sum(1) / lengths[:, None].to(hidden.dtype)


def hidden_states(lm: Any, batch: Batch) -> Tensor:
    """(B, T, D). Raises SpecError for a language model that has none (an n-gram model, say)."""
    hidden = lm.forward(batch, want=HIDDEN).hidden
    if hidden is None:
        raise SpecError(f"model: {type(lm).__name__} has no hidden states to put a head on; use prompting with it")
    return hidden


class FineTuning(Classifier):
    """See the module."""

    def __init__(self, spec: Spec, model: Any, tokenizer: Any) -> None:
        super().__init__(spec)
        self.model, self.tokenizer = model, tokenizer

    def prepare(self, texts: Sequence[str], labels: Sequence[str], seed: int) -> None:
        super().prepare(texts, labels, seed)
        self.network = self._headed()
        head = self.network.head
        for name, parameter in head.named_parameters():
            head.init_parameter(name, parameter, parameter_generator(seed, f"head.{name}", tuple(parameter.shape)))

    def _headed(self) -> Headed:
        spec = self.spec
        lm = need(self.model, "fine-tuning")
        if not isinstance(lm, nn.Module):
            raise SpecError(f"model: {type(lm).__name__} has no weights to train; use prompting with it")
        with torch.no_grad():
            states = hidden_states(lm, Batch(ids=torch.tensor([[start_id(self.tokenizer)]], device=self._device())))
        network = Headed(lm, len(self.labels), states.shape[-1], spec.pool, spec.trained)
        return network.to(device=states.device, dtype=states.dtype)

    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def examples(self, texts: Sequence[str], labels: Sequence[str] | None = None) -> Examples:
        """The start token and the text's tokens, at most `length` in all."""
        spec = self.spec
        most = min(spec.length, self.model.max_length or spec.length)
        first = start_id(self.tokenizer)
        lists = []
        for text in texts:
            # a token is at least one character, so no more than these can be among the tokens that are read
            ids = self.tokenizer.encode_array(text[: 64 * most])[: most - 1]
            lists.append(np.concatenate([[first], ids]))
        return Examples.of(lists, self.classes(labels))

    def training(self, examples: int) -> Training:
        spec = self.spec
        return Training(
            loss="cross-entropy", epochs=spec.epochs, lr=spec.lr, batch=spec.batch, weight_decay=spec.weight_decay,
            least_steps=LEAST_STEPS, schedule={"name": "cosine", "warmup": 0.1, "floor": 0.0}, form="padded",
        )  # fmt: skip

    @torch.no_grad()
    def scores(self, texts: Sequence[str]) -> np.ndarray:
        """(N, C) float64. Texts of similar length are scored together."""
        self.check_fitted()
        examples = self.examples(check_texts(texts))
        out = np.zeros((len(texts), len(self.labels)))
        order = np.argsort(-examples.lengths, kind="stable")
        network, at = self.network.eval(), 0
        while at < len(order):
            rows = order[at : at + max(1, TOKENS // int(examples.lengths[order[at]]))]
            at += len(rows)
            batch = batch_of(examples.pick(rows), "padded").to(self._device())
            out[rows] = network(batch).double().cpu().numpy()
        return out

    def write(self, folder: Path) -> dict[str, Any]:
        write_model(self.model, self.tokenizer, folder)
        head = {f"head.{name}": p.detach().cpu().contiguous() for name, p in self.network.head.named_parameters()}
        save_file(head, folder / WEIGHTS)
        return {"dtype": str(self.network.head.weight.dtype).removeprefix("torch.")}

    def read(self, folder: Path, record: Mapping[str, Any]) -> None:
        self.model, self.tokenizer = read_model(folder, record)
        self.network = self._headed()
        tensors = read_tensors(folder / WEIGHTS)
        own = self.network.head.weight
        if set(tensors) != {"head.weight"} or tensors["head.weight"].shape != own.shape:
            raise CheckpointError(f"{folder / WEIGHTS}: does not hold a head of {tuple(own.shape)}")
        with torch.no_grad():
            own.copy_(tensors["head.weight"])
