"""BridgeTower for matching: CLIP's and RoBERTa's last blocks, each linked to a layer of co-attention. Xu et al. 2022.

Links of the kind `add` and one transform for all layers, as in the published models.
"""

from llmanac.models.families import family as language_family
from llmanac.models.families._config import Config, Names, Table
from llmanac.models.families._table import ConfigEntry, Data, Fixed, Key, Only
from llmanac.models.families.bert import LAYER
from llmanac.models.images.co_attention import Spec
from llmanac.models.images.families._family import ImageFamily, Inside, LanguagePart, PartNames
from llmanac.models.images.families._vision import BERT, FFN, MIXER
from llmanac.models.images.vit import Spec as ViT
from llmanac.models.images.vit import vision_blocks

VISION = Names(
    layers="transformer.resblocks.*.",
    table={
        "model.patches": "embeddings.patch_embedding",
        "model.class_token.weight": "embeddings.class_embedding",
        "model.position.embeddings": "embeddings.position_embedding",
        "model.embed_norm": "ln_pre",
        "model.norm": "ln_post",
        **{
            tuple(f"self_attn.{part}_proj.{end}" for part in "qkv"): f"attn.in_proj_{end}" for end in ("weight", "bias")
        },
        "self_attn.o_proj": "attn.out_proj",
        "input_layernorm": "ln_1",
        "post_attention_layernorm": "ln_2",
        "mlp.up_proj": "mlp.c_fc",
        "mlp.down_proj": "mlp.c_proj",
    },
)
CROSS: Table = {
    "encoder_attn.q_proj": "crossattention.self.query",
    "encoder_attn.k_proj": "crossattention.self.key",
    "encoder_attn.v_proj": "crossattention.self.value",
    "encoder_attn.o_proj": "crossattention.output.dense",
    "post_encoder_layernorm": "crossattention.output.LayerNorm",
    **LAYER,
}


class BridgeLayers(ConfigEntry):
    """The layers of co-attention, which have the shape of the text's."""

    def read(self, config: Config, data: Data) -> None:
        text = data["text"]["blocks"][0]
        block = data["blocks"][0]
        for part in ("mixer", "cross"):
            block[part]["heads"] = text["mixer"]["heads"]
        block["ffn"]["width"], block["ffn"]["activation"] = text["ffn"].get("width"), text["ffn"]["activation"]
        config.expect("hidden_size", data["text"]["dim"])
        config.expect("num_attention_heads", text["mixer"]["heads"])
        config.expect("layer_norm_eps", data["text"]["norm"]["eps"])
        data["dim"], data["norm"]["eps"] = data["text"]["dim"], data["text"]["norm"]["eps"]


def _stream(ours: str, theirs: str) -> tuple[PartNames, ...]:
    links = {f"{number}": f"{number - 1}.LayerNorm" for number in range(1, 64)}
    return (
        PartNames(f"{ours}.proj.", (f"bridgetower.cross_modal_{theirs}_transform.",)),
        PartNames(f"{ours}.pooler.", (f"bridgetower.cross_modal_{theirs}_pooler.dense.",)),
        PartNames(f"{ours}.norms.0.", (f"bridgetower.cross_modal_{theirs}_layernorm.",)),
        *(
            PartNames(f"{ours}.norms.{a}.", (f"bridgetower.cross_modal_{theirs}_link_tower.{b}.",))
            for a, b in links.items()
        ),
        PartNames(
            f"{ours}.layers.", ("bridgetower.",), Names(f"cross_modal_{theirs}_layers.*.", CROSS), "model.layers."
        ),
    )


FAMILY = ImageFamily(
    architecture="BridgeTowerForImageAndTextRetrieval",
    spec=Spec(
        vision=ViT(
            blocks=vision_blocks("quick-gelu"), patch_bias="none", embedding_norm="model"
        ),
        text=language_family("roberta").spec,
        links="bridge",
    ),
    entries=(
        Inside(
            "vision_config", "vision",
            (
                Key("hidden_size", "dim", default=768), Key("num_hidden_layers", "layers", default=12),
                Key("num_channels", "channels", default=3), Key("image_size", "image", default=288),
                Key("patch_size", "patch", default=16), Key("layer_norm_eps", "norm.eps", float, default=1e-5),
                Fixed(f"{MIXER}.heads", lambda data: data["dim"] // 64),
                Fixed(f"{FFN}.width", lambda data: 4 * data["dim"]),
                Only("share_layernorm", (True,)), Only("remove_last_layer", (False,)),
            ),
            neutral=frozenset({"stop_gradient"}),
        ),
        LanguagePart(kinds={"bridgetower_text_model": "roberta"}, default="bridgetower_text_model"),
        Key("num_hidden_layers", "layers", default=6),
        BridgeLayers(),
        Only("link_tower_type", ("add",)),
        Only("share_cross_modal_transformer_layers", (True,)),
        Only("share_link_tower_layers", (False,)),
        Only("architectures", (["BridgeTowerForImageAndTextRetrieval"],)),
    ),
    parts=lambda language: (
        PartNames("vision.", ("bridgetower.vision_model.visual.",), VISION),
        PartNames("text.", ("bridgetower.text_model.",), BERT),
        PartNames("modality.", ("bridgetower.token_type_embeddings.",)),
        PartNames("classifier.", ("itm_score.fc.",)),
        *_stream("texts", "text"),
        *_stream("images", "image"),
    ),
    neutral=frozenset({"hidden_act", "init_layernorm_from_vision_encoder"}),
    ignored=("text_model.pooler.dense.weight", "text_model.pooler.dense.bias", ".position_ids"),
)  # fmt: skip
