"""Models whose file holds any of the packed kinds: what torch and the native runner compute of its blocks."""

from __future__ import annotations

import copy
import subprocess
import sys

import httpx
import numpy as np
import pytest
import torch
from _published import published
from _small_models import block, shifted, tokens, transformer

from evidence._pretrained import IN_PARTS
from llmanac.core.errors import CheckpointError, SpecError
from llmanac.core.spec import make_method
from llmanac.core.types import Batch
from llmanac.generate.engine import Engine
from llmanac.generate.load import load_engine
from llmanac.generate.native import NativeModel, NativeRunner
from llmanac.kernels.gguf import GGUF
from llmanac.kernels.gguf.blocks import KINDS, WRITTEN
from llmanac.kernels.gguf.file import Packable, write
from llmanac.kernels.infer.machine import forms
from llmanac.kernels.text import COMPILES
from llmanac.models.gguf.write import export_gguf
from llmanac.models.load import load_model
from llmanac.models.quantized import Quantized
from llmanac.tokenizers.load import train_tokenizer

READ = [name for name in KINDS if name != "F32"]
SHAPE = {
    "dim": 256, "layers": 2, "vocab_size": 320, "tied": False,
    "blocks": block({"name": "multi-head", "heads": 4, "kv_heads": 2}, {"name": "swiglu", "width": 512}),
}  # fmt: skip


def blocks_of(kind, rows, columns, draws):
    """Any codes, with scales that make numbers of about the size of weights."""
    of = KINDS[kind]
    if kind in WRITTEN:
        return of.packed(draws.standard_normal((rows, columns)).astype(np.float32) / 16)
    data = draws.integers(0, 256, (rows, columns // of.size * of.bytes), np.uint8)
    found = data.reshape(-1).view(of.layout)
    if kind == "MXFP4":
        found["e"] = draws.integers(118, 122, len(found))
    else:
        scale = (1 if of.size == 32 else 1 / 32) / (128 if of.table else 2 ** (of.bits - 1)) / 10
        for name in {"d", "m"} & set(of.layout.names):
            found[name] = scale * draws.uniform(0.5, 1, len(found))
    return data


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A file of a small Llama whose matrices are blocks of a kind; `change` may alter their bytes by name."""
    place, tokenizer = tmp_path_factory.mktemp("kinds"), train_tokenizer("utf8", [])
    plain = GGUF(export_gguf(transformer(dtype=torch.float32, **SHAPE), tokenizer, place / "plain.gguf", "f32"))
    numbers = {int: np.uint32, float: np.float32}
    metadata = {key: numbers.get(type(value), lambda value: value)(value) for key, value in plain.metadata.items()}

    def file(kind, change=lambda name, data: None):
        draws, tensors = np.random.default_rng(KINDS[kind].number), {}
        for name in plain.names:
            tensor = plain.tensor(name)
            if len(tensor.shape) == 2:
                data = blocks_of(kind, *tensor.shape, draws)
                change(name, data)
                tensors[name] = Packable(kind, tensor.shape, lambda data=data: data)
            else:
                tensors[name] = Packable("F32", tensor.shape, lambda data=tensor.data: data)
        path = place / f"{len(list(place.iterdir()))}-{kind}.gguf"
        with open(path, "wb") as handle:
            write(handle, metadata, tensors)
        return path

    return file


def logits(model, ids):
    with torch.no_grad():
        return model(Batch(ids=ids)).logits


def native_logits(native, ids):
    runner = NativeRunner(native)
    runner.extend([ids.tolist()], 64)
    return torch.from_numpy(runner.read(0, [ids.tolist()], every=True)[0])


@pytest.mark.parametrize("kind", READ)
def test_the_file_is_computed_with_as_it_is(kind, made):
    path, ids = made(kind), tokens(2, 40, below=256)
    model, dense = load_model(path), load_model(path, dtype="float32")
    packed = [p for p in model.parameters() if p.ndim == 2]
    assert all(isinstance(p, Quantized) for p in packed) and not any(
        isinstance(p, Quantized) for p in dense.parameters()
    )
    file = GGUF(path)
    assert sum(p.stored for p in packed) == sum(file.tensor(n).data.nbytes for n in file.names if "norm" not in n)
    wanted = logits(dense, ids)
    torch.testing.assert_close(logits(model, ids), wanted, atol=1e-5, rtol=1e-5)
    assert float(wanted.std()) > 0.1
    exact, found = wanted[0].log_softmax(-1), native_logits(NativeModel(model, threads=1), ids[0]).log_softmax(-1)
    kl = float((exact.exp() * (exact - found)).sum(-1).mean())
    print(f"{kind}: KL of 8-bit activations {kl:.1e}")
    assert abs(kl) < (1e-6 if KINDS[kind].size == 1 else 5e-3)


@pytest.mark.parametrize("kind", ["Q6_K", "Q5_0", "IQ4_XS", "F16"])
def test_forms_and_threads_give_the_same_bits(kind, made):
    model, ids = load_model(made(kind)), tokens(1, 37, below=256)[0]
    wanted = native_logits(NativeModel(model, threads=1), ids)
    assert torch.equal(native_logits(NativeModel(model, threads=2), ids), wanted)
    if "avx2" in forms()[1:]:
        assert torch.equal(native_logits(NativeModel(model, threads=1, form="avx2"), ids), wanted)


@pytest.mark.parametrize("kind", ["Q4_K", "Q5_0", "BF16"])
def test_adapters_train_on_packed_matrices(kind, made):
    """The gradient of what comes before a packed matrix is that of the dense one."""
    models, ids = [load_model(made(kind)), load_model(made(kind), dtype="float32")], tokens(1, 20, below=256)
    gradients = []
    for model in models:
        lora = make_method("adapter", {"name": "lora", "rank": 2, "targets": ["all-linear"]}).build(seed=0)
        transform = lora.apply(model)
        trained = [p for p in model.parameters() if p.requires_grad]
        with torch.no_grad():
            for p in trained:
                p.fill_(0.01)
        model(Batch(ids=ids)).logits.square().mean().backward()
        gradients.append([p.grad for p in trained])
        assert len(trained) == 28
        transform.merge()
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)
    assert float(gradients[0][0].abs().max()) > 0
    torch.testing.assert_close(logits(models[0], ids), logits(models[1], ids), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", [name for name in READ if name != "MXFP4"])
def test_a_scale_that_is_not_finite_is_refused_by_name(kind, made):
    def spoil(name, data):
        if name == "blk.1.ffn_up.weight":
            found = data[3].view(KINDS[kind].layout)
            field = found["m" if KINDS[kind].minimum else "d"] if KINDS[kind].layout.names else found
            field.view("<u2")[-1] = 0x7FFF

    with pytest.raises(CheckpointError, match=r"model\.layers\.1\.mlp\.up_proj\.weight holds .*(NaN|infinite)"):
        load_model(made(kind, spoil))


def test_a_copy_and_a_folder_hold_the_same_numbers(made, tmp_path):
    model, ids = load_model(made("Q4_K")), tokens(1, 20, below=256)
    torch.testing.assert_close(logits(copy.deepcopy(model), ids), logits(model, ids), atol=0, rtol=0)
    import llmanac

    llmanac.save_model(model, tmp_path / "dense")
    again = load_model(tmp_path / "dense")
    assert not any(isinstance(p, Quantized) for p in again.parameters())
    torch.testing.assert_close(logits(again, ids), logits(model, ids), atol=1e-5, rtol=1e-5)


def test_a_file_that_is_written_to_is_refused_where_its_memory_is_used(made):
    path, ids = made("Q5_1"), tokens(1, 20, below=256)
    model = load_model(path)
    engine = Engine(model, runner="native")
    path.write_bytes(path.read_bytes())
    for use in (lambda: logits(model, ids), lambda: engine.generate(ids[0].tolist(), max_new_tokens=2)):
        with pytest.raises(CheckpointError, match=r"Q5_1\.gguf: was written to since it was opened"):
            use()


# ----------------------------------------------------------------------------------------------- files that people have
BESIDE = {"qwen": 197, "gemma": 326}  # MB: the vocabulary, and what a step holds
A_ROW = {"qwen": 8, "gemma": 12}  # MB: keys and values


@pytest.mark.pretrained
@pytest.mark.parametrize("name", IN_PARTS)
def test_a_published_file_is_near_its_dequantized_numbers(name):
    path = published(name)
    engine = load_engine(path, runner="native")
    text = engine.tokenizer.encode("The quick brown fox jumps over the lazy dog. def main(argv):\n    ")
    begin = [engine.tokenizer.bos_id] if engine.tokenizer.adds_bos else []  # without it Gemma's texts are unlikely ones
    ids = torch.tensor([*begin, *text])
    exact = logits(engine.model, ids[None])[0].log_softmax(-1)
    found = native_logits(engine.native, ids).log_softmax(-1)
    kl = float((exact.exp() * (exact - found)).sum(-1).mean())
    print(f"{name}: KL {kl:.4f}")
    assert kl < 0.01


PLACES, KEPT = 24, 2000  # of a text; most likely tokens of a place, what is left is one more


def log_shares(path, ids):
    """llama.cpp's log-probabilities of the tokens that it finds most likely after each of `ids`, by token."""
    peer = pytest.importorskip("xllamacpp", reason="needs xllamacpp, llama.cpp as a package")
    chosen = peer.CommonParams()
    chosen.model.path, chosen.n_ctx, chosen.n_parallel, chosen.warmup, chosen.port = str(path), 128, 1, False, 0
    chosen.cpuparams.n_threads = chosen.cpuparams_batch.n_threads = 1
    server = peer.Server(chosen)  # which ends with its object
    place, asked = server.listening_address + "/completion", {"n_predict": 1, "n_probs": KEPT, "temperature": 0}
    for end in range(1, len(ids) + 1):
        found = httpx.post(place, json={"prompt": ids[:end], **asked}, timeout=300).json()
        top = found["completion_probabilities"][0]["top_logprobs"]
        yield {token["id"]: token["logprob"] for token in top}


@pytest.mark.slow
@pytest.mark.pretrained
@pytest.mark.parametrize("name", IN_PARTS)
def test_a_published_file_is_as_near_to_its_numbers_as_in_llama_cpp(name):
    """Both round activations to 8 bits; the divergence from the dequantized model is at most 1.05 of llama.cpp's."""
    path = published(name)
    engine = load_engine(path, runner="native")
    text = engine.tokenizer.encode("The quick brown fox jumps over the lazy dog. It was a bright cold day in April,")
    ids = [*([engine.tokenizer.bos_id] if engine.tokenizer.adds_bos else []), *text][:PLACES]
    exact = logits(engine.model, torch.tensor([ids]))[0].double().log_softmax(-1)
    found = native_logits(engine.native, torch.tensor(ids)).double().log_softmax(-1)
    ours = theirs = 0.0
    for of_exact, of_ours, shares in zip(exact, found, log_shares(path, ids), strict=True):
        kept, own = torch.tensor(list(shares)), torch.tensor(list(shares.values()), dtype=torch.float64)
        p, q = of_exact[kept], of_ours[kept]
        rest = [torch.log1p(-of.exp().sum().clamp(max=1 - 1e-9)) for of in (p, q, own)]
        assert len(kept) == KEPT and (p.exp() - own.exp()).abs().sum() < 0.5  # the same place of the same model
        ours += float((p.exp() * (p - q)).sum() + rest[0].exp() * (rest[0] - rest[1]))
        theirs += float((p.exp() * (p - own)).sum() + rest[0].exp() * (rest[0] - rest[2]))
    print(f"{name}: KL {ours / len(ids):.5f}, llama.cpp {theirs / len(ids):.5f}")
    assert 0 < ours < 1.05 * theirs


@pytest.mark.pretrained
@pytest.mark.parametrize("rows", [2, pytest.param(8, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", IN_PARTS)
def test_a_published_file_takes_its_own_size(name, rows):
    """A process that loads it and reads any tokens in rows: the vocabulary, keys and values beside the file.

    Libraries are not counted: what importing them takes, and the pages of files that are mapped at the end.
    """
    if not sys.platform.startswith("linux"):
        pytest.skip("reads the most memory from /proc")
    path = published(name)
    code = (
        "import sys, numpy, torch, numba; from llmanac.generate.load import load_engine\n"
        "def kb(key): return next((int(line.split()[1]) for line in open('/proc/self/status') if key in line), 0)\n"
        "before = kb('RssAnon'); e = load_engine(sys.argv[1])\n"
        "ids = numpy.random.default_rng(0).integers(0, e.model.vocab_size, (int(sys.argv[2]), 512)).tolist()\n"
        "e.generate(ids, max_new_tokens=8, stop_ids=[]); assert e.native\n"
        "print(kb('VmHWM') - kb('RssFile') - before)"
    )
    for _ in range(3):  # the first may compile, which takes memory too
        ran = subprocess.run(
            [sys.executable, "-c", code, str(path), str(rows)], check=True, timeout=500, capture_output=True
        )
        if COMPILES.encode() not in ran.stderr:
            break
    most = int(ran.stdout) * 1024
    print(f"{name}: {most / 1e6:.0f} MB for {path.stat().st_size / 1e6:.0f} MB")
    assert most < path.stat().st_size + (BESIDE[name] + rows * A_ROW[name]) * 1e6, ran.stderr.decode()


def test_packed_matrices_refuse_to_be_trained(made, tmp_path):
    """A model of a file whose gradients were switched on would train its norms alone, without a word."""
    path = made("Q4_K")
    model = load_model(path)
    packed = next(p for p in model.parameters() if isinstance(p, Quantized))
    with pytest.raises(SpecError, match=r'packed as .*adapter.*dtype="float32"'):
        model.requires_grad_(True)
    with pytest.raises(SpecError, match="adapter"):
        packed.requires_grad = True
    with torch.no_grad(), pytest.raises(SpecError, match="in place"):
        packed.copy_(torch.zeros(packed.shape))
    model.requires_grad_(False)
    assert not any(p.requires_grad for p in model.parameters())
    dense = load_model(path, dtype="float32").requires_grad_(True)
    dense.nll(shifted(tokens(1, 5, below=320))).sum().backward()
    assert all(p.grad is not None for p in dense.parameters())
