"""GGUF files as models and back: `read` opens one for `load_model`, `write` makes one of a model and its tokenizer.

An architecture is a table (`architectures.py`): which of its keys is which of a family's config.json, and which tensor
is which of the family's. So `models/families` decides what a model computes, for these files too.
"""

from llmanac.kernels.gguf import GGUF, PackedTensor
from llmanac.models.gguf.read import PackedWeights

__all__ = ["GGUF", "PackedTensor", "PackedWeights"]
