"""What one rank has of a model: built without memory, then cut into stages, divided by columns, and sharded.

The order is that of the axes: a stage of the pipeline is left of the model, its products are divided over the tensor
axis, and what is left is sharded or replicated over data and context. Adapters are on the model before, so that each
of their matrices is divided as the product that it changes.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from llmanac.adapters import applied
from llmanac.core.device import resolve_dtype
from llmanac.core.spec import dump, make_method
from llmanac.core.types import LossSum, capabilities
from llmanac.models.ffn.experts import Experts
from llmanac.models.lm.transformer import Transformer
from llmanac.models.scalar import ScalarModel
from llmanac.objectives import AnswerRows, Preference
from llmanac.objectives.autoregressive import Autoregressive
from llmanac.parallel import pipeline, tensor
from llmanac.parallel.mesh import Mesh
from llmanac.train import TrainSpec


def describe(model: Any, objective: Any) -> dict[str, Any]:
    """What `build` needs to make both again: Specs of the model and its adapters, each parameter's dtype."""
    trunk = _trunk(model)
    return {
        "model": dump(trunk.spec),
        "vocab_size": trunk.vocab_size,
        "recompute": trunk.recompute if "recompute" in capabilities(trunk).settings else "none",
        "adapters": [dump(transform.spec) for transform in applied(model)],
        "scalar": trunk is not model,
        "preference": dump(objective.spec) if isinstance(objective, Preference) else None,
        "parameters": {name: (_name(p.dtype), p.requires_grad) for name, p in model.named_parameters()},
    }


def build(job: Mapping[str, Any]) -> Any:
    """The model of a job on torch's meta device, frozen where rank 0's is."""
    with torch.device("meta"):
        model = make_method("lm", job["model"]).build(vocab_size=job["vocab_size"])
        for adapter in job["adapters"]:
            make_method("adapter", adapter).build().apply(model)
        model = ScalarModel(model) if job["scalar"] else model
    for name, parameter in model.named_parameters():
        dtype, trained = job["parameters"][name]
        parameter.data = parameter.data.to(resolve_dtype(dtype))
        parameter.requires_grad_(trained)
    return model


def _trunk(model: Any) -> Any:
    """The language model of a reward model."""
    return model.trunk if isinstance(model, ScalarModel) else model


def _objective(job: Mapping[str, Any]) -> Any:
    if job["preference"] is None:
        return Autoregressive()
    spec = make_method("objective", job["preference"])
    return spec.build(reader=AnswerRows(None, spec.columns))  # rank 0 has read the rows


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


class Summed(nn.Module):
    """The objective's loss as a module: what DDP and FSDP2 take as the model, whatever the objective reads of it."""

    def __init__(self, model: nn.Module, objective: Any) -> None:
        super().__init__()
        self.trained, self.objective = model, objective

    def forward(self, batch: Any, state: Any = None) -> LossSum:
        if state is None:
            loss, units, metrics = self.objective.loss(self.trained, batch)
        else:
            loss, units, metrics = self.objective.sums(self.trained, batch, state)
        return loss, units, dict(metrics)


def divide(model: Any, mesh: Mesh, job: Mapping[str, Any], train: TrainSpec) -> list[nn.Module]:
    """This rank's stages, each with memory for its part of the weights and without values."""
    spec = mesh.spec
    numbers, parts = [0], [range(0)]
    if spec.pipeline > 1:
        numbers = pipeline.stages_of(spec.schedule, mesh.pipeline, spec.pipeline)
        parts = pipeline.cut_model(model, spec.stages, train.length)
    modules: list[nn.Module] = []
    for number in numbers:
        first, last = number == 0, number == spec.stages - 1
        own = model if number == numbers[0] else build(job)
        trunk = _trunk(own)
        trunk.compute_dtype, trunk.attention_form = resolve_dtype(train.dtype), train.attention
        trunk.recompute = job["recompute"]
        if spec.pipeline > 1:
            pipeline.prune(own, parts[number], first=first, last=last)
        if spec.tensor > 1:
            tensor.divide(own, mesh.axis("tensor"), split=spec.activations == "split")
        module: nn.Module = Summed(own, _objective(job))
        if spec.pipeline > 1:
            module = pipeline.StageModule(own, first=first, last=last, twice=spec.schedule == "zero-bubble")
        if spec.replicas > 1 and spec.weights == "sharded":
            _shard(module, trunk, mesh)
        module.to_empty(device=mesh.device)
        _tie_again(trunk)
        modules.append(module.train())
    return modules


def _shard(module: nn.Module, model: Any, mesh: Mesh) -> None:
    # a warning for callers that change what a module returns in place, which nothing here does
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    layers = model.model.layers if isinstance(model, Transformer) else ()
    kept = mesh.spec.pipeline == 1  # in a pipeline every micro-batch would gather the weights anew
    for layer in layers.values() if isinstance(layers, nn.ModuleDict) else layers:
        # the backward pass of a loss that is no output of the layer may begin before FSDP2 gathers weights
        anew = kept and not isinstance(layer.mlp, Experts)
        fully_shard(layer, mesh=mesh.axis("data"), reshard_after_forward=anew)
    # the embedding and the head: kept from the forward to the backward pass, which begins with them
    fully_shard(module, mesh=mesh.axis("data"), reshard_after_forward=False)


def called(modules: list[nn.Module], mesh: Mesh, width: int) -> tuple[nn.Module, pipeline.PipelineRunner | None]:
    """What a step calls: the module, with DDP where weights are replicated; and what runs the stages of a pipeline.

    width: of the hidden states between stages.
    """
    spec, module = mesh.spec, modules[0]
    if spec.replicas > 1 and spec.weights == "replicated":
        # its first message would be about the weights, which are not there yet
        module = DistributedDataParallel(module, init_sync=False)
    if spec.pipeline == 1:
        return module, None
    numbers = pipeline.stages_of(spec.schedule, mesh.pipeline, spec.pipeline)
    group = mesh.axis("pipeline").get_group()
    return module, pipeline.PipelineRunner(dict(zip(numbers, modules, strict=True)), spec, group, mesh.device, width)


def _tie_again(model: Any) -> None:
    """`to_empty` gives one matrix under two names two memories, except under FSDP2."""
    if not model.spec.tied:
        return
    embed, head = model.model.embed_tokens, model.lm_head
    if embed is not None and head is not None and head.weight is not embed.weight:
        head.weight = embed.weight
