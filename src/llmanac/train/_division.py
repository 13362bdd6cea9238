"""What one rank has of a model: built without memory, then cut into stages, divided by columns, and sharded.

The order is that of the axes: a stage of the pipeline is left of the model, its products are divided over the tensor
axis, and what is left is sharded or replicated over data and context. Adapters are on the model before, so that each
of their matrices is divided as the product that it changes.
"""

import functools
import warnings
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from llmanac.adapters import applied
from llmanac.core.device import resolve_dtype
from llmanac.core.spec import dump, make_method
from llmanac.core.types import LossSum, capabilities
from llmanac.models.ffn.experts import Experts
from llmanac.models.lm.transformer import Transformer
from llmanac.models.quantized import PackedForm, Quantized, held
from llmanac.models.scalar import ScalarModel
from llmanac.objectives import AnswerRows, NextToken
from llmanac.objectives.autoregressive import Autoregressive
from llmanac.parallel import pipeline, tensor
from llmanac.parallel.mesh import Mesh
from llmanac.train import TrainSpec
from llmanac.train.checkpoint import model_tensors


def describe(model: Any, objective: Any) -> dict[str, Any]:
    """What a rank needs to make a model, an objective and its further models again."""
    return {
        **_described(model),
        "objective": None if isinstance(objective, NextToken) else dump(objective.spec),
        "models": {name: _described(further) for name, further in objective.models.items()},
    }


def _described(model: Any) -> dict[str, Any]:
    """What `build` needs: Specs of the model and its adapters, each parameter's dtype, forms of packed weights."""
    trunk = _trunk(model)
    packed = {name: p for name, p in model.named_parameters() if isinstance(p, Quantized)}
    return {
        "model": dump(trunk.spec),
        "vocab_size": trunk.vocab_size,
        "recompute": trunk.recompute if "recompute" in capabilities(trunk).settings else "none",
        "adapters": [dump(transform.spec) for transform in applied(model)],
        "scalar": trunk is not model,
        "values_at": model.values_at if alone_on_meta(model) else None,
        "attention": trunk.attention_form if "attention_form" in capabilities(trunk).settings else None,
        "dtype": None if trunk.compute_dtype is None else _name(trunk.compute_dtype),
        "parameters": {name: (_name(p.dtype), p.requires_grad) for name, p in model.named_parameters()},
        "packed": {
            name: {
                "quantizer": p.form.quantizer, "shape": list(p.shape),
                "parts": {part: (list(value.shape), _name(value.dtype)) for part, value in p.parts.items()},
            }
            for name, p in packed.items()
        },
    }  # fmt: skip


def alone_on_meta(model: Any) -> bool:
    """Whether a model is without memory, and the ranks find its values."""
    return next(model.parameters()).is_meta


def known(weight: Quantized) -> bool:
    """Whether other ranks can make a packed weight's form again."""
    return bool(weight.form.quantizer) and _form(weight.form.quantizer) == weight.form


def _form(quantizer: Mapping[str, Any]) -> PackedForm:
    """The form that a quantizer gives its matrices."""
    made: Any = make_method("quantizer", dict(quantizer)).build()
    form: PackedForm = made.pack(torch.zeros(256, 256)).form
    return form


def values_of(model: Any, objective: Any) -> dict[str, Tensor]:
    """What `TrainingWorker.load` takes: every tensor of a model, `MODEL/NAME` of further ones, `NAME:PART` of packed
    ones."""
    models = {"": model} | {f"{name}/": further for name, further in objective.models.items()}
    return {f"{of}{name}": t for of, one in models.items() for name, t in held(model_tensors(one).items())}


def shapes_of(job: Mapping[str, Any]) -> dict[str, tuple[Any, torch.dtype]]:
    """The shape and dtype of each part of the packed weights of a model."""
    return {
        f"{name}:{part}": (shape, getattr(torch, dtype))
        for name, one in job["packed"].items()
        for part, (shape, dtype) in one["parts"].items()
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
    for name in job["packed"]:  # in their places nothing, until `_with_memory`
        _set(model, name, torch.empty(0, device="meta"))
    _tie_again(_trunk(model))
    return model


def whole(job: Mapping[str, Any], device: torch.device) -> Any:
    """The complete model of a job, without values."""
    model = _computing(build(job), job)
    _with_memory(model, model, job, device)
    return model.eval()


def _computing(model: Any, job: Mapping[str, Any]) -> Any:
    """The model, which computes as rank 0's does."""
    trunk = _trunk(model)
    trunk.compute_dtype = None if job["dtype"] is None else resolve_dtype(job["dtype"])
    trunk.attention_form = job["attention"] or trunk.attention_form
    return model


def _set(model: Any, name: str, value: Tensor) -> None:
    owner, _, last = name.rpartition(".")
    setattr(model.get_submodule(owner), last, nn.Parameter(value, requires_grad=False))


def _with_memory(model: Any, module: nn.Module, job: Mapping[str, Any], device: torch.device) -> None:
    """Memory for a rank's part of a model, of which `module` is all that is called."""
    module.to_empty(device=device)
    here = dict(model.named_parameters())
    for name, one in job["packed"].items():
        if name in here:
            parts = {
                part: torch.empty(shape, dtype=getattr(torch, dtype), device=device)
                for part, (shape, dtype) in one["parts"].items()
            }
            dtype = resolve_dtype(job["parameters"][name][0])
            _set(model, name, Quantized(_form(one["quantizer"]), parts, tuple(one["shape"]), dtype))
    _tie_again(_trunk(model))


def _trunk(model: Any) -> Any:
    """The language model of a reward model."""
    return model.trunk if isinstance(model, ScalarModel) else model


def objective(job: Mapping[str, Any], mesh: Mesh) -> Any:
    """The objective of a job, whose further models are divided as the model is; rank 0 reads its rows."""
    if job["objective"] is None:
        return Autoregressive()
    models = {}
    for name, described in job["models"].items():
        own = models[name] = _computing(build(described), described)
        if mesh.spec.tensor > 1:
            tensor.divide(own, mesh.axis("tensor"), split=mesh.spec.activations == "split")
        if mesh.spec.replicas > 1 and mesh.spec.weights == "sharded":
            _shard(own, _trunk(own), mesh, again=True)
        _with_memory(own, own, described, mesh.device)
    made = make_method("objective", job["objective"]).build(models=models, reader=AnswerRows(None, ()))
    made.add_up = functools.partial(dist.all_reduce, group=mesh.axis("data").get_group())
    return made


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


def divide(model: Any, mesh: Mesh, job: Mapping[str, Any], train: TrainSpec, objective: Any = None) -> list[nn.Module]:
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
        module: nn.Module = Summed(own, objective)
        if spec.pipeline > 1:
            module = pipeline.StageModule(own, first=first, last=last, twice=spec.schedule == "zero-bubble")
        if spec.replicas > 1 and spec.weights == "sharded":
            _shard(module, trunk, mesh)
        _with_memory(own, module, job, mesh.device)
        modules.append(module.train())
    return modules


def _shard(module: nn.Module, model: Any, mesh: Mesh, *, again: bool = False) -> None:
    """again: whether the embedding and the head are gathered anew in each pass, too."""
    # a warning for callers that change what a module returns in place, which nothing here does
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    layers = model.model.layers if isinstance(model, Transformer) else ()
    packed = {p for p in module.parameters() if not p.numel()}  # each rank has all of these
    kept = mesh.spec.pipeline == 1  # in a pipeline every micro-batch would gather the weights anew
    for layer in layers.values() if isinstance(layers, nn.ModuleDict) else layers:
        # the backward pass of a loss that is no output of the layer may begin before FSDP2 gathers weights
        anew = again or (kept and not isinstance(layer.mlp, Experts))
        fully_shard(layer, mesh=mesh.axis("data"), reshard_after_forward=anew, ignored_params=packed)
    # the embedding and the head: kept from the forward to the backward pass, which begins with them
    fully_shard(module, mesh=mesh.axis("data"), reshard_after_forward=again, ignored_params=packed)


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
