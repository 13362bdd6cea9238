"""Language models: what the trained ones have in common. `core.types.LanguageModel` is what each of them offers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, cast

import torch
from torch import Tensor, nn

import llmanac
from llmanac.core.errors import RequestError, SpecError
from llmanac.core.rng import parameter_generator
from llmanac.core.spec import Spec
from llmanac.core.types import Batch, Capabilities, OutputRequest
from llmanac.models.layers import Embedding


@dataclass(frozen=True, kw_only=True)
class LanguageModelSpec(Spec):
    """`build(vocab_size=) -> LanguageModel`. estimated: whether it is counted, without steps of training."""

    kind = "lm"
    estimated: ClassVar[bool] = False
    # what only some have as fields; they are no fields of the others
    tied = False
    max_length = cast("int | None", None)
    position = cast(Any, None)
    head = cast(Any, None)
    embedding_dim = cast("int | None", None)
    blocks = encoder = cast("tuple[Any, ...]", ())

    def build(self, *args: Any, **dims: Any) -> Any:
        """vocab_size: tokens that the model knows."""
        raise NotImplementedError


def draw_parameters(model: nn.Module, seed: int) -> None:
    """Give every parameter its initial values, from a stream named by (seed, its name, its shape)."""
    for name, parameter in model.named_parameters():
        draw_parameter(model, name, parameter, seed)


def draw_parameter(model: nn.Module, name: str, parameter: Tensor, seed: int) -> None:
    """Give one tensor the initial values of the model's parameter of this name."""
    owner, _, own = name.rpartition(".")
    module: Any = model.get_submodule(owner)
    module.init_parameter(own, parameter, parameter_generator(seed, name, tuple(parameter.shape)))


class DrawnModel(nn.Module):
    """A model whose initial weights are drawn by name.

    Attributes:
        values_at: of a model without memory (device meta), where its values are: a seed, or `load_model`'s arguments.
    """

    values_at: dict[str, Any] | None = None

    def initialise(self, seed: int) -> Self:
        """Draw every parameter from a stream named by (seed, its name, its shape); returns the model.

        One without memory keeps the seed, for ranks that draw what each of them has (`train/team.py`).
        """
        if all(p.is_meta for p in self.parameters()):
            self.values_at = {"seed": seed}
        else:
            draw_parameters(self, seed)
        return self

    def parameter_count(self) -> int:
        """Numbers that are trained; a tied matrix counts once."""
        return sum(p.numel() for p in self.parameters())


class TrainedModel(DrawnModel):
    """A model of `vocab_size` tokens.

    Attributes:
        compute_dtype: what activations are computed in, None for the weights' own dtype; settable. Weights keep their
            dtype; norms, softmax and losses are computed in float32 at least.
        generation: what generation_config.json holds (bos_token_id, eos_token_id, ...).
        soft_prompt: what an adapter puts before the tokens of every row (`models/soft_prompt.py`), or None.
        family, origin: the family of the files that it was read from, and where they are; None where it was not.
    """

    soft_prompt: Any = None
    family: str | None = None
    origin: str | None = None

    def __init__(self, spec: Any, vocab_size: int) -> None:
        super().__init__()
        if vocab_size < 1:
            raise SpecError(f"vocab_size: {vocab_size} must be at least 1")
        self.spec, self.vocab_size = spec, vocab_size
        self.compute_dtype: torch.dtype | None = None
        self.generation: dict[str, Any] = {}

    @property
    def embedding(self) -> Embedding:
        """The embedding of tokens."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        return self.embedding.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What activations are computed in."""
        return self.compute_dtype or self.embedding.weight.dtype

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(counts_flops=True, settings=frozenset({"compute_dtype"}))

    def nll(self, batch: Batch, reduction: Literal["sum", "none"] = "sum") -> Tensor:
        """Negative log-likelihood in nats of `batch.targets`: the sum, or (B, T) with 0 where there is no target.

        The logits are never held: see `kernels/nn/cross_entropy.py`.

        Raises:
            RequestError: a batch without targets.
        """
        value = self.forward(batch, want=OutputRequest(nll=reduction)).nll
        assert value is not None
        return value

    def wrong_id(self, ids: Tensor) -> RequestError:
        """The error for ids outside the vocabulary."""
        wrong = ids[(ids < 0) | (ids >= self.vocab_size)]
        return RequestError(f"ids: {int(wrong[0])} is not a token id below {self.vocab_size}")

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write config.json, model.safetensors, generation_config.json and llmanac.json; returns the folder.

        The layout is that of the first Hugging Face family that can hold the model, else `llmanac`'s own.
        """
        return llmanac.save_model(self, folder)
