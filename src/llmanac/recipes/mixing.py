"""How a mixture of domains changes what a small model learns: training on one, and DoReMi's weights.

`doremi` trains a reference model on the domains as they are, then a proxy whose weights on its domains' losses grow
where its loss is still above the reference's (`data/mixtures/doremi.py` has the formula). Both use the one training
loop: the proxy is an objective like any other, and a resumed run keeps its weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from llmanac.core import files
from llmanac.core.errors import DataError, SpecError
from llmanac.core.outputs import check_pages
from llmanac.core.spec import make_method
from llmanac.core.types import IGNORE, Batch, LossSum, SourceState
from llmanac.data.documents import Document
from llmanac.data.mixtures import Domain
from llmanac.data.mixtures.doremi import reweighted
from llmanac.data.pack import MixedRows, PackedStream
from llmanac.data.pipeline.finish import load_manifest
from llmanac.data.pipeline.records import read_output
from llmanac.data.split import split
from llmanac.data.tokens import TokenDataset
from llmanac.evaluate.bits_per_byte import score_texts
from llmanac.objectives import NextToken, collate_packed
from llmanac.tokenizers.load import train_tokenizer
from llmanac.train import TrainSpec
from llmanac.train.loop import train


@dataclass(frozen=True)
class Setting:
    """The size of the models, and how long they train."""

    dim: int = 64
    layers: int = 2
    heads: int = 4
    vocab_size: int = 2048
    length: int = 128
    batch_tokens: int = 1024
    steps: int = 300
    learning_rate: float = 3e-3
    held_out_bytes: int = 60_000  # of each domain, at most

    def model(self, vocab_size: int) -> Any:
        """An untrained model."""
        block = {"name": "pre-norm", "mixer": {"name": "multi-head", "heads": self.heads}, "ffn": "swiglu"}
        spec = {"name": "transformer", "dim": self.dim, "layers": self.layers, "max_length": self.length}
        return make_method("lm", {**spec, "blocks": [block]}).build(vocab_size=vocab_size)

    def training(self) -> TrainSpec:
        """How it is trained; nothing is left to be planned, so that all runs are alike."""
        return TrainSpec(
            steps=self.steps, batch_tokens=self.batch_tokens, length=self.length, dtype="float32", compile="never",
            micro_batch=self.batch_tokens // self.length, attention="sdpa", keep=1,
            optimizer=make_method("optimizer", {"name": "adamw", "lr": self.learning_rate}),
        )  # fmt: skip


@dataclass(frozen=True)
class Domains:
    """Token data of each domain, its held-out texts, and the tokenizer that all share."""

    tokenizer: Any
    data: dict[str, TokenDataset]
    held_out: dict[str, list[str]]
    sizes: dict[str, Domain] = field(default_factory=dict)

    @classmethod
    def prepare(cls, texts: Mapping[str, Sequence[Document]], folder: Path, setting: Setting) -> Domains:
        """Split each domain, learn a tokenizer from equal parts of all, and encode.

        Raises:
            DataError: fewer than two domains, or one that is too small to hold a part of it out.
        """
        if len(texts) < 2:
            raise DataError(f"domains: {sorted(texts)} is no mixture; give the inputs of the build a `domain` each")
        parts = {name: split(documents, 0.1) for name, documents in sorted(texts.items())}
        least = min(sum(d.bytes for d in kept) for kept, _ in parts.values())
        even = [text for kept, _ in parts.values() for text in _up_to((d.text for d in kept), least)]
        tokenizer = train_tokenizer("bpe", even, vocab_size=setting.vocab_size)
        data, held_out, sizes = {}, {}, {}
        for name, (kept, held) in parts.items():
            data[name] = TokenDataset.write(folder / "data" / (name or "none"), kept, tokenizer)
            held_out[name] = _up_to((d.text for d in held), setting.held_out_bytes)
            sizes[name] = Domain(len(kept), sum(d.bytes for d in kept))
        return cls(tokenizer, data, held_out, sizes)

    def streams(self, setting: Setting, seed: int) -> dict[str, PackedStream]:
        """Packed rows of each domain."""
        return {
            name: PackedStream(data, length=setting.length, seed=seed, name=f"data/{name}")
            for name, data in self.data.items()
        }

    def losses(self, model: Any) -> dict[str, float]:
        """Bits per byte of each domain's held-out text."""
        return {name: score_texts(model, self.tokenizer, texts).bits_per_byte for name, texts in self.held_out.items()}


def _up_to(texts: Any, size: int) -> list[str]:
    out: list[str] = []
    for text in texts:
        if size <= 0:
            break
        out.append(text[:size])
        size -= len(text.encode("utf-8", "replace"))
    return out


def read_domains(folder: Path) -> dict[str, list[Document]]:
    """The documents of a finished build, by domain."""
    found: dict[str, list[Document]] = {}
    for file in load_manifest(folder)["output"]["files"]:
        for row in read_output(folder / "data" / file["name"]):
            document = Document(row["id"], row["text"], row["group"], row["meta"])
            found.setdefault(str(row["meta"].get("domain", "")), []).append(document)
    return found


def train_on(
    domains: Domains, weights: Mapping[str, float], setting: Setting, folder: Path, *, seed: int, label: str = "train"
) -> nn.Module:
    """A model trained on rows of the domains in exact proportion to `weights`; a stopped run is resumed."""
    model: nn.Module = setting.model(domains.tokenizer.vocab_size)
    model.initialise(seed)  # type: ignore[operator]
    streams = {name: stream for name, stream in domains.streams(setting, seed).items() if name in weights}
    source = MixedRows(streams, weights, rows=setting.batch_tokens // setting.length, draws="exact")
    train(model, source, NextToken(), setting.training(), folder, seed=seed, label=label, report=lambda text: None)
    return model


class _Tagged:
    """A stream whose rows carry their domain's place."""

    def __init__(self, stream: PackedStream, place: int) -> None:
        self.stream, self.place = stream, place

    def take(self, count: int) -> list[Any]:
        return [(self.place, row) for row in self.stream.take(count)]

    def state(self) -> SourceState:
        return self.stream.state()

    def restore(self, state: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        self.stream.restore(state, tensors)


@dataclass(frozen=True, kw_only=True)
class DomainBatch(Batch):
    """`domains` (B,): which domain each row is from."""

    domains: Tensor


class GroupRobust(NextToken):
    """Group-robust loss over domains: sum_i alpha_i (mean loss of domain i), alpha following the excess loss.

    Args:
        names: the domains, in the order of their places.
        reference: the model whose loss is what a domain should reach.
        rate, smoothing: eta and c of the formula.
    """

    couples_batch = True  # a domain's mean is over all rows of the step

    def __init__(
        self, names: Sequence[str], reference: nn.Module, *, rate: float = 1.0, smoothing: float = 1e-3
    ) -> None:
        super().__init__({"reference": reference})
        self.names, self.rate, self.smoothing = list(names), rate, smoothing
        self.alpha = np.full(len(self.names), 1 / len(self.names))
        self.sum, self.steps = np.zeros(len(self.names)), 0

    def collate(self, rows: Sequence[Any]) -> Batch:
        batch = collate_packed([row for _, row in rows])
        return DomainBatch(**vars(batch), domains=torch.tensor([place for place, _ in rows]))

    def loss(self, model: Any, batch: Batch) -> LossSum:
        """The step's loss times its tokens, so that the trainer's mean is the weighted sum of the domains' means."""
        assert isinstance(batch, DomainBatch)
        assert batch.targets is not None
        losses = model.nll(batch, "none")
        with torch.no_grad():
            excess = (losses - self.models["reference"].nll(batch, "none")).clamp(min=0)  # type: ignore[operator]
        counts = (batch.targets != IGNORE).sum(1)
        k, rows = len(self.names), batch.domains
        tokens = torch.zeros(k, dtype=losses.dtype, device=losses.device).index_add(0, rows, counts.to(losses.dtype))
        there = tokens > 0
        means = torch.zeros_like(tokens).index_add(0, rows, losses.sum(1)) / tokens.clamp(min=1)
        over = torch.zeros_like(tokens).index_add(0, rows, excess.sum(1)) / tokens.clamp(min=1)
        if model.training:
            self.alpha = reweighted(self.alpha, over.double().cpu().numpy(), rate=self.rate, smoothing=self.smoothing)
            self.sum += self.alpha
            self.steps += 1
        alpha = torch.tensor(self.alpha, dtype=losses.dtype, device=losses.device)
        units = batch.units
        metrics = {f"alpha/{name}": units * float(a) for name, a in zip(self.names, self.alpha, strict=True)}
        return units * (alpha[there] * means[there]).sum(), units, metrics

    def weights(self) -> dict[str, float]:
        """The mean of alpha over the steps so far."""
        mean = self.sum / max(1, self.steps) if self.steps else self.alpha
        return {name: float(value) for name, value in zip(self.names, mean, strict=True)}

    def state_dict(self) -> dict[str, Tensor]:
        return {"alpha": torch.tensor(self.alpha), "sum": torch.tensor(self.sum), "steps": torch.tensor(self.steps)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.alpha, self.sum = state["alpha"].double().numpy().copy(), state["sum"].double().numpy().copy()
        self.steps = int(state["steps"])


def doremi(domains: Domains, setting: Setting, folder: Path, *, seed: int = 0) -> dict[str, float]:
    """DoReMi's weights for these domains.

    The reference is trained on the domains as large as they are, the proxy on equally many rows of each.
    """
    sizes = {name: float(domain.bytes) for name, domain in domains.sizes.items()}
    reference = train_on(domains, sizes, setting, folder / "reference", seed=seed, label="reference")
    names = sorted(domains.data)
    streams = domains.streams(setting, seed)
    tagged = {name: _Tagged(streams[name], place) for place, name in enumerate(names)}
    source = MixedRows(tagged, dict.fromkeys(names, 1), rows=setting.batch_tokens // setting.length, draws="exact")
    proxy = setting.model(domains.tokenizer.vocab_size)
    proxy.initialise(seed)
    objective = GroupRobust(names, reference)
    quiet = {"label": "proxy", "report": lambda text: None}
    train(proxy, source, objective, setting.training(), folder / "proxy", seed=seed, **quiet)  # type: ignore[arg-type]
    return objective.weights()


def learn_weights(folder: Path, out: Path | None, *, steps: int, seed: int) -> tuple[Path, dict[str, Any]]:
    """Learn weights for the domains of a build and write them; returns their file, and what it holds.

    Args:
        folder: a finished build.
        out: where the two models and `weights.json` go; next to the build by default.

    Raises:
        SpecError: `out` is the folder of a build. DataError: the build is no mixture of domains.
    """
    setting = Setting(steps=steps)
    target = folder.with_name(f"{folder.name}-weights") if out is None else out
    if (target / "build.json").exists():
        raise SpecError(f"--out: {target} is the folder of a build; name another one")
    check_pages(target, "--out", ["weights.json"], "natural")
    domains = Domains.prepare(read_domains(folder), target, setting)
    weights = doremi(domains, setting, target, seed=seed)
    natural = {name: d.bytes / sum(s.bytes for s in domains.sizes.values()) for name, d in domains.sizes.items()}
    learned = {"weights": weights, "unit": "bytes", "natural": natural, "steps": steps, "seed": seed}
    return files.write_json(target / "weights.json", learned), learned
