"""What every optimizer has: parameters in groups by role, steps at a scaled learning rate, a state of plain tensors.

The role of a parameter decides its learning rate, its weight decay and, for Muon, its rule:

    matrix     two or more dimensions, inside the network: every direction of it is a feature
    embedding  one row (or column) a token or position: each sees few of a batch's tokens
    vector     gains and biases; never decayed unless asked for
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from llmanac.core.errors import CheckpointError, SpecError
from llmanac.models.layers import Embedding

Role = Literal["matrix", "embedding", "vector"]
Parameters = Sequence[tuple[str, nn.Parameter, Role]]


def parameter_roles(model: nn.Module) -> list[tuple[str, nn.Parameter, Role]]:
    """Every trainable parameter once (tied ones under their first name), with its role.

    A model may settle it with a method `parameter_role(name) -> Role | None`; otherwise an embedding is the
    weight of an embedding module, or what has a dimension of the model's `vocab_size`. In a `ModuleDict` of models each
    settles its own.
    """
    out = _roles(model, "", set())
    if not out:
        raise SpecError("optimizer: the model has no trainable parameter")
    return out


def _roles(model: nn.Module, prefix: str, seen: set[int]) -> list[tuple[str, nn.Parameter, Role]]:
    if isinstance(model, nn.ModuleDict):
        return [row for name, one in model.items() for row in _roles(one, f"{prefix}{name}.", seen)]
    embeddings = (nn.Embedding, Embedding)
    tables = {f"{m}.weight".lstrip(".") for m, child in model.named_modules() if isinstance(child, embeddings)}
    vocab_size = getattr(model, "vocab_size", None)
    ask: Callable[[str], Role | None] = getattr(model, "parameter_role", lambda name: None)
    out: list[tuple[str, nn.Parameter, Role]] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad or id(parameter) in seen:
            continue
        seen.add(id(parameter))
        role = ask(name)
        if role is None:
            if parameter.ndim < 2:
                role = "vector"
            else:
                role = "embedding" if name in tables or vocab_size in parameter.shape else "matrix"
        out.append((prefix + name, parameter, role))
    return out


def parameters_of(model: nn.Module | None, parameters: Parameters | None) -> Parameters:
    """Those given, else all of the model's. Raises SpecError for neither."""
    if parameters is None and model is None:
        raise SpecError("optimizer: build needs a model or parameters")
    return parameter_roles(model) if model is not None and parameters is None else parameters or ()


@dataclass
class ParameterGroup:
    """Parameters that share a rule, a learning rate and a weight decay."""

    rule: str
    names: list[str]
    parameters: list[nn.Parameter]
    lr: float
    weight_decay: float


class Coefficients(NamedTuple):
    """The numbers of one AdamW step.

    Attributes:
        keep: 1 - lr * weight decay.
        size: lr / (1 - beta1^t).
        root: sqrt(1 - beta2^t).
        scale: what gradients are multiplied by first.
    """

    keep: float
    beta1: float
    beta2: float
    size: float
    root: float
    eps: float
    scale: float


class ParameterLayout:
    """How an optimizer's tensors are parts of a model's parameters; here each is all of it (`train/_worker.py`)."""

    def shape(self, name: str, own: Tensor) -> torch.Size:
        """The shape of the parameter."""
        return own.shape

    def whole(self, name: str, own: Tensor) -> Tensor:
        """All of a tensor that is laid out as the parameter; every rank that has a part calls it."""
        return own

    def part(self, name: str, whole: Tensor) -> Tensor:
        """What of it is here."""
        return whole


class Optimizer:
    """Base of all optimizers. Parameters without a gradient are left alone, their state too.

    Attributes:
        layout: for rules that need a matrix as one, where this process has a part of it.
        groups: the parameter groups.
        state: tensors by `"<what>.<parameter name>"`; all that a checkpoint needs.
        steps: updates done, per parameter name.
    """

    layout = ParameterLayout()

    def __init__(self, spec: Any, groups: Iterable[ParameterGroup]) -> None:
        self.spec, self.groups = spec, [g for g in groups if g.parameters]
        self.state: dict[str, Tensor] = {}
        self.steps: dict[str, int] = {}

    def named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Every parameter that this optimizer updates."""
        return [pair for g in self.groups for pair in zip(g.names, g.parameters, strict=True)]

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for group in self.groups:
            for parameter in group.parameters:
                parameter.grad = None

    @torch.no_grad()
    def step(self, lr_scale: float = 1.0, scale: float = 1.0) -> None:
        """Update every parameter that has a gradient.

        Args:
            lr_scale: the schedule's factor on each group's learning rate.
            scale: what gradients are multiplied by first (1 / tokens, and the clipping factor).
        """
        for group in self.groups:
            live = [(n, p) for n, p in zip(group.names, group.parameters, strict=True) if p.grad is not None]
            if live:
                for name, _ in live:
                    self.steps[name] = self.steps.get(name, 0) + 1
                self.update(group, [n for n, _ in live], [p for _, p in live], group.lr * lr_scale, scale)

    def update(
        self, group: ParameterGroup, names: list[str], parameters: list[nn.Parameter], lr: float, scale: float
    ) -> None:
        """One step of `group`'s rule for these parameters."""
        raise NotImplementedError

    def buffer(self, what: str, name: str, parameter: Tensor) -> Tensor:
        """The state tensor of this parameter, zeros when new."""
        key = f"{what}.{name}"
        if key not in self.state:
            self.state[key] = torch.zeros_like(parameter, memory_format=torch.contiguous_format)
        return self.state[key]

    def nbytes(self) -> int:
        """Bytes of the state."""
        return sum(t.numel() * t.element_size() for t in self.state.values())

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, int]]:
        """`(tensors by name, steps by parameter name)`: safetensors and JSON hold these."""
        return dict(self.state), dict(self.steps)

    def state_shape(self, what: str, parameter: Tensor) -> tuple[int, ...]:
        """The shape of the state tensor `what` of a parameter."""
        return tuple(parameter.shape)

    def load_state_dict(self, tensors: dict[str, Tensor], steps: dict[str, int]) -> None:
        """Take the state back. Raises CheckpointError when a tensor belongs to no parameter, or has another shape."""
        parameters = dict(self.named_parameters())
        for key, value in tensors.items():
            name = key.partition(".")[2]
            if name not in parameters:
                raise CheckpointError(f"optimizer state {key!r} belongs to no parameter of this model")
            if tuple(value.shape) != self.state_shape(key.partition(".")[0], parameters[name]):
                raise CheckpointError(
                    f"optimizer state {key!r} is {tuple(value.shape)}, the parameter {tuple(parameters[name].shape)}"
                )
        self.state = {k: v.to(parameters[k.partition(".")[2]].device).clone() for k, v in tensors.items()}
        self.steps = {k: int(v) for k, v in steps.items()}
