"""Idefics: Llama with gated cross-attention to a Perceiver of an image encoder's patches. Laurencon et al. 2023.

Refused by name: norms of queries and keys, further embeddings (`additional_vocab_size`), gates that are vectors.
"""

from typing import Any

from llmanac.models.families import family as language_family
from llmanac.models.families._config import Config, Names, Table
from llmanac.models.families._table import ConfigEntry, Data, Key, Only
from llmanac.models.images.families._family import ImageFamily, Inside, LlamaAbove, PartNames
from llmanac.models.images.families._vision import CLIP_VISION, sizes
from llmanac.models.images.flamingo import Spec
from llmanac.models.images.vit import Spec as ViT
from llmanac.models.images.vit import vision_blocks

VISION = ViT(blocks=vision_blocks("gelu"), patch_bias="none", embedding_norm="model", final_norm="pooled")
PERCEIVER: Table = {
    "attn.q_proj": "0.q_proj",
    "attn.k_proj": "0.k_proj",
    "attn.v_proj": "0.v_proj",
    "attn.o_proj": "0.output_proj",
    "memory_norm": "0.context_layer_norm",
    "norm": "0.latents_layer_norm",
    "mlp_norm": "1.ln",
    "mlp.up_proj": "1.fc",
    "mlp.down_proj": "1.c_proj",
}
GATED: Table = {
    "attn_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
    "attn": "cross_attn",
    "mlp": "mlp",
    "attn_gate.weight": "alpha_cross_attn",
    "mlp_gate.weight": "alpha_dense",
}


class Depth(ConfigEntry):
    """Whether there is a Perceiver."""

    def read(self, config: Config, data: Data) -> None:
        if not config.flag("use_resampler", False):
            data["depth"] = 0

    def write(self, data: Data) -> dict[str, Any]:
        return {"use_resampler": bool(data["depth"])}


SIZES = (*sizes(1e-5, "gelu", patch=14, dim=768)[1:], Key("embed_dim", "dim", default=768))

FAMILY = ImageFamily(
    architecture="IdeficsForVisionText2Text",
    spec=Spec(vision=VISION, text=language_family("llama").spec, encoder="frozen", language="frozen"),
    entries=(
        Inside("vision_config", "vision", SIZES),
        Inside(
            "perceiver_config",
            "vision",
            (),
            above=(
                Key("resampler_n_latents", "latents", default=64),
                Key("resampler_depth", "depth", default=6),
                Key("resampler_n_heads", "heads", default=16),
                Key("resampler_head_dim", "head_dim", default=96),
                Only("qk_layer_norms_perceiver", (False,)),
            ),
            neutral=frozenset({"use_resampler"}),
        ),
        LlamaAbove(),
        Depth(),
        Key("cross_layer_interval", "every", default=1),
        Only("qk_layer_norms", (False,)),
        Only("additional_vocab_size", (0,)),
        Only("alpha_type", ("float",)),
    ),
    parts=lambda language: (
        PartNames("vision.", ("model.vision_model.",), CLIP_VISION),
        PartNames("perceiver.latents.weight", ("model.perceiver_resampler.latents",)),
        PartNames("perceiver.norm.", ("model.perceiver_resampler.layer_norm.",)),
        PartNames("perceiver.blocks.", ("model.perceiver_resampler.",), Names("blocks.*.", PERCEIVER), "model.layers."),
        PartNames("gated.", ("model.",), Names("gated_cross_attn_layers.*.", GATED), "model.layers."),
        PartNames("text.", ("",)),
    ),
    neutral=frozenset(
        """
        alpha_initializer alphas_initializer_range dropout freeze_lm_head freeze_text_layers
        freeze_text_module_exceptions freeze_vision_layers freeze_vision_module_exceptions
        """.split()  # noqa: SIM905
    ),
)
