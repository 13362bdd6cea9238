"""SigLIP: no class token but a learned query that pools, a text encoder that sees both sides, a sigmoid loss.

Zhai et al. 2023, arXiv:2303.15343.
"""

from llmanac.models.families._table import Fixed, Key, Only, stack
from llmanac.models.images.clip import Spec
from llmanac.models.images.families._family import ImageFamily, Inside, PartNames
from llmanac.models.images.families._vision import CLIP_TEXT, CLIP_VISION, TOKENS, sizes, text_sizes
from llmanac.models.images.vit import Spec as ViT
from llmanac.models.images.vit import vision_blocks
from llmanac.models.norms.layernorm import Spec as LayerNorm

VISION = ViT(blocks=vision_blocks("gelu-tanh"), norm=LayerNorm(eps=1e-6), pool="attention")
TEXT = stack(
    {"biases": "all"},
    {"name": "mlp", "activation": "gelu-tanh", "biases": "all"},
    kind="encoder",
    dim=128,
    position="learned",
    norm={"name": "layernorm", "eps": 1e-6},
    embedding_norm="none",
    final_norm="model",
)
SIZES = sizes(1e-6, "gelu_pytorch_tanh")

FAMILY = ImageFamily(
    architecture="SiglipModel",
    spec=Spec(
        vision=VISION,
        text=TEXT,
        dim=TEXT.dim,
        image_projection="none",
        text_projection="bias",
        text_pool="last",
        loss="sigmoid",
    ),
    entries=(
        Inside(
            "vision_config",
            "vision",
            (*SIZES, Only("vision_use_head", (True,))),
            writes={"model_type": "siglip_vision_model"},
        ),
        Inside(
            "text_config",
            "text",
            text_sizes(1e-6, "gelu_pytorch_tanh", 768, 64),
            above=(Key("vocab_size", "vocab_size", default=32000), Key("projection_size", "dim", default=None)),
            writes={"model_type": "siglip_text_model"},
            neutral=TOKENS,
        ),
        Fixed("dim", lambda data: data.get("dim", data["text"]["dim"])),
    ),
    parts=lambda language: (
        PartNames("vision.", ("vision_model.",), CLIP_VISION),
        PartNames("text.", ("text_model.",), CLIP_TEXT),
        PartNames("text_projection.", ("text_model.head.",)),
        PartNames("logit_scale.weight", ("logit_scale",)),
        PartNames("logit_bias.weight", ("logit_bias",)),
    ),
    axes={"probe": 2, "logit_scale": 1, "logit_bias": 1},
)
