"""ALIGN: EfficientNet and BERT, the first token's vector through a matrix, a learned temperature. Jia et al. 2021."""

from typing import Any

from llmanac.models.families import family as language_family
from llmanac.models.families._config import Config
from llmanac.models.families._table import ConfigEntry, Data, Fixed, Key, Only
from llmanac.models.images.clip import Spec
from llmanac.models.images.efficientnet import STAGES
from llmanac.models.images.efficientnet import Spec as EfficientNet
from llmanac.models.images.families._family import ImageFamily, Inside, LanguagePart, PartNames
from llmanac.models.images.families._vision import BERT

LISTS = ("in_channels", "out_channels", "kernel_sizes", "strides", "expand_ratios", "num_block_repeats")


class Hidden(ConfigEntry):
    """The width of the image encoder's output, which follows from its stages."""

    def read(self, config: Config, data: Data) -> None:
        config.expect("hidden_dim", EfficientNet(width=data["width"], divisor=data["divisor"]).dim)

    def write(self, data: Data) -> dict[str, Any]:
        return {"hidden_dim": EfficientNet(width=data["width"], divisor=data["divisor"]).dim}


FAMILY = ImageFamily(
    architecture="AlignModel",
    spec=Spec(
        vision=EfficientNet(), text=language_family("bert").spec, dim=EfficientNet().dim, image_projection="none",
        text_projection="bias", text_pool="first", scale="temperature",
    ),
    entries=(
        Inside(
            "vision_config", "vision",
            (
                Key("image_size", "image", default=600), Key("num_channels", "channels", default=3),
                Key("width_coefficient", "width", float, default=2.0), Key("depth_divisor", "divisor", default=8),
                Key("depth_coefficient", "depth", float, default=3.1),
                Key("batch_norm_eps", "eps", float, default=1e-3),
                Hidden(), Only("pooling_type", ("mean",)), Only("hidden_act", ("swish",)),
                Only("squeeze_expansion_ratio", (0.25,)), Only("depthwise_padding", ([],)),
                *(Only(name, ([stage[i] for stage in STAGES],)) for i, name in enumerate(LISTS)),
            ),
            writes={"model_type": "align_vision_model"},
            neutral=frozenset({"num_hidden_layers", "batch_norm_momentum", "drop_connect_rate"}),
        ),
        LanguagePart(kinds={"align_text_model": "bert"}, default="align_text_model"),
        Key("projection_dim", "dim", default=640),
        Fixed("end_id", lambda data: None),
    ),
    parts=lambda language: (
        PartNames("vision.", ("vision_model.",)),
        PartNames("text.", ("text_model.",), BERT),
        PartNames("text_projection.", ("text_projection.",)),
        PartNames("logit_scale.weight", ("temperature",)),
    ),
    neutral=frozenset({"temperature_init_value"}),
    ignored=(".num_batches_tracked", "pooler.dense.weight", "pooler.dense.bias"),
)  # fmt: skip
