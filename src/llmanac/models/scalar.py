"""A number for each token: a language model's trunk with a linear map to one value. Reward models and value models.

    v_t = w . h_t + b          h (B, T, D), w (D,), v (B, T); a text's score is v at its last token

The map starts at N(0, 1 / (D + 1)), as in Stiennon et al. 2020 (arXiv:2009.01325), so that scores start near 0 with a
spread of about 1. A folder of it is Hugging Face's layout for one label: the trunk's, with `score.weight`.
"""

from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from llmanac.core.errors import CheckpointError
from llmanac.core.rng import parameter_generator
from llmanac.core.types import HIDDEN, Batch, Capabilities
from llmanac.models.layers import Linear


class ScalarModel(nn.Module):
    """See the module.

    Attributes:
        trunk: a language model; its head is not used.
        score: the map to one value. mean, deviation: of its scores on reference texts, which `scores` takes out.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, trunk: Any, seed: int = 0) -> None:
        super().__init__()
        self.trunk = trunk
        dim = trunk.embedding.weight.shape[1]
        self.score = Linear(dim, 1)
        shape = tuple(self.score.weight.shape)
        with torch.no_grad():
            self.score.weight.normal_(0, (dim + 1) ** -0.5, generator=parameter_generator(seed, "score.weight", shape))
        self.score.to(trunk.device)
        self.register_buffer("mean", torch.zeros((), device=trunk.device))
        self.register_buffer("deviation", torch.ones((), device=trunk.device))

    @property
    def device(self) -> torch.device:
        device: torch.device = self.trunk.device
        return device

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(settings=frozenset({"compute_dtype"}))

    @property
    def max_length(self) -> int | None:
        """The trunk's."""
        found: int | None = self.trunk.max_length
        return found

    @property
    def compute_dtype(self) -> Any:
        """What the trunk computes in."""
        return self.trunk.compute_dtype

    @compute_dtype.setter
    def compute_dtype(self, dtype: Any) -> None:
        self.trunk.compute_dtype = dtype

    def values(self, batch: Batch) -> Tensor:
        """(B, T) of every token, in float32 at least, as they are."""
        hidden = self.trunk(batch, want=HIDDEN).hidden
        hidden = hidden if hidden.dtype == torch.float64 else hidden.float()
        found: Tensor = self.score(hidden).squeeze(-1)
        return found

    def scores(self, batch: Batch) -> Tensor:
        """(B,) of each text: the normalised value at its last real token."""
        last = self.values(batch).gather(1, batch.last[:, None]).squeeze(1)
        return (last - self.mean) / self.deviation

    forward = scores

    def normalise(self, scores: Tensor) -> Self:
        """From now on `scores` has mean 0 and deviation 1 on the texts that gave these raw scores (N,)."""
        with torch.no_grad():
            self.mean.copy_(scores.mean())
            self.deviation.copy_(scores.std().clamp(min=1e-6) if len(scores) > 1 else torch.ones(()))
        return self

    def save_pretrained(self, folder: str | Path) -> Path:
        """The trunk's folder, and score.safetensors with the map, its mean and deviation."""
        from safetensors.torch import save_file

        place = self.trunk.save_pretrained(folder)
        tensors = {"score.weight": self.score.weight, "mean": self.mean, "deviation": self.deviation}
        save_file({k: v.detach().cpu().clone() for k, v in tensors.items()}, Path(place) / "score.safetensors")
        return Path(place)


def load_scalar(folder: str | Path, *, device: str = "cpu") -> ScalarModel:
    """A model that `save_pretrained` wrote.

    Raises:
        CheckpointError: a folder without score.safetensors, or tensors that do not fit the trunk.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from llmanac.models.load import load_model

    place = Path(folder) / "score.safetensors"
    if not place.is_file():
        raise CheckpointError(f"{place}: no such file; a reward model is trained by the objective bradley-terry")
    model = ScalarModel(load_model(folder, device=device))
    try:
        tensors = load_file(place, device=device)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{place}: cannot be read ({error})") from None
    own = {"score.weight": model.score.weight, "mean": model.mean, "deviation": model.deviation}
    for name, tensor in own.items():
        found = tensors.get(name)
        if found is None or found.shape != tensor.shape or not bool(found.isfinite().all()):
            raise CheckpointError(
                f"{place}: {name} is missing, of another shape than {tuple(tensor.shape)}, or not finite"
            )
        with torch.no_grad():
            tensor.copy_(found)
    return model
