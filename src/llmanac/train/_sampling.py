"""Answers that a policy gradient learns from: sampled by one process, or by each rank for its share of the prompts.

A rank that samples has a complete copy of the model, whose trained weights are gathered for each draw.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

from llmanac.generate.draws import PlainDraws
from llmanac.generate.engine import Engine, Options
from llmanac.models.quantized import held

Answer = tuple[list[int], list[float], bool]  # ids with the end, their log-probabilities, whether it ended by itself


@dataclass(frozen=True)
class AskedDraw:
    """How a draw is sampled: `samples` answers to each prompt; `ends`: the ids that end one; `seed` of all of it."""

    samples: int
    tokens: int
    temperature: float
    seed: int
    ends: tuple[int, ...]


def answers(engine: Engine, prompts: Sequence[Sequence[int]], asked: AskedDraw, first: int = 0) -> list[Answer]:
    """Those to each prompt in turn. `first`: how many prompts of the draw come before these."""
    how: Options = {
        "n": asked.samples, "temperature": 1.0, "stop_ids": asked.ends, "max_new_tokens": asked.tokens
    }  # fmt: skip
    requests = [engine.request(list(ids), **how) for ids in prompts]
    found = engine.run(requests, PlainDraws(asked.seed, asked.temperature, first))
    drawn = [(one.token_logprobs, one.finish_reason == "stop") for one in found]
    return [([t.id for t in tokens], [t.sampled for t in tokens], ended) for tokens, ended in drawn]


class RankSampler:
    """One rank's copy of the model of a training, and its engine.

    Args:
        model: complete; on ranks other than 0 without values, which they are sent.
        engine, tensors: of rank 0, which has both.
    """

    def __init__(
        self, worker: Any, command: Mapping[str, Any], model: Any, engine: Engine | None = None,
        tensors: Mapping[str, Tensor] | None = None,
    ) -> None:  # fmt: skip
        self.worker = worker
        own = {} if engine is not None else dict(held(model.named_parameters()))
        with torch.no_grad():
            for name, value in worker.shared(tensors, worker.sent):
                if name in own:
                    own[name].copy_(value)
        self.model = model
        self.engine = engine or Engine(model, rows=command["rows"], runner=command["runner"])

    def __call__(self, command: Mapping[str, Any]) -> list[Answer]:
        """The answers of this rank's share; on rank 0 of all, in the order of the prompts."""
        mesh, own = self.worker.mesh, dict(self.model.named_parameters())
        with torch.no_grad():
            for name, value in self.worker.collect("weights", everywhere=True).items():
                own[name].copy_(value)
        self.engine.sync()
        start, end = command["cuts"][mesh.data : mesh.data + 2]
        found = answers(self.engine, command["prompts"][start:end], AskedDraw(**command["asked"]), start)
        key = f"sampled/{self.worker.number}/{mesh.commands}"
        if mesh.rank:
            mesh.store.set(f"{key}/{mesh.rank}", json.dumps(found))
        for rank in range(1, mesh.spec.ranks) if not mesh.rank else ():
            mesh.store.wait([f"{key}/{rank}"], timedelta(seconds=mesh.spec.timeout))
            found += json.loads(mesh.store.get(f"{key}/{rank}"))
            mesh.store.delete_key(f"{key}/{rank}")
        return found


def command(engine: Engine, prompts: Sequence[Sequence[int]], asked: AskedDraw, ranks: int) -> dict[str, Any]:
    """What every rank is told of a draw."""
    cuts = [len(prompts) * rank // ranks for rank in range(ranks + 1)]
    how = {"rows": engine.rows, "runner": "torch" if engine.native is None else "native"}
    return {"do": "sample", "prompts": [list(ids) for ids in prompts], "cuts": cuts, "asked": asdict(asked), **how}
