"""`llmanac quantize`, and training through the rounding."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from _runs import command, recipe

import llmanac
from llmanac.core.errors import LlmanacError, SpecError
from llmanac.core.spec import make_method
from llmanac.core.types import Batch
from llmanac.evaluate.divergence import Windows, divergence, windows
from llmanac.models.load import load_model
from llmanac.models.quantized import Quantized
from llmanac.recipes import quantize as quantizing
from llmanac.recipes.quantize import check_target, quantize
from llmanac.recipes.run import run
from llmanac.tokenizers.load import load_tokenizer

TEXT = "the cat sat on the mat and the dog ran to the door while a bird sang in the tree . "


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of a few steps, trained through ternary weights, and the text it read."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "text").mkdir()
    for number in range(12):
        (folder / "text" / f"{number}.txt").write_text(TEXT[number:] * 30)
    run(recipe(folder / "text", through="ternary"), folder=folder / "run")
    return folder


@pytest.fixture(scope="module")
def dense(tmp_path_factory, made):
    """A model with the run's tokenizer whose every part matters."""
    folder = tmp_path_factory.mktemp("dense")
    tokenizer = load_tokenizer(made / "run" / "tokenizer")
    block = {"name": "pre-norm", "mixer": {"name": "softmax", "heads": 2}, "ffn": {"name": "swiglu", "width": 64}}
    spec = make_method("lm", {"name": "transformer", "dim": 32, "layers": 2, "max_length": 64, "blocks": [block]})
    model = spec.build(vocab_size=tokenizer.vocab_size)
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(i)) * 0.2 + (p.ndim == 1))
    llmanac.save_model(model, folder / "model")
    tokenizer.save(folder / "model")
    return folder / "model"


# ---------------------------------------------------------------- the command


@pytest.fixture(autouse=True)
def one_round(monkeypatch):
    """Of timing: these tests are not about speed."""
    monkeypatch.setattr(quantizing, "FEWEST", 1)
    monkeypatch.setattr(quantizing, "SECONDS", 0.0)


def test_speeds_are_of_alternating_rounds_and_the_first_is_not_counted(monkeypatch):
    order = []
    monkeypatch.setattr(quantizing, "Engine", lambda model, runner, rows: model)
    monkeypatch.setattr(quantizing, "decoding_rate", lambda engine, *given: order.append(engine) or float(len(order)))
    assert quantizing.alternating_rates("ab", [1]) == ([3.0], [4.0])
    monkeypatch.setattr(quantizing, "SECONDS", 60.0)
    order.clear()
    assert quantizing.alternating_rates("ab", [1]) == ([3.0, 5.0, 7.0, 9.0, 11.0], [4.0, 6.0, 8.0, 10.0, 12.0])
    assert "".join(order) == "ab" * 6


def test_divergence_equals_the_sums_over_the_vocabulary(dense):
    model, tokenizer = load_model(dense, device="cpu"), load_tokenizer(dense)
    changed = copy.deepcopy(model)
    make_method("quantizer", "binary").build().apply(changed)
    text = windows([TEXT * 20], tokenizer, 16, 5)
    assert text.ids.shape == (5, 16)
    found = divergence(model, changed, text)
    with torch.no_grad():
        p, q = (m(Batch(ids=text.ids[:, :-1])).logits.double().log_softmax(-1) for m in (model, changed))
    taken = text.ids[:, 1:, None]
    assert found.before == pytest.approx(-float(p.gather(-1, taken).mean()), rel=1e-5)
    assert found.after == pytest.approx(-float(q.gather(-1, taken).mean()), rel=1e-5)
    assert found.kl == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-4) and found.kl > 0.01
    assert found.tokens == 75 and len(found.blocks) == 5
    by_row = [divergence(model, changed, Windows(row[None], 1.0)) for row in text.ids]
    torch.testing.assert_close(found.blocks, tuple((row.after - row.before, row.kl) for row in by_row))
    assert text.bytes_per_token == pytest.approx(len(TEXT) * 20 / len(tokenizer.encode(TEXT * 20)))
    assert divergence(model, model, text).kl == 0


@pytest.mark.parametrize("method", ["int8", "nf4", "gptq", "ternary", "bf16"])
def test_a_folder_is_written_that_loads_packed(method, dense, tmp_path):
    text = [TEXT * 60] * 2
    found = quantize(str(dense), tmp_path / "out", method, texts=text)
    assert found.after < found.before and found.quality.kl > 0
    before, after = found.speeds
    assert len(before) == len(after) == 1 and min(*before, *after) > 0
    assert found.before == (dense / "model.safetensors").stat().st_size
    loaded = load_model(tmp_path / "out", device="cpu")
    assert any(isinstance(p, Quantized) for p in loaded.parameters()) == (method != "bf16")
    again = divergence(load_model(dense, device="cpu"), loaded, windows(text[1:], load_tokenizer(dense), 64, 64))
    if method != "bf16":  # which computes in float32 once it is loaded
        assert again.kl == pytest.approx(found.quality.kl, rel=1e-4)


@pytest.mark.parametrize("method", ["q8_0", "q4_0", "q4_k_m", "bf16"])
def test_a_gguf_file(method, dense, tmp_path):
    found = quantize(str(dense), tmp_path / "out.gguf", method, texts=[TEXT * 120])
    assert (tmp_path / "out.gguf").stat().st_size == found.after and found.quality.kl > 0
    again = quantize(str(tmp_path / "out.gguf"), tmp_path / "again", "int8", texts=[TEXT * 120])
    assert again.quality.before == pytest.approx(found.quality.after, rel=1e-6)
    assert again.before == found.after  # the file's, not those of its numbers in float32


@pytest.mark.slow
def test_calibration_weighs_the_errors_of_a_gguf_file(dense, tmp_path):
    (tmp_path / "seen.txt").write_text(TEXT * 40)
    (tmp_path / "text.txt").write_text(TEXT[::-1] * 200)
    seen = ("--calibration", "seen.txt")
    for name, words in {
        "converted": ("convert", str(dense), "converted.gguf", "--type", "q4_k_m", *seen),
        "quantized": ("quantize", str(dense), "-m", "q4_k_m", "-o", "quantized.gguf", "--text", "text.txt", *seen),
        "plain": ("convert", str(dense), "plain.gguf", "--type", "q4_k_m"),
    }.items():
        done = command(*words, cwd=tmp_path)
        assert done.returncode == 0, (name, done.stderr)
    plain, converted, quantized = (load_model(tmp_path / f"{name}.gguf", dtype="float32", device="cpu")
                                   for name in ("plain", "converted", "quantized"))  # fmt: skip
    for (name, p), q, r in zip(converted.named_parameters(), quantized.parameters(), plain.parameters(), strict=True):
        assert torch.equal(p, q) and torch.equal(p, r) == (p.ndim == 1 or "layers" not in name), name
    done = command("convert", str(dense), "folder", *seen, cwd=tmp_path)
    assert done.returncode == 2 and "--calibration: is for a .gguf file" in done.stderr


def test_gptq_is_calibrated_on_the_text_that_is_given(dense, tmp_path):
    """And all of the other text is compared on."""
    found = [
        quantize(str(dense), tmp_path / name, "gptq", texts=[TEXT * 60, TEXT * 60], calibration=seen)
        for name, seen in (("own", [TEXT * 60]), ("half", None))
    ]
    same, other = (load_model(tmp_path / name, device="cpu") for name in ("own", "half"))
    assert all(torch.equal(p, q) for p, q in zip(same.parameters(), other.parameters(), strict=True))
    assert found[0].quality.tokens > found[1].quality.tokens


def test_the_command_prints_what_it_cost(dense, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT * 200)
    words = ("quantize", str(dense), "--method", "int8", "-o", "small", "--targets", "mlp.*", "--text", "text.txt")
    done = command(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    words_seen = (
        "int8, 8.833", "bits a weight", "perplexity", "bits a byte", "KL", "tokens a second, median",
        "lowest to highest", "windows: +", "of the weights were quantized", "chat small",
    )  # fmt: skip
    for word in words_seen:
        assert word in done.stdout, word
    assert command(*words, cwd=tmp_path).returncode == 2


@pytest.mark.parametrize(
    "method, output, message",
    [
        ("int9", "a", "int8"), ("q8_0", "a", "a.gguf file|.gguf"), ("int8", "a.gguf", "a folder"),
        ("int8", "taken", "already"), ("int8", "model/inside", "inside"), ("int8", "model", "already"),
        ("q4_km", "a.gguf", "q4_k_m"),
    ],
)  # fmt: skip
def test_targets_that_are_refused(method, output, message, tmp_path):
    for name in ("taken", "model"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    with pytest.raises(SpecError, match=message):
        check_target(str(tmp_path / "model"), tmp_path / output, method)


def test_a_failure_leaves_nothing(dense, tmp_path):
    with pytest.raises(SpecError, match="q_prj"):
        quantize(str(dense), tmp_path / "out", "int8", targets=["q_prj"], texts=[TEXT * 120])
    with pytest.raises(LlmanacError, match="first half"):
        quantize(str(dense), tmp_path / "out", "int8", texts=["too short"])
    encoder = make_method("lm", {"name": "encoder", "dim": 32, "layers": 1})
    encoder = encoder.build(vocab_size=load_tokenizer(dense).vocab_size)
    llmanac.save_model(encoder, dense.parent / "encoder")
    load_tokenizer(dense).save(dense.parent / "encoder")
    with pytest.raises(SpecError, match="no causal model"):
        quantize(str(dense.parent / "encoder"), tmp_path / "out", "int8", texts=[TEXT * 120])
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- trained through the rounding


def batches(seed, count):
    """Rows of a text in which each token follows from the one before."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        ids = [torch.randint(0, 64, (8, 1), generator=generator)]
        for _ in range(24):
            ids.append((ids[-1] * 5 + torch.randint(0, 3, (8, 1), generator=generator)) % 64)
        row = torch.cat(ids, 1)
        yield Batch(ids=row[:, :-1], targets=row[:, 1:])


def trained(through):
    spec = make_method("lm", {"name": "transformer", "dim": 32, "layers": 2, "max_length": 32})
    model = spec.build(vocab_size=64).initialise(0)
    if through is not None:
        make_method("quantizer", through).build().attach(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for batch in batches(1, 120):
        optimizer.zero_grad()
        (model.nll(batch).sum() / batch.targets.numel()).backward()
        optimizer.step()
    return model.eval()


@torch.no_grad()
def loss(model):
    found = [model.nll(batch).sum() / batch.targets.numel() for batch in batches(2, 4)]
    return float(torch.stack(found).mean())


@pytest.mark.parametrize("name", ["ternary", "binary"])
def test_what_is_trained_is_what_is_packed(name):
    """The packed model has the loss of the trained one, far below that of rounding after training."""
    model, plain = trained(name), trained(None)
    before = loss(model)
    quantizer = make_method("quantizer", name).build()
    quantizer.apply(model)
    assert all(layer.through is None for layer in model.modules() if hasattr(layer, "through"))
    assert loss(model) == pytest.approx(before, abs=1e-4)
    quantizer.apply(plain)
    assert before < loss(plain) - 0.3


def test_a_recipe_trains_through_and_leaves_a_packed_model(made):
    config = json.loads((made / "run" / "model" / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] in ("bitnet", "llmanac")
    model = load_model(made / "run" / "model", device="cpu")
    assert isinstance(model.model.layers[0].mlp.up_proj.weight, Quantized)
    with pytest.raises(SpecError, match="already"):
        make_method("quantizer", "nf4").build().apply(model)


@pytest.mark.parametrize("through, message", [("nf4", "not trained through"), ("ternarry", "ternary")])
def test_recipes_that_are_refused(through, message, tmp_path):
    with pytest.raises(SpecError, match=message):
        run(recipe(tmp_path, through=through), folder=tmp_path / "run")
