"""InstructBLIP: an image encoder, a Q-Former that reads the instruction too, one matrix, OPT. Dai et al. 2023.

Of its language models OPT is read here, not T5.
"""

from dataclasses import replace

from llmanac.models.families import family as language_family
from llmanac.models.families._config import Names, Table
from llmanac.models.families._table import Fixed, Key, Only
from llmanac.models.images.families._family import ImageFamily, Inside, LanguagePart, PartNames
from llmanac.models.images.families._vision import CLIP_VISION, sizes
from llmanac.models.images.families.llava import language_parts
from llmanac.models.images.vit import Spec as ViT
from llmanac.models.images.vlm import QFormerSpec, Spec

VISION = replace(
    CLIP_VISION,
    table={
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"): "self_attn.qkv",
        "self_attn.o_proj": "self_attn.projection",
        "model.position.embeddings.weight": "embeddings.position_embedding",
        **{ours: theirs for ours, theirs in CLIP_VISION.table.items() if ours != "self_attn.o_proj"},
    },
)
QFORMER: Table = {
    **{f"attn.{a}_proj": f"attention.attention.{b}" for a, b in zip("qkv", ("query", "key", "value"), strict=True)},
    "attn.o_proj": "attention.output.dense",
    "attn_norm": "attention.output.LayerNorm",
    **{
        f"cross.{a}_proj": f"crossattention.attention.{b}"
        for a, b in zip("qkv", ("query", "key", "value"), strict=True)
    },
    "cross.o_proj": "crossattention.output.dense",
    "cross_norm": "crossattention.output.LayerNorm",
    "query_mlp.up_proj": "intermediate_query.dense",
    "query_mlp.down_proj": "output_query.dense",
    "query_norm": "output_query.LayerNorm",
    "word_mlp.up_proj": "intermediate.dense",
    "word_mlp.down_proj": "output.dense",
    "word_norm": "output.LayerNorm",
}
SIZES = sizes(1e-6, "gelu", patch=14, dim=1408)

FAMILY = ImageFamily(
    architecture="InstructBlipForConditionalGeneration",
    spec=Spec(
        vision=ViT(), text=language_family("opt").spec, projector="q-former", q_former=QFormerSpec(words=1),
        class_token="keep",
    ),
    entries=(
        Inside("vision_config", "vision", (*SIZES, Only("qkv_bias", (True,)))),
        Inside(
            "qformer_config", "q_former",
            (
                Key("hidden_size", "dim", default=768), Key("num_hidden_layers", "layers", default=12),
                Key("num_attention_heads", "heads", default=12), Key("intermediate_size", "width", default=3072),
                Key("cross_attention_frequency", "every", default=2), Key("vocab_size", "words", default=30522),
                Key("max_position_embeddings", "max_length", default=512),
                Key("layer_norm_eps", "eps", float, default=1e-12), Only("hidden_act", ("gelu",)),
            ),
            above=(Fixed("encoder", lambda data: "frozen"),),
            neutral=frozenset({"encoder_hidden_size"}),
        ),
        LanguagePart(kinds={"opt": "opt"}, default="opt"),
        Key("num_query_tokens", "q_former.queries", default=32),
        Key("image_token_index", "image_id", aliases=("image_token_id",)),
        Only("use_decoder_only_language_model", (True,)),
    ),
    parts=lambda language: (
        PartNames("vision.", ("vision_model.",), VISION),
        PartNames("projector.query_tokens.weight", ("query_tokens",)),
        PartNames("projector.embed_tokens.", ("qformer.embeddings.word_embeddings.",)),
        PartNames("projector.positions.", ("qformer.embeddings.position_embeddings.",)),
        PartNames("projector.norm.", ("qformer.embeddings.layernorm.",)),
        PartNames("projector.layers.", ("qformer.",), Names("encoder.layer.*.", QFORMER), "model.layers."),
        PartNames("to_text.", ("language_projection.",)),
        *language_parts(language),
    ),
    axes={"query_tokens": 1, "class_embedding": 2, "embeddings.position_embedding": 1},
)  # fmt: skip
