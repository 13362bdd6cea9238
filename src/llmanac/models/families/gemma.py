"""Gemma 1: GeGLU, norms with weights stored as their distance from 1, embeddings times sqrt(D), a tied head.

Gemma Team 2024, arXiv:2403.08295.
"""

from llmanac.models.families._rope import Rope
from llmanac.models.families._table import Family, Fixed, Key, Only, stack, with_defaults
from llmanac.models.families.llama import BIASES, EPS, FFN, MIXER, SIZES

# "gelu" in the first files means the tanh approximation, with which the models were trained
ACTIVATIONS = {"gelu_pytorch_tanh": "gelu-tanh", "gelu_new": "gelu-tanh", "gelu": "gelu-tanh", "silu": "silu"}

FAMILY = Family(
    architecture="GemmaForCausalLM",
    spec=stack(norm={"name": "rmsnorm", "offset": 1.0}),
    entries=(
        *with_defaults(SIZES, head_dim=256),
        Key("hidden_act", f"{FFN}.activation", ACTIVATIONS, default="gelu_pytorch_tanh"),
        Only("hidden_activation", (None, "gelu_pytorch_tanh")),
        Key("intermediate_size", f"{FFN}.width"),
        Key("attention_bias", f"{MIXER}.biases", BIASES, default=False),
        Key("max_position_embeddings", "max_length", default=8192),
        EPS,
        Key("tie_word_embeddings", "tied", bool, default=True),
        Fixed("embedding_scale", lambda data: float(data["dim"] ** 0.5)),
        Rope(),
        Only("use_bidirectional_attention", (None, False)),
    ),
)
