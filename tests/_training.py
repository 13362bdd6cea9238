"""A tiny model, a stream of rows and a run of the training loop over them."""

from __future__ import annotations

import dataclasses
import os
import signal

import torch

from llmanac.core import registry
from llmanac.data.pack import PackedStream
from llmanac.objectives.autoregressive import Autoregressive
from llmanac.train import TrainSpec
from llmanac.train.loop import train
from llmanac.train.metrics import read_metrics

VOCAB = 61
FIXED = {"length": 16, "batch_tokens": 64, "dtype": "float32", "attention": "plain", "compile": "never"}


def model_of(seed=0, dtype=torch.float32):
    model = registry.build("lm", "transformer", dim=32, layers=1, max_length=64, vocab_size=VOCAB)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.2 + (1.0 if p.ndim == 1 else 0.0))
    return model.to(dtype)


def stream(dataset):
    return PackedStream(dataset, length=16, rows=4, seed=0)


def run(dataset, folder, *, steps=12, objective=None, model=None, **options):
    settings = {k: options.pop(k) for k in list(options) if k in {f.name for f in dataclasses.fields(TrainSpec)}}
    model = model or model_of()
    options.setdefault("report", lambda text: None)
    spec_ = TrainSpec(**{"steps": steps, "checkpoint_every": 3, **FIXED, **settings})
    result = train(model, stream(dataset), objective or Autoregressive(), spec_, folder, seed=0, **options)
    return result, model


def losses(folder):
    return [line["loss"] for line in read_metrics(folder) if "loss" in line]


def same(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


class Stops(Autoregressive):
    """Sends this process a Ctrl-C in the given step."""

    def __init__(self, step):
        super().__init__()
        self.left = step

    def loss(self, model, batch):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return super().loss(model, batch)
