"""ViLT for question answering: one stream of text and patches. Kim, Son & Kim 2021. Read only for square images."""

from llmanac.models.families._config import Names
from llmanac.models.families._table import Key, Only
from llmanac.models.images.families._family import ImageFamily, LabelCount, PartNames
from llmanac.models.images.families._vision import BERT_LAYER, sizes
from llmanac.models.images.vilt import Spec
from llmanac.models.norms.layernorm import Spec as LayerNorm

KINDS = ("ViltForQuestionAnswering", "ViltModel")
NAMES = Names(
    layers="encoder.layer.*.",
    table={
        "model.embed_tokens": "embeddings.text_embeddings.word_embeddings",
        "model.token_types": "embeddings.text_embeddings.token_type_embeddings",
        "model.text_positions": "embeddings.text_embeddings.position_embeddings",
        "model.embed_norm": "embeddings.text_embeddings.LayerNorm",
        "model.patches": "embeddings.patch_embeddings.projection",
        "model.class_token.weight": "embeddings.cls_token",
        "model.image_positions.weight": "embeddings.position_embeddings",
        "model.modality": "embeddings.token_type_embeddings",
        "model.norm": "layernorm",
        "model.pooler": "pooler.dense",
        **BERT_LAYER,
    },
)
FAMILY = ImageFamily(
    architecture="ViltForQuestionAnswering",
    spec=Spec(norm=LayerNorm(eps=1e-12)),
    entries=(
        Only("architectures", tuple([kind] for kind in KINDS)),
        LabelCount("answers", KINDS[1], KINDS[0]),
        *sizes(1e-12, "gelu", image=384, patch=32),
        Key("vocab_size", "vocab_size", default=30522),
        Key("max_position_embeddings", "max_length", default=40),
        Only("qkv_bias", (True,)),
        Only("type_vocab_size", (2,)),
        Only("modality_type_vocab_size", (2,)),
    ),
    parts=lambda language: (
        PartNames("head.up_proj.", ("classifier.0.",)),
        PartNames("head.norm.", ("classifier.1.",)),
        PartNames("head.down_proj.", ("classifier.3.",)),
        PartNames("", ("vilt.", ""), NAMES),
    ),
    axes={"cls_token": 2, "embeddings.position_embeddings": 1},
    writes={"max_image_length": -1},
    neutral=frozenset({"max_image_length", "num_images"}),
)
