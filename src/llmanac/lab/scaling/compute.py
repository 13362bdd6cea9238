"""C = 6 N D against counted FLOPs, for every architecture.

A token costs a forward pass of 2 FLOPs a weight and a backward pass of twice that, so 6 N. Two things are wrong in it:
attention and states multiply activations with each other, which no weight counts, and a table that is only looked up
has weights without a product. `flops_per_token` has both by formula; the error of 6 N D that it states is

    stated = 6 N / flops_per_token - 1

Counted are all matrix products of a forward and a backward pass (`lab/complexity.py`), less what an attention kernel
does twice or for keys that a causal mask hides. Kaplan et al. 2020 (https://arxiv.org/abs/2001.08361), section 2.1.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from llmanac.core import registry
from llmanac.core.errors import SpecError
from llmanac.core.spec import make_method
from llmanac.core.types import Batch, capabilities
from llmanac.lab.arms import parse_arm
from llmanac.lab.complexity import Operations, mixers, one_thread

ROWS = 2
APART = {  # where a formula and what kernels do differ by more than 1%, and why
    "s4": "makes its filter once a pass, whatever the number of rows",
    "longformer": "short rows are computed as full squares with a mask",
    "big-bird": "short rows are computed as full squares with a mask",
    "encoder-decoder": "the formula counts the source half as long",
    "latent": "values are padded to the width of keys",
    "mamba2": "the formula counts chunks as if all were full",
    "random-features": "the formula counts the random products as trained",
}


@dataclass(frozen=True)
class Compute:
    """FLOPs of training on one token.

    Attributes:
        parameters: N, all of them; non_embedding: without tables of tokens and positions.
        counted: matrix products of a step, a token; formula: `flops_per_token`.
    """

    name: str
    parameters: int
    non_embedding: int
    counted: float
    formula: float

    @property
    def error(self) -> float:
        """Of 6 N against what was counted."""
        return 6 * self.parameters / self.counted - 1

    @property
    def stated(self) -> float:
        """Of 6 N as the formula has it."""
        return 6 * self.parameters / self.formula - 1


def architectures() -> list[str]:
    """Every trained language model of the catalogue, and every mixer that a Transformer can have, and experts."""
    lms = [n for n, m in registry.methods("lm").items() if not make_method("lm", n).estimated]
    return list(dict.fromkeys([*lms, *(name for name in mixers() if "@" not in name), "experts"]))


def non_embedding(model: Any) -> int:
    """Parameters outside the tables of tokens and positions; a tied head is the table of tokens."""
    from llmanac.models.layers import Embedding

    tables = {id(m.weight) for m in model.modules() if isinstance(m, (Embedding, torch.nn.Embedding))}
    return sum(p.numel() for p in model.parameters() if id(p) not in tables)


def measure(text: str, *, dim: int = 64, length: int = 128, vocabulary: int = 512) -> Compute:
    """Count a step of an architecture: a language model or a mixer, with fields as in a comparison.

    Raises:
        SpecError: a name that is neither, or a model that is not trained.
    """
    arm = parse_arm(text)
    if arm.name in registry.methods("lm") and make_method("lm", arm.name).estimated:
        raise SpecError(f"{arm.name}: is counted, not trained, so 6 N D says nothing about it")
    value = arm.value if isinstance(arm.value, dict) else {"name": arm.value}
    if arm.name in registry.methods("lm"):
        given = (
            {"max_length": length, "dim": dim, **value} if "transformer" in _base(arm.name) else {"dim": dim, **value}
        )
    elif kind := next((kind for kind in ("mixer", "ffn") if arm.name in registry.methods(kind)), ""):
        block = {"name": "pre-norm", kind: value}
        given = {"name": "transformer", "dim": dim, "max_length": length, "blocks": [block]}
    else:
        raise SpecError(
            f"{arm.name!r}: is no language model, mixer or ffn; `llmanac list lm` (or mixer, ffn) names them"
        )
    if arm.name == "encoder":
        given = {"head": "masked", **given}
    model: Any = make_method("lm", given).build(vocab_size=vocabulary)
    ids = torch.randint(vocabulary, (ROWS, length + 1), generator=torch.Generator().manual_seed(0))
    batch = Batch(ids=ids[:, :-1], targets=ids[:, 1:], mask="bidirectional" if arm.name == "encoder" else "causal")
    if capabilities(model).reads_source:
        batch = replace(batch, source=Batch(ids=ids[:, :-1]))
    with torch.no_grad():
        for parameter in model.parameters():  # the last product of a block starts at zero, and zeros have no gradient
            parameter.add_(0.01)
    with one_thread(), Operations() as done:
        model.nll(batch).backward()
    counted = (done.products - done.spared) / (ROWS * length)
    formula = float(model.flops_per_token(length))
    return Compute(text, model.parameter_count(), non_embedding(model), counted, formula)


def _base(name: str) -> str:
    return registry.methods("lm")[name].path.stem


def compare(names: Sequence[str] = (), **sizes: int) -> list[Compute]:
    """Each architecture, all of them by default."""
    return [measure(name, **sizes) for name in names or architectures()]
