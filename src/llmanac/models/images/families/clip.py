"""CLIP: an image encoder with a class token, a causal text encoder, two projections. Radford et al. 2021."""

from typing import Any

from llmanac.models.families._config import Config
from llmanac.models.families._table import ConfigEntry, Data, Key
from llmanac.models.images.clip import Spec, text_tower
from llmanac.models.images.families._family import ImageFamily, Inside, PartNames
from llmanac.models.images.families._vision import CLIP_TEXT, CLIP_VISION, TOKENS, sizes, text_sizes
from llmanac.models.images.vit import Spec as ViT
from llmanac.models.images.vit import vision_blocks

VISION = ViT(
    blocks=vision_blocks("quick-gelu"), pool="class", patch_bias="none", embedding_norm="model", final_norm="pooled"
)
SIZES = sizes(1e-5, "quick_gelu", patch=32)


class End(ConfigEntry):
    """Which token stands for a text: 2 in old configs means the largest id."""

    def read(self, config: Config, data: Data) -> None:
        found = config.get("eos_token_id", 49407)
        data["end_id"] = None if found == 2 or found is None else int(found)

    def write(self, data: Data) -> dict[str, Any]:
        return {"eos_token_id": 2 if data.get("end_id") is None else data["end_id"]}


FAMILY = ImageFamily(
    architecture="CLIPModel",
    spec=Spec(vision=VISION, text=text_tower(activation="quick-gelu")),
    entries=(
        Inside("vision_config", "vision", SIZES, writes={"model_type": "clip_vision_model"}),
        Inside(
            "text_config",
            "text",
            text_sizes(1e-5, "quick_gelu", 512, 77),
            above=(Key("vocab_size", "vocab_size", default=49408), End()),
            writes={"model_type": "clip_text_model"},
            neutral=TOKENS,
        ),
        Key("projection_dim", "dim", default=512),
    ),
    parts=lambda language: (
        PartNames("vision.", ("vision_model.",), CLIP_VISION),
        PartNames("text.", ("text_model.",), CLIP_TEXT),
        PartNames("image_projection.", ("visual_projection.",)),
        PartNames("text_projection.", ("text_projection.",)),
        PartNames("logit_scale.weight", ("logit_scale",)),
    ),
)
