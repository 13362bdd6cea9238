"""GGUF files against transformers and the gguf package: models both ways, tokenizers, SmolLM2 as it was published."""

import json

import numpy as np
import pytest
import torch
from _small_models import randomise
from _vocabularies import file_of
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import llmanac
from llmanac.core.errors import CheckpointError, LlmanacError, TokenizerError
from llmanac.kernels.gguf import GGUF
from llmanac.models.families._table import canonical
from llmanac.models.gguf.architectures import ARCHITECTURES, interleaved
from llmanac.models.gguf.read import PackedWeights
from llmanac.models.gguf.write import export_gguf
from llmanac.models.load import load_model
from llmanac.tokenizers import _gguf
from llmanac.tokenizers.load import load_tokenizer, train_tokenizer

TEXTS = ["the cat sat on the mat, the dog's hat was 12 345 years old\n\n  and naïve — £3.50", "日本語 the\tcat\r\n's"]
SIZES = {
    "vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "bos_token_id": None,
    "eos_token_id": 0, "pad_token_id": None,
}  # fmt: skip
STRETCHED = {
    "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
CASES = {
    "llama": {},
    "llama, tied, biases": {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
    "llama, llama3 rope": {"rope_parameters": STRETCHED, "head_dim": 32},
    "llama, linear rope": {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0}},
    "qwen2": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
    "qwen3": {"head_dim": 24},
    "phi3": {"partial_rotary_factor": 0.5, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
    "gemma": {"head_dim": 24},
}  # fmt: skip
# biases of llama, scalings and partial rotation are in the file, and not read from it
IGNORED_BY_PEER = ("llama, tied, biases", "llama, llama3 rope", "llama, linear rope", "phi3")


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer("bpe", TEXTS * 3, vocab_size=300, pattern="gpt2", special_tokens=("<|end|>", "<|pad|>"))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """(transformers' model, ours) of a case, with weights of standard deviation 0.2."""

    def made(case):
        kind = case.partition(",")[0]
        config = AutoConfig.for_model(kind, **{**SIZES, **CASES[case]})
        theirs = randomise(AutoModelForCausalLM.from_config(config, attn_implementation="eager")).eval()
        folder = tmp_path_factory.mktemp("hf")
        theirs.save_pretrained(folder)
        return theirs, load_model(folder, device="cpu")

    return made


IDS = torch.arange(2, 42).reshape(2, 20) * 7 % 300


@pytest.mark.parametrize("case", CASES)
def test_models_round_trip(case, models, tokenizer, tmp_path):
    """The file's keys give the same Spec, its tensors the same numbers, and the packed kinds nearly so."""
    theirs, ours = models(case)
    path = export_gguf(ours, tokenizer, tmp_path / "m.gguf", "f32")
    again = load_model(path, device="cpu")
    assert canonical(again.spec) == canonical(ours.spec) and again.generation["eos_token_id"] == tokenizer.eos_id
    state = dict(again.named_parameters())
    exact = case != "gemma"  # 1 + w in 32 bits
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(state[name], parameter, rtol=0, atol=0 if exact else 1e-6)
    expected = theirs(IDS).logits
    torch.testing.assert_close(again(IDS).logits, expected, rtol=1e-4, atol=1e-4)
    kind = {"llama": "q8_0", "qwen2": "q4_1", "qwen3": "q4_0"}.get(case, "f16")
    packed = load_model(export_gguf(ours, tokenizer, tmp_path / "p.gguf", kind), device="cpu")
    off = (packed(IDS).logits - expected).abs().mean() / expected.abs().mean()
    assert 1e-6 < off < {"f16": 0.02, "q8_0": 0.1}.get(kind, 0.9)


@pytest.mark.parametrize("case", CASES)
def test_transformers_loads_what_is_written(case, models, tokenizer, tmp_path):
    pytest.importorskip("gguf", reason="transformers reads GGUF files with the gguf package")
    theirs, ours = models(case)
    export_gguf(ours, tokenizer, tmp_path / "m.gguf", "f32")
    peer = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf", attn_implementation="eager").eval()
    if case not in IGNORED_BY_PEER:
        torch.testing.assert_close(peer(IDS).logits, theirs(IDS).logits, rtol=1e-4, atol=1e-4)
    else:
        ours = dict(theirs.named_parameters())
        for name, parameter in peer.named_parameters():
            torch.testing.assert_close(parameter, ours[name])
