"""What a run trains (the model and an objective's further models), what it leaves frozen, and both in checkpoints."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from llmanac.core.errors import CheckpointError
from llmanac.train.checkpoint import Checkpoint, copy_tensors, fingerprint, frozen_tensors, hash_tensors, model_tensors

MODEL = "model"


class FinishedTraining:
    """The models of a run; which of their parameters are trained is settled when it is made.

    Attributes:
        modules: the model as "model", and the objective's further models that are trained, by name.
        frozen: fingerprints of the objective's other models.
        base: fingerprints of the frozen parameters of `modules`, by name; without those that have none.
    """

    def __init__(self, model: nn.Module, objective: Any) -> None:
        self.model, self.objective = model, objective
        self.modules = trained_modules(model, objective)
        others = objective.models.items()
        self.frozen = {name: fingerprint(other) for name, other in others if name not in self.modules}
        self._left_out = {name: frozenset(frozen_tensors(module)) for name, module in self.modules.items()}
        self.base = self._fingerprints()

    @property
    def optimized(self) -> nn.Module:
        """What an optimizer is built for: the model, or all modules where there are further ones."""
        return optimized(self.modules)

    def _fingerprints(self) -> dict[str, str]:
        found = {name: frozen_tensors(module) for name, module in self.modules.items()}
        return {name: hash_tensors(tensors) for name, tensors in found.items() if tensors}

    def _tensors(self, name: str) -> dict[str, Tensor]:
        left_out = self._left_out[name]
        return {key: value for key, value in model_tensors(self.modules[name]).items() if key not in left_out}

    def parts(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The tensors of a checkpoint's model.safetensors, and those of its objective.safetensors."""
        own: Mapping[str, Tensor] = self.objective.state_dict()
        others = {
            f"models.{name}.{key}": value
            for name in self.modules
            if name != MODEL
            for key, value in self._tensors(name).items()
        }
        return self._tensors(MODEL), {f"state.{key}": value for key, value in own.items()} | others

    def load(self, found: Checkpoint) -> None:
        """Take the weights and the objective's state of a checkpoint.

        Raises:
            CheckpointError: frozen weights that are not those of the run, or tensors that do not fit.
        """
        if found.state["frozen"] != self.frozen:
            raise CheckpointError(
                f"{found.folder}: the frozen models {sorted(self.frozen)} are not those that the run started with"
            )
        base = found.state.get("base")
        if base is not None and base != self.base:
            names = sorted(name for name in {*base, *self.base} if base.get(name) != self.base.get(name))
            raise CheckpointError(
                f"{found.folder}: the frozen weights of {names} are not those that the run started with; resume with "
                "the same base model, in the same dtype and with the same parts frozen"
            )
        tensors = {MODEL: (found.tensors["model"], found.folder / "model.safetensors")}
        objective = found.tensors["objective"]
        for name in self.modules:
            if name != MODEL:
                tensors[name] = (under(f"models.{name}.", objective), found.folder / "objective.safetensors")
        for name, module in self.modules.items():
            # format 1 holds every parameter
            copy_tensors(model_tensors(module) if base is None else self._tensors(name), *tensors[name])
        if base is None:
            self.base = self._fingerprints()
        self.objective.load_state_dict(under("state.", objective))


def trained_modules(model: nn.Module, objective: Any) -> nn.ModuleDict:
    """The model as "model", with the objective's further models that are trained."""
    others = {name: other for name, other in objective.models.items() if name in objective.trainable}
    return nn.ModuleDict({MODEL: model, **others})


def optimized(modules: nn.ModuleDict) -> nn.Module:
    """What an optimizer is built for. A model alone keeps its own parameter names."""
    return modules if len(modules) > 1 else modules[MODEL]


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, without it."""
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
