"""PaliGemma: SigLIP's encoder without a head, one matrix, Gemma; image and prompt see both ways. Beyer et al. 2024."""

from dataclasses import replace
from typing import Any

from llmanac.models.families._config import Config
from llmanac.models.families._table import ConfigEntry, Data, Key, Only
from llmanac.models.families.gemma import FAMILY as GEMMA
from llmanac.models.images.families._family import ImageFamily, Inside, LanguagePart, PartNames
from llmanac.models.images.families._vision import CLIP_VISION
from llmanac.models.images.families.llava import language_parts
from llmanac.models.images.families.siglip import SIZES, VISION
from llmanac.models.images.vlm import Spec


class Widths(ConfigEntry):
    """Widths that follow from the language model's."""

    def read(self, config: Config, data: Data) -> None:
        config.expect("projection_dim", data["text"]["dim"])

    def write(self, data: Data) -> dict[str, Any]:
        width = data["text"]["dim"]
        return {"projection_dim": width, "hidden_size": width}


FAMILY = ImageFamily(
    architecture="PaliGemmaForConditionalGeneration",
    spec=Spec(vision=replace(VISION, pool="none"), text=GEMMA.spec, projector="linear", mask="prefix"),
    entries=(
        Inside(
            "vision_config",
            "vision",
            (*SIZES, Only("vision_use_head", (False,), absent=True)),
            writes={"model_type": "siglip_vision_model"},
            neutral=frozenset({"num_image_tokens"}),
        ),
        LanguagePart(
            kinds={"gemma": "gemma", "gemma2": "gemma2"},
            default="gemma",
            dropped=frozenset({"num_image_tokens", "use_bidirectional_attention"}),
        ),
        Key("image_token_index", "image_id", default=256000, aliases=("image_token_id",)),
        Widths(),
    ),
    parts=lambda language: (
        PartNames("vision.", ("vision_tower.", "vision_tower.vision_model."), CLIP_VISION),
        PartNames("projector.", ("multi_modal_projector.linear.",)),
        *language_parts(language),
    ),
    neutral=frozenset({"vocab_size", "hidden_size", "num_image_tokens"}),
)
