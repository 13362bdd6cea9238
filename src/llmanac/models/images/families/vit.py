"""ViT: an encoder of patches with a class token and, where the config lists labels, a linear head.

Dosovitskiy et al. 2020, arXiv:2010.11929.
"""

from llmanac.models.families._config import Names
from llmanac.models.families._table import Only
from llmanac.models.images.families._family import ImageFamily, LabelCount, PartNames
from llmanac.models.images.families._vision import BERT_LAYER, sizes
from llmanac.models.images.vit import Spec
from llmanac.models.norms.layernorm import Spec as LayerNorm

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
    architecture="ViTForImageClassification",
    spec=Spec(norm=LayerNorm(eps=1e-12)),
    entries=(
        LabelCount("vocab_size", "ViTModel", "ViTForImageClassification"),
        *sizes(1e-12, "gelu"),
        Only("qkv_bias", (True,)),
    ),
    parts=lambda language: (PartNames("classifier.", ("classifier.",)), PartNames("", ("vit.", ""), NAMES)),
    axes={"cls_token": 2, "position_embeddings": 1},
    neutral=frozenset({"pooler_act", "pooler_output_size"}),
    ignored=("pooler.dense.weight", "pooler.dense.bias"),
)
