"""ModernBERT: a pre-norm encoder with rotary positions, GeGLU and windows in two of three layers, each with its theta.

The first layer has no norm before attention: the embeddings are normed already. Its blocks are listed one by one.
Warner et al. 2024, arXiv:2412.13663.

ModernBERT's layers: which see a window and how wide, what each kind rotates by, and that the first has no norm.
"""

from copy import deepcopy
from typing import Any

from llmanac.core.errors import CheckpointError, shown
from llmanac.models.families._config import Config, Names
from llmanac.models.families._labels import Labels
from llmanac.models.families._table import ACTIVATIONS, ConfigEntry, Data, Family, Key, Only, stack, with_defaults
from llmanac.models.families._windows import FULL, SLIDING
from llmanac.models.families.bert import FFN, MIXER, MaskedHeadNames
from llmanac.models.families.llama import BIASES, SIZES

MOST_LAYERS = 1000
THETAS = {FULL: ("global_rope_theta", 160_000.0), SLIDING: ("local_rope_theta", 10_000.0)}


class LocalLayers(ConfigEntry):
    """Which layers see a window, how wide it is, and what each kind rotates by."""

    def read(self, config: Config, data: Data) -> None:
        layers, every = data["layers"], config.number("global_attn_every_n_layers", int, 3)
        if layers > MOST_LAYERS:
            raise CheckpointError(f"{config.path}: num_hidden_layers is {layers:,}; at most {MOST_LAYERS:,} are read")
        half = config.number("local_attention", int, 128) // 2
        config.expect("sliding_window", half)  # by which transformers would set the other
        window = half + 1
        kinds = config.get("layer_types") or [SLIDING if i % every else FULL for i in range(layers)]
        if not isinstance(kinds, list) or len(kinds) != layers or any(kind not in (FULL, SLIDING) for kind in kinds):
            raise CheckpointError(
                f"{config.path}: layer_types is {shown(kinds)}, expected {layers} times {FULL} or {SLIDING}"
            )
        thetas = {kind: self._theta(config, kind) for kind in THETAS}
        data["position"]["theta"] = thetas[FULL]
        block = data["blocks"][0]
        data["blocks"] = [deepcopy(block) for _ in kinds]
        for made, kind in zip(data["blocks"], kinds, strict=True):
            if kind == SLIDING:
                made["mixer"]["window"] = window
                made["position"] = {"name": "rope", "theta": thetas[SLIDING]}
        data["blocks"][0]["first_norm"] = "none"

    def _theta(self, config: Config, kind: str) -> float:
        old, default = THETAS[kind]
        tables = config.get("rope_parameters", {})
        table = tables.get(kind) or {} if isinstance(tables, dict) else None
        if not isinstance(table, dict):
            raise CheckpointError(f"{config.path}: rope_parameters is {shown(tables)}, expected a table for each kind")
        own = Config(table, f"{config.path}: rope_parameters.{kind}")
        own.expect("rope_type", "default")
        theta: float = own.number("rope_theta", float, config.number(old, float, default))
        own.finish()
        return theta

    def write(self, data: Data) -> dict[str, Any]:
        blocks, thetas = data["blocks"], {FULL: data["position"].get("theta")}
        blocks = [blocks[i % len(blocks)] for i in range(data["layers"])]
        windows = [block.get("mixer", {}).get("window") for block in blocks]
        local: Data = next((block for block, window in zip(blocks, windows, strict=True) if window), {})
        thetas[SLIDING] = (local.get("position") or {}).get("theta", THETAS[SLIDING][1])
        return {
            "layer_types": [SLIDING if window else FULL for window in windows],
            "local_attention": 2 * (next(filter(None, windows), 65) - 1),
            "rope_parameters": {kind: {"rope_type": "default", "rope_theta": theta} for kind, theta in thetas.items()},
        }


NORM_BIAS = {True: "learned", False: "none"}
HEAD_BIASES = {(False, False): "none", (True, False): "layer", (False, True): "vocabulary", (True, True): "all"}
NEUTRAL = """
classifier_dropout classifier_pooling deterministic_flash_attn embedding_dropout initializer_cutoff_factor
layer_norm_eps mlp_dropout reference_compile repad_logits_with_grad sparse_pred_ignore_index sparse_prediction
"""


def _head(config: Config, data: Data) -> Data:
    biases = HEAD_BIASES[config.flag("classifier_bias", False), config.flag("decoder_bias", True)]
    activation = config.choose("classifier_activation", ACTIVATIONS, "gelu")
    return {"activation": activation, "biases": biases, "norm": dict(data["norm"])}


def _written(head: Data) -> dict[str, Any]:
    layer, vocabulary = next(pair for pair, name in HEAD_BIASES.items() if name == head.get("biases", "all"))
    activation = next((theirs for theirs, ours in ACTIVATIONS.items() if ours == head.get("activation")), None)
    return {"classifier_bias": layer, "decoder_bias": vocabulary, "classifier_activation": activation}


POOLING = {"cls": "first", "mean": "mean"}


def _labels(config: Config, data: Data) -> Data:
    place = config.choose("classifier_pooling", POOLING, "cls")
    return _head(config, data) | {
        "place": place, "biases": "all" if config.flag("classifier_bias", False) else "labels",
    }  # fmt: skip


def _labels_written(head: Data) -> dict[str, Any]:
    activation = next((theirs for theirs, ours in ACTIVATIONS.items() if ours == head.get("activation")), None)
    pooling = next((theirs for theirs, ours in POOLING.items() if ours == head.get("place")), "cls")
    layer = head.get("biases", "all") == "all"
    return {"classifier_bias": layer, "classifier_activation": activation, "classifier_pooling": pooling}


FAMILY = Family(
    architecture="ModernBertForMaskedLM",
    spec=stack(
        kind="encoder", ffn={"activation": "gelu"}, norm={"name": "layernorm", "bias": "none"}, final_norm="model"
    ),
    entries=(
        *with_defaults(
            SIZES[:4], vocab_size=50368, hidden_size=768, num_hidden_layers=22, num_attention_heads=12
        ),
        Key("intermediate_size", f"{FFN}.width", default=1152),
        Key("hidden_activation", f"{FFN}.activation", ACTIVATIONS, default="gelu"),
        Key("attention_bias", f"{MIXER}.biases", BIASES, default=False),
        Key("mlp_bias", f"{FFN}.biases", BIASES, default=False),
        Key("max_position_embeddings", "max_length", default=8192),
        Key("norm_eps", "norm.eps", float, default=1e-5),
        Key("norm_bias", "norm.bias", NORM_BIAS, default=False),
        Only("position_embedding_type", (None, "absolute")),
        LocalLayers(),
        MaskedHeadNames("ModernBertForMaskedLM", "ModernBertModel", _head, _written, untied=True),
    ),
    names=(
        Names(
            table={
                "model.embed_tokens": "model.embeddings.tok_embeddings",
                "embed_norm": "model.embeddings.norm",
                "model.norm": "model.final_norm",
                "input_layernorm": "attn_norm",
                ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"): "attn.Wqkv",
                "self_attn.o_proj": "attn.Wo",
                "post_attention_layernorm": "mlp_norm",
                ("mlp.gate_proj", "mlp.up_proj"): "mlp.Wi",
                "mlp.down_proj": "mlp.Wo",
                "lm_head.dense": "head.dense",
                "lm_head.norm": "head.norm",
                "lm_head.weight": "decoder.weight",
                "lm_head.bias": "decoder.bias",
            },
        ),
    ),
    writes={"attention_dropout": 0.0, "embedding_dropout": 0.0, "mlp_dropout": 0.0},
    neutral=frozenset(NEUTRAL.split()),
    labels=Labels(
        "classifier", "classifier", "head.dense", "head.norm", "first", "gelu", "all", _labels, _labels_written, True
    ),
)  # fmt: skip
