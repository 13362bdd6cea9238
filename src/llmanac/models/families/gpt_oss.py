"""gpt-oss: attention with sinks, a window in every second layer, YaRN, and experts with a clamped SwiGLU and biases.

Gate and up take turns in one tensor of all experts, stored (inputs, outputs). The released files hold experts in MXFP4,
which is not read: `quantization_config` is refused, and files that transformers wrote in bfloat16 are read. OpenAI
2025, arXiv:2508.10925.
"""

from llmanac.models.families._config import Config, Names
from llmanac.models.families._rope import TRAINED, Rope
from llmanac.models.families._table import Data, Family, Key, Only, stack, with_defaults
from llmanac.models.families._windows import alternating
from llmanac.models.families.llama import BIASES, FFN, MIXER, SIZES, TIED

EXPERT = {"name": "gated", "activation": "quick-gelu", "shift": 1.0, "biases": "all"}
UNSAID = {"rope_type": "yarn", "factor": 32.0, "truncate": False, TRAINED: 4096}
STACKED, BIAS = "mlp.experts.gate_up_proj", "mlp.experts.gate_up_proj_bias"


class GptOssScaling(Rope):
    """As in transformers, a config without rotary settings means those of the released models."""

    def read(self, config: Config, data: Data) -> None:
        if config.get("rope_parameters") is None and not config.get("rope_scaling"):  # an empty table asks for none
            config.data["rope_parameters"] = UNSAID
        super().read(config, data)


FAMILY = Family(
    architecture="GptOssForCausalLM",
    spec=stack(
        mixer={"score": {"name": "scaled-dot", "sinks": "learned"}},
        ffn={"name": "experts", "expert": EXPERT, "router_bias": "learned"},
    ),
    entries=(
        *with_defaults(SIZES, num_key_value_heads=8, head_dim=64),
        Key("num_local_experts", f"{FFN}.experts", default=128, aliases=("num_experts",)),
        Key("num_experts_per_tok", f"{FFN}.top_k", default=4),
        Key("intermediate_size", f"{FFN}.expert.width"),
        Key("swiglu_limit", f"{FFN}.expert.limit", float, default=7.0),
        Only("swiglu_alpha", (1.702,)),
        Only("hidden_act", ("silu",)),  # what transformers writes, and does not read
        Key("router_aux_loss_coef", f"{FFN}.balance", float, default=0.001),
        Key("attention_bias", f"{MIXER}.biases", BIASES, default=True),
        Key("max_position_embeddings", "max_length", default=131072),
        Key("rms_norm_eps", "norm.eps", float, default=1e-5),
        TIED,
        GptOssScaling(theta=150_000.0),
        alternating(2, 128),
        Only("output_router_logits", (False, True)),
    ),
    names=(
        Names(
            table={
                "self_attn.score.sinks": "self_attn.sinks",
                ("mlp.experts.*.gate_proj.weight", "mlp.experts.*.up_proj.weight"): STACKED,
                ("mlp.experts.*.gate_proj.bias", "mlp.experts.*.up_proj.bias"): BIAS,
                "mlp.experts.*.down_proj.weight": "mlp.experts.down_proj",
                "mlp.experts.*.down_proj.bias": "mlp.experts.down_proj_bias",
            },
            transposed=frozenset({STACKED, "mlp.experts.down_proj"}),
            alternating=frozenset({STACKED, BIAS}),
        ),
    ),
    neutral=frozenset({"initial_context_length", "experts_per_token"}),  # said again, and not read by transformers
)
