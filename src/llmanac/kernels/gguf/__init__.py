"""GGUF files: the container, and the blocks in which it packs weights. `models/gguf` makes models of them."""

from llmanac.kernels.gguf.file import GGUF, PackedTensor, opened

__all__ = ["GGUF", "PackedTensor", "opened"]
