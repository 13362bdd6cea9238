"""The architectures of GGUF files as families: keys, names of tensors, and what the files store differently.

    llama, phi3, ...:   blk.0.attn_q.weight  <->  model.layers.0.self_attn.q_proj.weight

`llama` files have the rows of queries and keys in the order of interleaved rotation; `gemma` ones the weights of norms
with 1 added. `key` and `name` below are those of the file without `ARCHITECTURE.` and `.weight`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llmanac.core.errors import CheckpointError, shown
from llmanac.kernels.gguf.blocks import Array
from llmanac.models.folder import LARGEST, LEAST, MOST

Config = dict[str, Any]

WHOLE = {  # key -> that of config.json
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
}
RMS, LAYER = "attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon"  # added by norms of the two kinds
NEEDED = tuple(list(WHOLE)[:5])
SIZE, REAL_NUMBER = (int, 1, MOST), (float, LEAST, LARGEST)
BOUNDS: dict[str, tuple[Any, Any, Any]] = {  # key -> the type of its value, the least and the most that it may be
    **dict.fromkeys(WHOLE, SIZE), "rope.freq_base": REAL_NUMBER,
    **dict.fromkeys((RMS, LAYER), (float, LEAST, 1.0)), "attention.value_length": SIZE,
    "attention.sliding_window": SIZE, "attention.sliding_window_pattern": SIZE,
    "attn_logit_softcapping": REAL_NUMBER, "final_logit_softcapping": REAL_NUMBER,
    "rope.freq_base_swa": REAL_NUMBER, "rope.dimension_count": SIZE, "rope.scaling.type": (str, "", "\U0010ffff"),
    "rope.scaling.factor": REAL_NUMBER, "rope.scale_linear": REAL_NUMBER, "rope.scaling.attn_factor": REAL_NUMBER,
    "rope.scaling.original_context_length": SIZE, "rope.scaling.finetuned": (bool, False, True), "vocab_size": SIZE,
    "attention.scale": REAL_NUMBER, "embedding_scale": REAL_NUMBER, "residual_scale": REAL_NUMBER,
    "logit_scale": REAL_NUMBER, "use_parallel_residual": (bool, False, True),
}  # fmt: skip
LISTED = ("feed_forward_length", "attention.head_count", "attention.head_count_kv")  # that may be a value a layer
# read with others, or of no effect on what a model computes
OTHERS = (
    "attention.value_length", "vocab_size", "rope.dimension_count", "rope.scale_linear",
    *(key for key in BOUNDS if key.startswith("rope.scaling.")),
)  # fmt: skip
FREQUENCIES = "rope_freqs.weight"  # what the frequencies of rotation are divided by
FACTORS = {"short_factor": "rope_factors_short.weight", "long_factor": "rope_factors_long.weight"}  # of longrope

TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
ATTENTION = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
}  # fmt: skip
PRE_NORM = {
    **ATTENTION, "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}  # fmt: skip
FUSED = {**PRE_NORM, "attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"}
SANDWICH = {
    **PRE_NORM, "post_attention_norm": "post_attention_layernorm", "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}  # fmt: skip
AROUND = {
    **FUSED, "post_attention_norm": "post_self_attn_layernorm", "ffn_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_mlp_layernorm",
}  # fmt: skip
CODED = {**PRE_NORM, "ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj"}
COUNTED = {**ATTENTION, "attn_output": "self_attn.dense", "ffn_up": "mlp.fc1", "ffn_down": "mlp.fc2"}


@dataclass(frozen=True)
class Architecture:
    """See the module.

    Attributes:
        family: the model_type of config.json.
        names: of the tensors in a layer; keys: further ones -> config.json.
        none: those of them that may be 0, for none.
        permuted: whether rows of queries and keys are in the order of interleaved rotation.
        shift: what is added to the weights of norms.
        partial: whether a part of each head may rotate.
        scalings: of the rotation, that llama.cpp has for these files.
        tokens: which llama.cpp takes for granted.
        more: sets what the files leave to their readers.
        top: names of the tensors that are in no layer; eps: what norms add, in the file and in config.json.
        biases: key of config.json -> the tensor that has a bias where it is true.
    """

    family: str
    names: Mapping[str, str] = field(default_factory=lambda: PRE_NORM)
    keys: Mapping[str, str] = field(default_factory=dict)
    none: tuple[str, ...] = ()
    permuted: bool = False
    shift: float = 0.0
    partial: bool = False
    scalings: tuple[str, ...] = ("linear", "yarn")
    tokens: tuple[str, ...] = ()
    more: Callable[[Config], Config] = lambda config: {}
    top: Mapping[str, str] = field(default_factory=lambda: TOP)
    eps: tuple[str, str] = (RMS, "rms_norm_eps")
    biases: Mapping[str, str] = field(default_factory=dict)

    @property
    def all_keys(self) -> dict[str, str]:
        """Keys of the file -> those of config.json."""
        return {**WHOLE, self.eps[0]: self.eps[1], "rope.freq_base": "rope_theta", **self.keys}

    def theirs(self, name: str) -> str | None:
        """The family's name of a tensor."""
        own, _, ending = name.rpartition(".")
        if ending not in ("weight", "bias"):
            return None
        if found := self.top.get(own):
            return f"{found}.{ending}"
        match = re.fullmatch(r"blk\.([0-9]{1,6})\.(\w+)", own)
        inner = self.names.get(match[2]) if match else None
        return f"model.layers.{match[1]}.{inner}.{ending}" if match and inner else None

    def ours(self, name: str) -> str:
        """The file's name of a family's tensor."""
        own, _, ending = name.rpartition(".")
        if match := re.fullmatch(r"model\.layers\.(\d+)\.(.+)", own):
            inner = next(key for key, theirs in self.names.items() if theirs == match[2])
            return f"blk.{match[1]}.{inner}.{ending}"
        return f"{next(key for key, theirs in self.top.items() if theirs == own)}.{ending}"

    def heads(self, theirs: str, config: Config) -> int | None:
        """How many heads the rows of a tensor are, where they are permuted."""
        if not self.permuted or ".self_attn." not in theirs:
            return None
        number = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}.get(theirs.split(".")[-2])
        return None if number is None else config[number]


def interleaved(rows: Array, heads: int) -> Array:
    """Rows of `heads` heads, of which halves rotate with each other -> neighbours rotate with each other."""
    return np.ascontiguousarray(rows.reshape(heads, 2, -1, *rows.shape[1:]).swapaxes(1, 2)).reshape(rows.shape)


def halved(rows: Array, heads: int) -> Array:
    """The inverse of `interleaved`."""
    return np.ascontiguousarray(rows.reshape(heads, -1, 2, *rows.shape[1:]).swapaxes(1, 2)).reshape(rows.shape)


def _windows(period: int) -> Callable[[Config], Config]:
    """Gemma 2 and 3: each `period`-th layer sees all tokens; the files of the largest model imply its scale."""

    def more(config: Config) -> Config:
        every = config.pop("sliding_window_pattern", period)  # None: no layer sees all tokens
        layers, heads, dim = (config[key] for key in ("num_hidden_layers", "num_attention_heads", "hidden_size"))
        largest = layers == {2: 46, 6: 62}[period]
        kinds = ["full_attention" if every and (i + 1) % every == 0 else "sliding_attention" for i in range(layers)]
        return {
            "hidden_activation": "gelu_pytorch_tanh", "layer_types": kinds,
            "query_pre_attn_scalar": dim // heads if largest else config["head_dim"],
        }  # fmt: skip

    return more


def _unlimited(config: Config) -> Config:
    return {"sliding_window": None, "layer_types": ["full_attention"] * config["num_hidden_layers"]}


WINDOW = {"attention.sliding_window": "sliding_window"}
WINDOWS = {**WINDOW, "attention.sliding_window_pattern": "sliding_window_pattern"}
FINAL_CAP = {"final_logit_softcapping": "final_logit_softcapping"}
CAPS = {"attn_logit_softcapping": "attn_logit_softcapping", **FINAL_CAP}
FACTORS_OF_GRANITE = {
    "attention.scale": "attention_multiplier", "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier", "logit_scale": "logits_scaling",
}  # fmt: skip
SCALED = {"logit_scale": "logit_scale"}
BIASED, BOTH = {"attention_bias": "attn_q"}, {"attention_bias": "attn_q", "mlp_bias": "ffn_up"}
CENTRED = (LAYER, "layer_norm_eps")
UNLIMITED = ("attention.sliding_window_pattern", *CAPS)
ARCHITECTURES = {
    "llama": Architecture("llama", biases=BOTH, permuted=True, scalings=("linear", "yarn", "llama3", "longrope")),
    "granite": Architecture(
        "granite",
        keys=FACTORS_OF_GRANITE,
        biases=BOTH,
        permuted=True,
        more=lambda config: {"attention_multiplier": config.get("attention_multiplier", config["head_dim"] ** -0.5)},
    ),
    "qwen2": Architecture("qwen2"),
    "qwen3": Architecture("qwen3", biases=BIASED),
    "phi3": Architecture(
        "phi3",
        FUSED,
        WINDOW,
        none=("attention.sliding_window",),
        partial=True,
        scalings=("longrope",),
        tokens=("<s>", "</s>", "<unk>", "<|endoftext|>"),
    ),
    "gemma": Architecture("gemma", shift=1.0, more=lambda config: {"hidden_act": "gelu_pytorch_tanh"}),
    "gemma2": Architecture("gemma2", SANDWICH, {**WINDOWS, **CAPS}, UNLIMITED, shift=1.0, more=_windows(2)),
    "gemma3": Architecture(
        "gemma3_text",
        SANDWICH,
        {**WINDOWS, **FINAL_CAP, "rope.freq_base_swa": "rope_local_base_freq"},
        UNLIMITED,
        shift=1.0,
        more=_windows(6),
    ),
    "smollm3": Architecture("smollm3", biases=BOTH, permuted=True),
    "ernie4_5": Architecture("ernie4_5", biases={"use_bias": "attn_q"}),
    "olmo2": Architecture("olmo2", SANDWICH, biases=BIASED),
    "exaone4": Architecture("exaone4", SANDWICH, more=_unlimited),
    "chatglm": Architecture("glm", FUSED, biases=BIASED, partial=True),
    "glm4": Architecture("glm4", AROUND, biases=BIASED, partial=True),
    "starcoder2": Architecture("starcoder2", CODED, WINDOW, ("attention.sliding_window",), eps=(LAYER, "norm_epsilon")),
    "stablelm": Architecture(
        "stablelm",
        keys={"use_parallel_residual": "use_parallel_residual"},
        eps=CENTRED,
        biases={"use_qkv_bias": "attn_q"},
        partial=True,
    ),
    "phi2": Architecture(
        "phi", COUNTED, eps=CENTRED, top={**TOP, "output_norm": "model.final_layernorm"}, partial=True
    ),
    "command-r": Architecture("cohere", keys=SCALED, eps=CENTRED),
    "cohere2": Architecture("cohere2", keys={**SCALED, **WINDOW}, eps=CENTRED),
    "nemotron": Architecture("nemotron", eps=(LAYER, "norm_eps"), biases=BOTH, partial=True, shift=1.0),
}


def architecture(metadata: Mapping[str, Any], path: object) -> tuple[str, Architecture]:
    """`(name, table)` of a file. Raises CheckpointError for one that is not known."""
    name = metadata.get("general.architecture")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise CheckpointError(
            f"{path}: general.architecture is {shown(name)}, which is not read (known: {', '.join(ARCHITECTURES)})"
        )
    return name, ARCHITECTURES[name]
