"""GGUF files as models and back: `file` opens one, `read` gives it to `load_model`, `write` makes one of a model.

An architecture is a table (`architectures.py`): which of its keys is which of a family's config.json, and which tensor
is which of the family's. So `models/families` decides what a model computes, for these files too.
"""

from llmanac.kernels.gguf import GGUF, PackedTensor

__all__ = ["GGUF", "PackedTensor"]
