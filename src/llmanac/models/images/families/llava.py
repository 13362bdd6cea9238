"""LLaVA: CLIP's image encoder, its last block but one, two matrices, a language model. Liu et al. 2023."""

from typing import Any

from llmanac.core.errors import CheckpointError, shown
from llmanac.models.families import family as language_family
from llmanac.models.families._config import Config
from llmanac.models.families._table import ConfigEntry, Data, Key, Only
from llmanac.models.images.families._family import ImageFamily, Inside, LanguagePart, PartNames
from llmanac.models.images.families._vision import CLIP_VISION
from llmanac.models.images.families.clip import SIZES, VISION
from llmanac.models.images.vlm import Spec

STRATEGY = {"default": "drop", "full": "keep"}


def language_parts(language: str) -> tuple[PartNames, ...]:
    """The language model's names, as in a file of its own, below one prefix."""
    return (PartNames("text.", ("language_model.",), language_family(language).names[0]),)


class LlavaLayer(ConfigEntry):
    """Which block of the encoder is read: a number, negative from the end."""

    def read(self, config: Config, data: Data) -> None:
        found = config.get("vision_feature_layer", -2)
        if type(found) is not int or abs(found) > 10_000:
            raise CheckpointError(
                f"{config.path}: vision_feature_layer is {shown(found)}, expected the number of a block"
            )
        data["layer"] = found

    def write(self, data: Data) -> dict[str, Any]:
        return {"vision_feature_layer": data.get("layer")}


FAMILY = ImageFamily(
    architecture="LlavaForConditionalGeneration",
    spec=Spec(vision=VISION, layer=-2),
    entries=(
        Inside("vision_config", "vision", SIZES, writes={"model_type": "clip_vision_model"}),
        LanguagePart(kinds={"llama": "llama", "mistral": "mistral", "qwen2": "qwen2"}),
        Key("image_token_index", "image_id", default=32000, aliases=("image_token_id",)),
        Key("vision_feature_select_strategy", "class_token", STRATEGY, default="default"),
        LlavaLayer(),
        Only("projector_hidden_act", ("gelu",)),
        Only("multimodal_projector_bias", (True,)),
    ),
    parts=lambda language: (
        PartNames("vision.", ("vision_tower.", "vision_tower.vision_model."), CLIP_VISION),
        PartNames("projector.up_proj.", ("multi_modal_projector.linear_1.",)),
        PartNames("projector.down_proj.", ("multi_modal_projector.linear_2.",)),
        *language_parts(language),
    ),
    neutral=frozenset({"image_seq_length"}),
)
