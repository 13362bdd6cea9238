"""Chameleon: Llama with normed queries and keys over text and image tokens, and a VQ encoder of images.

Its files have no decoder of images, so images can be read but not drawn: ours begins as it is made. The quantizer's
means are not in the files; they begin at its codes. Logits are of the model alone (transformers' class hides image
tokens from its logits). Chameleon team 2024, arXiv:2405.09818.
"""

from typing import Any

from llmanac.core.errors import CheckpointError
from llmanac.models.families._config import Config, Names
from llmanac.models.families._table import ConfigEntry, Data, Key, Only, stack
from llmanac.models.images.dall_e import Spec
from llmanac.models.images.families._family import ImageFamily, Inside, LlamaAbove, PartNames
from llmanac.models.images.vq_vae import Spec as VQ

PREFIX, DIGITS = "IMGIMG", "ABCDEFGHIJ"


class ImageTokens(ConfigEntry):
    """The token of each code: `vocabulary_map` names it IMGIMG, the code's digits as letters from A, Z."""

    def read(self, config: Config, data: Data) -> None:
        table = config.get("vocabulary_map", {})
        codes: dict[int, int] = {}
        for name, token in table.items() if isinstance(table, dict) else ():
            digits = name.removeprefix(PREFIX)[:-1]
            if name.startswith(PREFIX) and digits and len(digits) < 9 and all(digit in DIGITS for digit in digits):
                codes[int("".join(str(DIGITS.index(digit)) for digit in digits))] = token
        count = data["tokenizer"]["codebook"]["codes"]
        if sorted(codes) != list(range(count)) or any(type(token) is not int for token in codes.values()):
            raise CheckpointError(f"{config.path}: vocabulary_map does not name a token for each of the {count} codes")
        data["image_ids"] = [codes[code] for code in range(count)]


class Multipliers(ConfigEntry):
    """A list of numbers."""

    def read(self, config: Config, data: Data) -> None:
        found = config.get("channel_multiplier", [1, 1, 2, 2, 4])
        if not isinstance(found, list) or any(type(n) is not int for n in found):
            raise CheckpointError(f"{config.path}: channel_multiplier must be a list of numbers")
        data["multipliers"] = found

    def write(self, data: Data) -> dict[str, Any]:
        return {"channel_multiplier": data["multipliers"]}


VQ_ENTRIES = (
    Key("resolution", "image", default=512),
    Key("in_channels", "channels", default=3),
    Key("base_channels", "base", default=128),
    Key("num_res_blocks", "blocks", default=2),
    Key("latent_channels", "latent", default=256),
    Key("num_embeddings", "codebook.codes", default=8192),
    Key("embed_dim", "codebook.dim", default=256),
    Key("attn_type", "attention", {"vanilla": "middle", "none": "none"}, default="vanilla"),
    Only("attn_resolutions", (None, [])),
    Only("double_latent", (False,)),
    Multipliers(),
)
TEXT = stack({"qk_norm": "layernorm", "qk_norm_over": "each-head"})

FAMILY = ImageFamily(
    architecture="ChameleonForConditionalGeneration",
    spec=Spec(tokenizer=VQ(base=32, groups=32), text=TEXT, drop=0.0),
    entries=(
        Inside("vq_config", "tokenizer", VQ_ENTRIES, neutral=frozenset({"dropout"})),
        LlamaAbove(),
        ImageTokens(),
        Only("swin_norm", (False,)),
    ),
    parts=lambda language: (
        PartNames("tokenizer.codebook.weight", ("model.vqmodel.quantize.embedding.weight",)),
        PartNames("tokenizer.", ("model.vqmodel.",)),
        PartNames("text.", ("",), Names()),
    ),
    neutral=frozenset({"model_parallel_size", "image_token_id"}),
    absent=("codebook.counts", "codebook.sums", "codebook.started", "tokenizer.decoder."),
)
