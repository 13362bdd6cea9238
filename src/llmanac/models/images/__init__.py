"""Models of images and text: encoders, contrastive pairs, language models that see, and generators of images.

Pixels are (B, C, H, W), normalized as `pictures/preprocess.py` does. A model is called with a `Pictures` batch or with
its tensors by name; every file says which.
"""

from dataclasses import dataclass
from typing import Any, cast

from llmanac.core.errors import SpecError
from llmanac.core.ranges import COUNT, within
from llmanac.core.spec import Spec


@dataclass(frozen=True, kw_only=True)
class MultimodalSpec(Spec):
    """`build(vocab_size=) -> MultimodalModel`; `vocab_size` is of text tokens, or the number of classes."""

    kind = "multimodal"
    # what only some have as fields; they are no fields of the others
    text = vision = tokenizer = position = cast(Any, None)
    blocks = cast(Any, ())

    @property
    def image_tokens(self) -> int:
        """Places that an image takes in a text."""
        return 0

    def build(self, *args: Any, **dims: Any) -> Any:
        """vocab_size: tokens of the text, or classes of the head; 0 where there is neither."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class PatchesSpec(MultimodalSpec):
    """image: pixels a side; patch: p; channels: C; dim: D; layers: L."""

    image: int = 32
    patch: int = 8
    channels: int = 3
    dim: int = 128
    layers: int = 4

    ranges = within(COUNT, "image patch channels dim layers")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image % self.patch:
            raise SpecError(f"patch: {self.patch} must divide image, {self.image}")

    @property
    def patches(self) -> int:
        """N."""
        return (self.image // self.patch) ** 2
