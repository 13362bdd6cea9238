"""Feed-forward layers against OPT (ReLU), GPT-2 (GELU), Llama (SwiGLU), Gemma and T5 (GEGLU) in transformers."""

from __future__ import annotations

import pytest
import torch
from _small_models import randomise
from transformers import GemmaConfig, GPT2Config, GptOssConfig, LlamaConfig, NemotronConfig, OPTConfig, T5Config
from transformers.models.gemma.modeling_gemma import GemmaMLP
from transformers.models.gpt2.modeling_gpt2 import GPT2MLP
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts
from transformers.models.llama.modeling_llama import LlamaMLP
from transformers.models.nemotron.modeling_nemotron import NemotronMLP
from transformers.models.opt.modeling_opt import OPTDecoderLayer
from transformers.models.t5.modeling_t5 import T5DenseGatedActDense

from llmanac.core.errors import SpecError
from llmanac.core.registry import build

DIM, WIDTH = 16, 40


def copy(ours, theirs: dict[str, torch.Tensor]):
    ours.load_state_dict(theirs)
    return ours


def compare(ours, reference):
    """Values and the gradients of the input and of every weight."""
    x = (2 * torch.randn(2, 7, DIM, dtype=torch.float64)).requires_grad_()
    a, b = ours(x), reference(x)
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    above = torch.randn_like(a)
    torch.testing.assert_close(
        torch.autograd.grad((a * above).sum(), x)[0],
        torch.autograd.grad((b * above).sum(), x)[0],
        rtol=1e-10,
        atol=1e-12,
    )
    assert (a - x).abs().max() > 0.1


def test_relu_equals_opt():
    config = OPTConfig(hidden_size=DIM, ffn_dim=WIDTH, num_attention_heads=2, activation_function="relu", dropout=0.0)
    layer = randomise(OPTDecoderLayer(config)).double().eval()
    ours = copy(
        build("ffn", "relu", dim=DIM, width=WIDTH, biases="all").double(),
        {
            "up_proj.weight": layer.fc1.weight,
            "up_proj.bias": layer.fc1.bias,
            "down_proj.weight": layer.fc2.weight,
            "down_proj.bias": layer.fc2.bias,
        },
    )
    # the layer's own lines for its feed-forward part; its attention and norms are not asked for
    compare(ours, lambda x: layer.fc2(layer.activation_fn(layer.fc1(x))))


@pytest.mark.parametrize("limit", [0.5, 7.0])
def test_clamped_swiglu_equals_gpt_oss(limit):
    config = GptOssConfig(hidden_size=DIM, intermediate_size=WIDTH, num_local_experts=1, swiglu_limit=limit)
    layer = randomise(GptOssExperts(config)).double()
    gate_up, bias = layer.gate_up_proj[0].t(), layer.gate_up_proj_bias[0]
    ours = copy(
        build("ffn", "clamped-swiglu", dim=DIM, width=WIDTH, limit=limit).double(),
        {
            "gate_proj.weight": gate_up[::2],
            "gate_proj.bias": bias[::2],
            "up_proj.weight": gate_up[1::2],
            "up_proj.bias": bias[1::2],
            "down_proj.weight": layer.down_proj[0].t(),
            "down_proj.bias": layer.down_proj_bias[0],
        },
    )
    compare(ours, lambda x: layer._apply_gate(x @ gate_up.t() + bias) @ layer.down_proj[0] + layer.down_proj_bias[0])
    ours.limit = None
    x = torch.randn(2, 7, DIM, dtype=torch.float64)
    assert limit == 7.0 or (ours(x) - layer(x[0], torch.zeros(7, 1).long(), torch.ones(7, 1))).abs().max() > 0.1
    with pytest.raises(SpecError, match=r"limit: 0\.0 must be above 0"):
        build("ffn", "swiglu", dim=DIM, limit=0.0)


@pytest.mark.parametrize("name, theirs", [("gelu-tanh", "gelu_new"), ("gelu", "gelu"), ("relu", "relu")])
def test_mlp_equals_gpt2(name, theirs):
    reference = randomise(GPT2MLP(WIDTH, GPT2Config(n_embd=DIM, activation_function=theirs, resid_pdrop=0.0))).double()
    ours = copy(
        build("ffn", name, dim=DIM, width=WIDTH, biases="all").double(),
        {
            "up_proj.weight": reference.c_fc.weight.t(),
            "up_proj.bias": reference.c_fc.bias,
            "down_proj.weight": reference.c_proj.weight.t(),
            "down_proj.bias": reference.c_proj.bias,
        },
    )
    compare(ours, reference)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name, act", [("swiglu", "silu"), ("geglu", "gelu"), ("reglu", "relu")])
def test_gated_equals_llama(name, act, bias):
    config = LlamaConfig(hidden_size=DIM, intermediate_size=WIDTH, hidden_act=act, mlp_bias=bias, num_attention_heads=2)
    reference = randomise(LlamaMLP(config)).double()
    ours = build("ffn", name, dim=DIM, width=WIDTH, biases="all" if bias else "none").double()
    compare(copy(ours, reference.state_dict()), reference)


def test_squared_relu_equals_nemotron():
    config = NemotronConfig(hidden_size=DIM, intermediate_size=WIDTH, hidden_act="relu2", mlp_bias=False)
    reference = randomise(NemotronMLP(config)).double()
    ours = copy(build("ffn", "relu-squared", dim=DIM, width=WIDTH).double(), reference.state_dict())
    compare(ours, reference)
    x = torch.randn(2, 7, DIM, dtype=torch.float64)
    plain = copy(build("ffn", "relu", dim=DIM, width=WIDTH).double(), reference.state_dict())
    assert (ours(x) - plain(x)).abs().max() > 0.1


def test_geglu_equals_gemma():
    config = GemmaConfig(hidden_size=DIM, intermediate_size=WIDTH, hidden_act="gelu_pytorch_tanh")
    reference = randomise(GemmaMLP(config)).double()
    compare(copy(build("ffn", "geglu-tanh", dim=DIM, width=WIDTH).double(), reference.state_dict()), reference)


def test_geglu_equals_t5():
    config = T5Config(d_model=DIM, d_ff=WIDTH, feed_forward_proj="gated-gelu", dropout_rate=0.0)
    reference = randomise(T5DenseGatedActDense(config)).double().eval()
    state = {
        "gate_proj.weight": reference.wi_0.weight,
        "up_proj.weight": reference.wi_1.weight,
        "down_proj.weight": reference.wo.weight,
    }
    compare(copy(build("ffn", "geglu-tanh", dim=DIM, width=WIDTH).double(), state), reference)


def test_default_widths_have_equal_parameters():
    count = {
        name: sum(p.numel() for p in build("ffn", name, dim=384).parameters()) for name in ("relu", "swiglu", "geglu")
    }
    assert count["swiglu"] == count["geglu"]
    assert abs(count["swiglu"] / count["relu"] - 1) < 0.02
