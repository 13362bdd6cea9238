"""Files of quantized models, loaded by the engine, against the dequantized models of outside implementations."""

from __future__ import annotations

import pytest
import torch
from _small_models import block, tokens, transformer
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from llmanac.core.errors import CheckpointError
from llmanac.core.spec import make_method
from llmanac.generate.load import load_engine
from llmanac.kernels.gguf import GGUF
from llmanac.models.gguf.write import export_gguf
from llmanac.models.load import load_model
from llmanac.models.save import save_model
from llmanac.tokenizers.load import train_tokenizer


def model(dim, tokenizer):
    blocks = block({"name": "multi-head", "heads": 4, "kv_heads": 2}, {"name": "swiglu", "width": dim})
    return transformer(dtype=torch.float32, dim=dim, blocks=blocks, vocab_size=tokenizer.vocab_size, tied=False)


def served(engine, ids):
    """The log-probabilities that the engine's runner gives a row."""
    runner = engine.scheduler().runner
    runner.extend([ids.tolist()], 64)
    return torch.from_numpy(runner.read(0, [ids.tolist()], every=True)[0]).log_softmax(-1)


@pytest.mark.parametrize("kind", ["Q4_1", "Q8_0", "Q4_K"])
def test_gguf_files_equal_the_dequantized_model_of_transformers(kind, tmp_path):
    pytest.importorskip("gguf", reason="transformers reads GGUF files with the gguf package")
    tokenizer = train_tokenizer("bpe", ["the cat sat on the mat"] * 3, vocab_size=270, special_tokens=("</s>",))
    given = model(256 if kind == "Q4_K" else 64, tokenizer)
    path = export_gguf(given, tokenizer, tmp_path / "m.gguf", "q4_k_m" if kind == "Q4_K" else kind)
    assert GGUF(path).kind("blk.1.ffn_up.weight") == kind
    peer = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf", attn_implementation="eager").eval()
    engine, ids = load_engine(path, device="cpu", runner="native"), tokens(1, 40, below=tokenizer.vocab_size)
    with torch.no_grad():
        wanted, dense = peer(ids).logits[0].log_softmax(-1), given(ids).logits[0].log_softmax(-1)
    found = served(engine, ids[0])
    kl = float((wanted.exp() * (wanted - found)).sum(-1).mean())
    lost = float((dense.exp() * (dense - wanted)).sum(-1).mean())
    print(f"{kind}: KL {kl:.2e} to the dequantized model, which is {lost:.2e} from the original")
    assert kl < (5e-2 if kind == "Q4_K" else 5e-3)  # of 8-bit activations; the K blocks are of a wider model
    assert lost > (1e-4 if kind == "Q8_0" else 1e-2)
    prompt = ids[0, :9].tolist()
    answer = engine.generate(prompt, max_new_tokens=1, stop_ids=[])[0].ids
    assert answer == [int(found[8].argmax())]


@pytest.mark.parametrize("name", ["int8", "nf4"])
def test_packed_folders_equal_the_dequantized_matrices(name, tmp_path):
    """INT8 by the formula of compressed-tensors, NF4 by bitsandbytes, both from the file's own tensors."""
    tokenizer = train_tokenizer("utf8", [])
    given = model(64, tokenizer)
    save_model(given, tmp_path / "dense")
    make_method("quantizer", name).build().apply(given)
    save_model(given, tmp_path / name)
    tokenizer.save(tmp_path / name)
    state, plain = load_file(tmp_path / name / "model.safetensors"), load_model(tmp_path / "dense", device="cpu")
    ids = tokens(1, 40, below=tokenizer.vocab_size)
    with torch.no_grad():
        dense, changed = plain(ids).logits[0].log_softmax(-1), 0
        for key, parameter in plain.named_parameters():
            if state[key].dtype in (torch.int8, torch.uint8):
                parameter.copy_(_dequantized(name, key, state, parameter.shape))
                changed += 1
        wanted = plain(ids).logits[0].log_softmax(-1)
    assert changed == 14
    native = served(load_engine(tmp_path / name, device="cpu", runner="native"), ids[0])
    assert 0 <= float((wanted.exp() * (wanted - native)).sum(-1).mean()) < 5e-3  # of 8-bit activations
    engine = load_engine(tmp_path / name, device="cpu", runner="auto")
    found = served(engine, ids[0])
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)
    assert float((dense - wanted).abs().max()) > 0.01
    assert engine.generate(ids[0, :9].tolist(), max_new_tokens=1, stop_ids=[])[0].ids == [int(wanted[8].argmax())]


@pytest.mark.parametrize("kind", ["f32", "f16", "q8_0", "q4_k_m"])
def test_a_file_is_run_natively_by_default_where_that_is_worth_it(kind, tmp_path, monkeypatch):
    tokenizer = train_tokenizer("utf8", [])
    given = model(64, tokenizer)
    path = export_gguf(given, tokenizer, tmp_path / "m.gguf", kind)
    assert load_engine(path, device="cpu").native is None  # too small for the seconds of compiling
    monkeypatch.setattr("llmanac.generate.engine.SMALL", 0)
    assert load_engine(path, device="cpu").native is not None
    assert load_engine(path, device="cpu", runner="torch").native is None
    save_model(given, tmp_path / "folder")
    tokenizer.save(tmp_path / "folder")
    assert load_engine(tmp_path / "folder", device="cpu").native is None


def _dequantized(name, key, state, shape):
    if name == "int8":
        return state[key].float() * state[f"{key}_scale"].float().view(-1, 1)
    functional = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed").functional
    own = {ending.removeprefix(f"{key}."): t for ending, t in state.items() if ending.startswith(f"{key}.")}
    found = functional.QuantState.from_dict(own, device=torch.device("cpu"))
    return functional.dequantize_4bit(state[key], found).float().view(shape)


def test_a_hub_models_name_is_downloaded_and_served(tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    tokenizer = train_tokenizer("utf8", [])
    save_model(model(64, tokenizer), tmp_path)
    tokenizer.save(tmp_path)
    monkeypatch.setattr(
        hub, "snapshot_download", lambda name, **given: str(tmp_path) if name == "owner/name" else 1 / 0
    )
    engine = load_engine("owner/name", device="cpu", runner="torch")
    assert engine.generate("a", max_new_tokens=3, stop_ids=[])[0].ids and engine.runs_on.startswith("torch runner, ")
    with pytest.raises(CheckpointError, match="the hub did not give it"):
        load_engine("owner/other", device="cpu")
