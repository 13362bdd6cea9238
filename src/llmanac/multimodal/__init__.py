"""Models of images and text: encoders, contrastive pairs, language models that see, and generators of images.

Pixels are (B, C, H, W), normalized as `pictures/preprocess.py` does. A model is called with a `Pictures` batch or with
its tensors by name; every file says which.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmanac.core.spec import Spec


@dataclass(frozen=True, kw_only=True)
class MultimodalSpec(Spec):
    """`build(vocab_size=) -> MultimodalModel`; `vocab_size` is of text tokens, or the number of classes."""

    kind = "multimodal"

    def build(self, *args: Any, **dims: Any) -> Any:
        """vocab_size: tokens of the text, or classes of the head; 0 where there is neither."""
        raise NotImplementedError
