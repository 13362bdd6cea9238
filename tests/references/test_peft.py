"""Adapters against PEFT on models of transformers: outputs, gradients and files, both ways, in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from _small_models import randomise
from peft import LoraConfig, PeftModel, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Glm4Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    Phi3Config,
    Qwen3Config,
)
from transformers.models.llama import modeling_llama
from transformers.models.phi3 import modeling_phi3
from transformers.models.qwen3 import modeling_qwen3

from llmanac.adapters.load import load_adapter, save_adapter
from llmanac.core.errors import CheckpointError, SpecError
from llmanac.core.types import Batch
from llmanac.models.load import load_model

pytestmark = pytest.mark.usefixtures("one_thread")
SIZES = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
LLAMA = {**SIZES, "intermediate_size": 48, "num_key_value_heads": 2, "max_position_embeddings": 64}
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
CONFIGS = {
    "llama": LlamaConfig(**LLAMA, tie_word_embeddings=False),
    "tied": LlamaConfig(**LLAMA, tie_word_embeddings=True),
    "biased": LlamaConfig(**LLAMA, tie_word_embeddings=False, attention_bias=True, mlp_bias=True),
    "gpt2": GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_positions=64),
    "phi3": Phi3Config(**LLAMA, tie_word_embeddings=False, **IDS),
    "neox": GPTNeoXConfig(**SIZES, intermediate_size=48, max_position_embeddings=64, tie_word_embeddings=False),
    "qwen3": Qwen3Config(**LLAMA, head_dim=16, tie_word_embeddings=False),
    "glm4": Glm4Config(**LLAMA, head_dim=8, **IDS),  # keys turn in pairs
    "bloom": BloomConfig(vocab_size=97, hidden_size=32, n_layer=2, n_head=4),  # ALiBi
    "windows": MistralConfig(**LLAMA, sliding_window=6),
    "mamba": MambaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=2, state_size=4),
}
LORA = {
    "lora": {"lora_alpha": 8},
    "rslora": {"lora_alpha": 6, "use_rslora": True},
    "dora": {"lora_alpha": 8, "use_dora": True},
    "patterns": {"lora_alpha": 8, "rank_pattern": {"layers.1.mlp.up_proj": 2}, "alpha_pattern": {"q_proj": 5}},
}
TARGETS = {
    "llama": "all-linear",
    "tied": ["q_proj", "down_proj", "lm_head"],
    "gpt2": ["c_attn", "mlp.c_proj", "c_fc"],
    "phi3": ["qkv_proj", "gate_up_proj", "o_proj"],
    "neox": ["query_key_value", "dense"],
    "mamba": ["in_proj", "x_proj"],
}
ROWS = [12, 5, 9]


@pytest.fixture(autouse=True)
def exact_norms(monkeypatch):
    """The peers' norms compute in float32 even in a float64 model."""
    for module, name in (
        (modeling_llama, "LlamaRMSNorm"), (modeling_phi3, "Phi3RMSNorm"), (modeling_qwen3, "Qwen3RMSNorm"),
    ):  # fmt: skip
        monkeypatch.setattr(
            getattr(module, name),
            "forward",
            lambda self, x: F.rms_norm(x, self.weight.shape, self.weight, self.variance_epsilon),
        )


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    found = {}
    for name, config in CONFIGS.items():
        found[name] = tmp_path_factory.mktemp(name)
        randomise(AutoModelForCausalLM.from_config(config)).save_pretrained(found[name])
    return found


def peer_of(folder, adapter=None):
    """A model of transformers in float64, with PEFT's adapter: a config, or a folder."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation=None).eval()
    if adapter is None:
        return model
    if isinstance(adapter, (LoraConfig, PrefixTuningConfig, PromptTuningConfig)):
        model = get_peft_model(model, adapter, autocast_adapter_dtype=False).double()
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.empty(parameter.shape).normal_(0, 0.2, generator=generator))
        return model.eval()
    return PeftModel.from_pretrained(model, adapter, autocast_adapter_dtype=False).double()


def ours_of(folder):
    return load_model(folder, dtype=torch.float64, device="cpu")


def texts():
    ids = torch.randint(97, (3, 12), generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor(ROWS)
    return ids, lengths, torch.arange(12) < lengths[:, None]


def theirs(peer, first=0):
    """Logits of the real tokens after `first` virtual ones, and the summed loss."""
    ids, _, real = texts()
    logits = peer(input_ids=ids, attention_mask=real.long()).logits[:, first:].double()
    labels = ids.masked_fill(~real, -100)
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
    return logits[real], loss


def own(model):
    ids, lengths, real = texts()
    labels = torch.cat([ids.masked_fill(~real, -100)[:, 1:], torch.full((3, 1), -100)], 1)
    batch = Batch(ids=ids, targets=labels, lengths=lengths)
    return model(batch).logits[real], model.nll(batch)


def compare(folder, written, peer, tmp_path, *, first=0, atol=1e-9, gradients=True):
    """PEFT's files on our model: logits, loss, gradients; what is written here in PEFT again."""
    model = ours_of(folder)
    plain = own(model)[0]
    transform = load_adapter(model, written)
    expected, loss = theirs(peer, first)
    found, nll = own(model)
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)
    torch.testing.assert_close(nll, loss, rtol=max(1e-9, atol), atol=0)
    assert (found - plain).abs().max() > 0.05
    nll.backward()
    found_gradients = {name: p.grad for name, p in transform.parameters().items()}
    keys = ("k_proj.bias", "query_key_value.bias")  # which a softmax does not see
    assert all(g is not None and g.abs().max() > 1e-6 for n, g in found_gradients.items() if not n.endswith(keys))
    if gradients:
        loss.backward()
        _compare_gradients(folder, peer, found_gradients, tmp_path, atol)
    save_adapter(transform, tmp_path / "ours", base=str(folder))
    again, _ = theirs(peer_of(folder, tmp_path / "ours").eval(), first)
    # PEFT reads the vectors of a prompt or prefix into float32
    torch.testing.assert_close(again, expected, rtol=0, atol=2e-6 if written_lead(transform) else atol)
    reread = ours_of(folder)
    load_adapter(reread, tmp_path / "ours")
    torch.testing.assert_close(own(reread)[0], found, rtol=0, atol=1e-12)
    with transform.disabled():
        torch.testing.assert_close(own(model)[0], plain, rtol=0, atol=1e-12)
    return model, transform


def written_lead(transform):
    return transform.spec.name in ("prefix", "prompt")


def _compare_gradients(folder, peer, gradients, tmp_path, atol):
    """PEFT's gradients by the names of its files, read as an adapter."""
    with torch.no_grad():
        for parameter in peer.parameters():
            if parameter.requires_grad:
                parameter.copy_(parameter.grad)
    peer.save_pretrained(tmp_path / "gradients")
    their = load_adapter(ours_of(folder), tmp_path / "gradients").state()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, their[name], rtol=max(1e-8, atol), atol=atol)


SLOW = [("mamba", "lora"), ("tied", "dora"), ("phi3", "dora")]


@pytest.mark.parametrize(
    "family, kind",
    [("llama", kind) for kind in LORA]
    + [("tied", "lora"), ("gpt2", "lora"), ("gpt2", "dora"), ("phi3", "lora"), ("neox", "lora")]
    + [pytest.param(*case, marks=pytest.mark.slow) for case in SLOW],
)
def test_lora_equals_peft(folders, tmp_path, family, kind):
    """Heads that are tied, fused and transposed matrices, interleaved ones, and a state-space model."""
    folder = folders[family]
    peer = peer_of(folder, LoraConfig(r=4, target_modules=TARGETS[family], task_type="CAUSAL_LM", **LORA[kind]))
    peer.save_pretrained(tmp_path / "theirs")
    exact = family not in ("neox", "mamba")  # whose peers compute a part in float32
    model, transform = compare(folder, tmp_path / "theirs", peer, tmp_path, atol=1e-9 if exact else 1e-5)
    found = own(model)[0]
    assert transform.merge().error < 1e-12
    torch.testing.assert_close(own(model)[0], found, rtol=0, atol=1e-11)


BESIDE = {
    "embedding": {"target_modules": ["EMBEDDING", "QKV"]},
    "embedding dora": {"target_modules": ["EMBEDDING", "QKV"], "use_dora": True},
    "whole": {"target_modules": ["QKV"], "modules_to_save": ["EMBEDDING", "NORM"]},
    "whole head": {"target_modules": ["QKV"], "modules_to_save": ["lm_head"]},
    "whole embedding and head": {"target_modules": ["QKV"], "modules_to_save": ["EMBEDDING", "lm_head"]},
    "whole matrix": {"target_modules": ["QKV"], "modules_to_save": ["OUT"]},
    "whole target": {"target_modules": ["QKV", "OUT"], "modules_to_save": ["OUT"]},
    "all biases": {"target_modules": ["QKV"], "bias": "all"},
    "their biases": {"target_modules": ["QKV"], "bias": "lora_only"},
    "their biases, dora": {"target_modules": ["QKV"], "bias": "lora_only", "use_dora": True},
    "tokens": {"target_modules": ["QKV"], "trainable_token_indices": [54, 55, 3]},
    "tokens of both": {"target_modules": ["QKV"], "trainable_token_indices": {"EMBEDDING": [54, 55], "lm_head": [4]}},
    "regex": {
        "target_modules": ["QKV"], "rank_pattern": {r".*\.1\..*": 2}, "alpha_pattern": {r"(h|layers)\.[0-9].+": 3},
    },
    "everything": {
        "target_modules": ["QKV"], "modules_to_save": ["NORM"], "bias": "all", "trainable_token_indices": [55, 54],
    },
}  # fmt: skip
OWN_NAMES = {
    "llama": {"QKV": "q_proj", "EMBEDDING": "embed_tokens", "NORM": "norm", "OUT": "o_proj"},
    "gpt2": {"QKV": "c_attn", "EMBEDDING": "wte", "NORM": "ln_f", "OUT": "c_fc"},
    "neox": {
        "QKV": "query_key_value",
        "EMBEDDING": "embed_in",
        "NORM": "final_layer_norm",
        "OUT": "dense",
    },
}
OWN_NAMES |= {"tied": OWN_NAMES["llama"], "biased": OWN_NAMES["llama"]}


def beside(family, kind):
    """PEFT's config with the family's names."""
    names = OWN_NAMES[family]

    def named(value):
        if isinstance(value, list):
            return [names.get(one, one) for one in value]
        return {names.get(k, k): v for k, v in value.items()} if isinstance(value, dict) else value

    return LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **{k: named(v) for k, v in BESIDE[kind].items()})


@pytest.mark.parametrize("kind", BESIDE)
@pytest.mark.parametrize("family", OWN_NAMES)
def test_what_is_trained_beside_linear_maps_equals_peft(folders, tmp_path, family, kind):
    """Embeddings, whole modules, biases and rows of tokens; heads that are tied, biases that are fused."""
    if "bias" in kind and family in ("llama", "tied"):
        pytest.skip("the model has no bias")
    if "head" in kind + str(BESIDE[kind]) and family == "neox":
        pytest.skip("its head has another name in transformers 5 than in files")
    folder = folders[family]
    peer = peer_of(folder, beside(family, kind))
    peer.save_pretrained(tmp_path / "theirs")
    atol = 1e-9 if family != "neox" else 1e-5
    model, transform = compare(folder, tmp_path / "theirs", peer, tmp_path, atol=atol, gradients=False)
    found = own(model)[0]
    assert transform.merge().error < 1e-9
    torch.testing.assert_close(own(model)[0], found, rtol=0, atol=1e-11)
    alone, merged = theirs(peer)[0], theirs(peer.merge_and_unload())[0]
    # PEFT merges an adapter of a tied embedding into the head too, which then is not what it was before
    spoilt = family in ("tied", "gpt2") and kind in ("embedding", "embedding dora", "tokens of both")
    assert ((merged - alone).abs().max() > 0.1) == spoilt
    torch.testing.assert_close(found, alone if spoilt else merged, rtol=0, atol=atol)
    model.save_pretrained(tmp_path / "merged")
    torch.testing.assert_close(own(ours_of(tmp_path / "merged"))[0], found, rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    "family, projected",
    [(f, False) for f in ("llama", "gpt2", "qwen3", "glm4", "bloom", "windows")] + [("llama", True), ("gpt2", True)],
)
def test_prefix_equals_peft(folders, tmp_path, family, projected):
    """Grouped keys, learned positions, and heads of another width than D / H; through our cache too."""
    folder = folders[family]
    options = {"prefix_projection": True, "encoder_hidden_size": 8} if projected else {}
    peer = peer_of(folder, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5, **options))
    peer.save_pretrained(tmp_path / "theirs")
    # with a projection the files hold what it makes, whose gradients PEFT does not compute
    atol = 1e-9 if family in ("llama", "gpt2", "qwen3") else 1e-5  # the other peers compute a part in float32
    model, transform = compare(
        folder, tmp_path / "theirs", peer, tmp_path, atol=atol, gradients=not projected and atol < 1e-8
    )
    _check_cache_and_refusals(model, transform)


@pytest.mark.parametrize("family", ["llama", "mamba", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_prompt_equals_peft(folders, tmp_path, family):
    folder = folders[family]
    peer = peer_of(folder, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5, num_attention_heads=4))
    peer.save_pretrained(tmp_path / "theirs")
    atol = 1e-5 if family == "mamba" else 1e-9
    model, transform = compare(folder, tmp_path / "theirs", peer, tmp_path, first=5, atol=atol)
    _check_cache_and_refusals(model, transform)


def _check_cache_and_refusals(model, transform):
    ids = texts()[0]
    state = model.start(3)
    pieces = torch.cat([model(part, state).logits for part in ids.split(5, dim=1)], 1)
    torch.testing.assert_close(pieces, model(ids).logits, rtol=0, atol=1e-9)
    assert state.counts == [17] * 3
    with pytest.raises(SpecError, match="cannot be merged"):
        transform.merge()
    with pytest.raises(CheckpointError, match="save_adapter"):
        model.save_pretrained("/nowhere")
