"""Written GGUF files against llama.cpp: errors of blocks, which kind a matrix has, and what is generated from them."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import torch
from _small_models import block, randomise, tokens, transformer
from test_gguf import llama_cpp

from llmanac.core.errors import CheckpointError
from llmanac.core.types import Batch
from llmanac.generate.load import load_engine
from llmanac.kernels.gguf import GGUF
from llmanac.kernels.gguf.blocks import KINDS, WRITTEN
from llmanac.models.gguf.write import TYPES, export_gguf, mixture
from llmanac.quant.gptq import importance
from llmanac.tokenizers.load import train_tokenizer

BLOCKS = [kind for kind in WRITTEN if KINDS[kind].size > 1]
COLUMNS = 1024


def peers(kind, x, weights=None):
    """The bytes that llama.cpp's own quantizer makes."""
    peer = pytest.importorskip("xllamacpp", reason="needs xllamacpp, llama.cpp as a package")
    quantize = ctypes.CDLL(peer.xllamacpp.__file__).ggml_quantize_chunk
    quantize.argtypes = [ctypes.c_int, *[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 3, ctypes.c_void_p]
    of, given = KINDS[kind], None if weights is None else np.ascontiguousarray(weights, np.float32)
    out = np.empty((len(x), x.shape[1] // of.size * of.bytes), np.uint8)
    quantize(of.number, x.ctypes.data, out.ctypes.data, 0, *x.shape, None if given is None else given.ctypes.data)
    return out


def matrix(shape, rows=64):
    """Numbers of this distribution, with rows of zeros, of halves, of one sign and with an outlier."""
    draws = np.random.default_rng(3)
    x = draws.standard_normal((rows, COLUMNS)) if shape == "normal" else draws.standard_t(4, (rows, COLUMNS))
    x[3], x[4], x[5], x[6, ::100] = 0, np.round(x[4] * 2) / 2, np.abs(x[5]), 30
    return np.ascontiguousarray(x * 0.02, np.float32)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", ["normal", "heavy"])
@pytest.mark.parametrize("kind", BLOCKS)
def test_errors_are_at_most_llama_cpps(kind, shape, weighted):
    x = matrix(shape)
    weights = np.exp(np.random.default_rng(4).standard_normal(COLUMNS)) if weighted else None
    ours, theirs = (
        float((np.square(KINDS[kind].float32(data).astype(np.float64) - x) * (1 if weights is None else weights)).sum())
        for data in (KINDS[kind].packed(x, weights), peers(kind, x, weights))
    )
    print(f"{kind} {shape}{' weighted' * weighted}: {ours / theirs:.4f} of llama.cpp's error")
    assert 0 < ours <= theirs


@pytest.mark.parametrize("kind", BLOCKS)
def test_what_is_written_is_what_gguf_reads(kind):
    gguf = pytest.importorskip("gguf", reason="needs the gguf package")
    x = matrix("heavy", 16)
    data = KINDS[kind].packed(x)
    again = KINDS[kind].float32(data)
    np.testing.assert_array_equal(again, gguf.dequantize(data, gguf.GGMLQuantizationType[kind]))
    assert (again[3] == 0).all()
    bound = {4: 0.2, 5: 0.1, 6: 0.05, 8: 0.02}[KINDS[kind].bits]
    assert 1e-5 < np.abs(again - x)[7:].mean() / np.abs(x)[7:].mean() < bound


def test_columns_that_matter_more_have_smaller_errors():
    x, weights = matrix("normal"), np.ones(COLUMNS)
    weights[::4] = 100
    for kind in BLOCKS:
        off = [np.square(KINDS[kind].float32(KINDS[kind].packed(x, of)) - x)[7:, ::4].sum() for of in (None, weights)]
        assert off[1] < 0.9 * off[0], kind


@pytest.mark.parametrize("kind", ["F16", "BF16"])
def test_numbers_without_blocks_are_rounded_to_the_nearest(kind):
    x = matrix("heavy")
    x[0, :2] = [1 + 2**-8, 1 + 3 * 2**-8]  # halfway in bfloat16: to even
    wanted = torch.from_numpy(x).to({"F16": torch.float16, "BF16": torch.bfloat16}[kind]).float().numpy()
    np.testing.assert_array_equal(KINDS[kind].float32(KINDS[kind].packed(x)), wanted)


def llama(layers, heads=8, kv_heads=2):
    return {"num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads}


# kinds that llama.cpp's llama-quantize gives, by name
MORE = {
    2: [1],
    8: [0, 3, 6, 7],
    12: [0, 3, 6, 9, 10, 11],
    32: [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, *range(28, 32)],
}
PARTS = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down", "attn_qkv"]


@pytest.mark.parametrize("layers", MORE)
@pytest.mark.parametrize("kind", TYPES)
def test_the_mixture_is_llama_cpps(kind, layers):
    most = TYPES[kind][1]
    for part in PARTS:
        for layer in range(layers):
            more = kind in ("q4_k_m", "q5_k_m") and part in ("attn_v", "attn_qkv", "ffn_down") and layer in MORE[layers]
            found = mixture(f"blk.{layer}.{part}.weight", 4096, kind, llama(layers), False, False)
            assert found == ("Q6_K" if more else most), (part, layer)
    head = most if KINDS[most].size == 1 or most == "Q8_0" else "Q6_K"
    for tied in (False, True):
        assert mixture("output.weight", 4096, kind, llama(layers), tied, False) == head
        assert mixture("token_embd.weight", 4096, kind, llama(layers), tied, False) == (head if tied else most)


def test_the_mixture_of_70b_and_of_q4_0_with_importance():
    for kv_heads, kind in ((2, "Q5_K"), (8, "Q4_K")):
        assert mixture("blk.10.attn_v.weight", 4096, "q4_k_m", llama(80, 8, kv_heads), False, False) == kind
    for important, layer, kind in ((True, 0, "Q4_1"), (True, 1, "Q4_0"), (False, 0, "Q4_0")):
        name = f"blk.{layer}.ffn_down.weight"
        assert mixture(name, 4096, "q4_0", llama(8), False, important) == kind


@pytest.mark.parametrize("columns", [640, 896, 576, 48])
def test_rows_that_256_does_not_divide(columns):
    wanted = {
        "q4_k_m": ("Q5_0", "Q8_0"),
        "q5_k_m": ("Q5_1", "Q8_0"),
        "q6_k": ("Q8_0", "Q8_0"),
        "q4_0": ("Q4_0", "Q8_0"),
    }
    for kind, (most, head) in wanted.items():
        if columns % 32:
            most = head = "F16"
        assert mixture("blk.1.ffn_up.weight", columns, kind, llama(8), True, False) == most
        assert mixture("token_embd.weight", columns, kind, llama(8), True, False) == head
        assert mixture("blk.0.ffn_down.weight", columns, kind, llama(8), True, False) == (
            head if "_k_m" in kind else most
        )


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer("bpe", ["the cat sat on the mat"] * 3, vocab_size=270, special_tokens=("</s>",))


def model(dim, tokenizer, **choices):
    blocks = block({"name": "multi-head", "heads": 8, "kv_heads": 2}, {"name": "swiglu", "width": 2 * dim})
    fields = {"layers": 3, "tied": False, **choices}
    made = transformer(dtype=torch.float32, dim=dim, blocks=blocks, vocab_size=tokenizer.vocab_size, **fields)
    return randomise(made, std=1 / dim**0.5)  # at 0.2 a wide model multiplies its rounding in every layer


CLOSE = 0.2  # of two logits over the deviation of all, which 8-bit activations may order otherwise


@pytest.mark.parametrize(("dim", "kind"), [(512, kind) for kind in TYPES] + [(640, "q4_k_m"), (896, "q5_k_m")])
def test_llama_cpp_generates_the_same(dim, kind, tokenizer, tmp_path):
    path = export_gguf(model(dim, tokenizer), tokenizer, tmp_path / "m.gguf", kind)
    ask, engine = llama_cpp(path), load_engine(path, device="cpu", runner="native")
    ties, count = 0, 0
    for prompt in ("the cat", "on the", "sat the mat", "a"):
        wanted = ask("/completion", prompt=prompt, n_predict=24, temperature=0, return_tokens=True)["tokens"]
        before = engine.tokenizer.encode(prompt)
        runner = engine.scheduler().runner
        runner.extend([before + wanted], 64)
        logits = torch.from_numpy(runner.read(0, [before + wanted], every=True)[0][len(before) - 1 : -1])
        gaps = (logits.amax(-1) - logits[torch.arange(len(wanted)), wanted]) / logits.std(-1)
        assert gaps.max() < CLOSE
        ties, count = ties + int((gaps > 0).sum()), count + len(wanted)
    print(f"{kind}, width {dim}: {ties} of {count} tokens are near-ties that llama.cpp decides otherwise")
    assert ties <= count // 8 and count > 20


def test_importance_is_what_columns_are_multiplied_with(tokenizer, tmp_path):
    given, ids = model(256, tokenizer, layers=2), tokens(3, 40, below=tokenizer.vocab_size)
    seen, wanted = [Batch(ids=ids[:2]), Batch(ids=ids[2:])], {}

    def keep(module, inputs):
        wanted[""] = wanted.get("", 0) + inputs[0].double().square().sum((0, 1))

    hook = given.model.layers[1].mlp.down_proj.register_forward_pre_hook(keep)
    with torch.no_grad():
        for row in ids:
            given(row[None])
    hook.remove()
    found = importance(given, seen)
    assert len(found) == 14 and {len(of) for of in found.values()} == {256, 512}
    np.testing.assert_allclose(found["model.layers.1.mlp.down_proj.weight"], wanted[""], rtol=1e-4)
    plain, weighted = (
        GGUF(export_gguf(given, tokenizer, tmp_path / f"{bool(of)}.gguf", "q4_k_m", of)) for of in (None, found)
    )
    for name in plain.names:
        same = np.array_equal(plain.tensor(name).data, weighted.tensor(name).data)
        assert same == (name in ("token_embd.weight", "output.weight") or "norm" in name), name


@pytest.mark.parametrize(
    ("kind", "meant"), [("q4_km", "q4_k_m"), ("q5_k", "q5_k_m"), ("q6k", "q6_k"), ("q8-0", "q8_0")]
)
def test_an_unknown_type_names_the_nearest(kind, meant, tokenizer, tmp_path):
    with pytest.raises(CheckpointError, match=f"{kind!r} is not written; did you mean {meant!r}"):
        export_gguf(model(64, tokenizer), tokenizer, tmp_path / "m.gguf", kind)
    assert not list(tmp_path.iterdir())
