"""Autoregressive (causal) language modelling: predict every token from those before it.

    loss = - sum_t log p(x_t | x_1 ... x_{t-1})        in nats, over every token of a document but its first

Each place sees only the past, so one forward pass over a row of T tokens trains T predictions at once, and what was
trained is exactly what generation needs. Several documents share a packed row: attention and targets stay within each.

Shapes: rows of n tokens -> ids (B, n - 1), targets (B, n - 1).

Paper: Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training", section 3.1, equation 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmanac.objectives import ObjectiveSpec
from llmanac.objectives._base import NextToken

CARD = {
    "title": "Autoregressive language modelling",
    "paper": "https://cdn.openai.com/research-covers/language-unsupervised/language_understanding_paper.pdf",
    "reference": "transformers.LlamaForCausalLM: loss and gradient",
    "aliases": {"causal": {}},
}


@dataclass(frozen=True, kw_only=True)
class Spec(ObjectiveSpec):
    """No choices: what a document is, and how rows are packed, is the source's matter."""

    def build(self, *, tokenizer: Any = None, models: dict[str, Any] | None = None, **dims: Any) -> Autoregressive:
        """The objective; it needs no tokenizer."""
        return Autoregressive()


class Autoregressive(NextToken):
    """The objective; see the module's formula."""
