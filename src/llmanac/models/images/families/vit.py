"""ViT: an encoder of patches with a class token and, where the config lists labels, a linear head.

Dosovitskiy et al. 2020, arXiv:2010.11929.
"""

from typing import Any

from llmanac.core.errors import CheckpointError, shown
from llmanac.models.families._config import Config, Names
from llmanac.models.families._table import ConfigEntry, Data, Only
from llmanac.models.images.families._family import ImageFamily, PartNames
from llmanac.models.images.families._vision import BERT_LAYER, sizes
from llmanac.models.images.vit import Spec
from llmanac.models.norms.layernorm import Spec as LayerNorm


class Classes(ConfigEntry):
    """The number of labels, which their config lists; 0 for a model without a head (ViTModel)."""

    def read(self, config: Config, data: Data) -> None:
        labels = config.get("id2label", {})
        if not isinstance(labels, dict) or len(labels) > 1 << 20:
            raise CheckpointError(f"{config.path}: id2label is {shown(labels)}, expected a table of labels")
        headless = config.get("architectures") == ["ViTModel"]
        data["vocab_size"] = 0 if headless else len(labels) or 2

    def write(self, data: Data) -> dict[str, Any]:
        names = {str(i): f"LABEL_{i}" for i in range(data["vocab_size"])}
        return {
            "id2label": names,
            "label2id": {v: int(k) for k, v in names.items()},
            "architectures": ["ViTForImageClassification" if names else "ViTModel"],
        }


NAMES = Names(
    layers="encoder.layer.*.",
    table={
        "model.patches": "embeddings.patch_embeddings.projection",
        "model.class_token.weight": "embeddings.cls_token",
        "model.position.embeddings.weight": "embeddings.position_embeddings",
        "model.norm": "layernorm",
        **BERT_LAYER,
    },
)

FAMILY = ImageFamily(
    model_type="vit",
    architecture="ViTForImageClassification",
    spec=Spec(norm=LayerNorm(eps=1e-12)),
    entries=(Classes(), *sizes(1e-12, "gelu"), Only("qkv_bias", (True,))),
    parts=lambda language: (PartNames("classifier.", ("classifier.",)), PartNames("", ("vit.", ""), NAMES)),
    axes={"cls_token": 2, "position_embeddings": 1},
    neutral=frozenset({"pooler_act", "pooler_output_size"}),
    ignored=("pooler.dense.weight", "pooler.dense.bias"),
)
