"""Files of adapters: hostile ones are refused with a sentence, merging into packed matrices, and `llmanac merge`."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from _engine_models import VOCABULARY
from _small_models import randomise, replaced, shifted, tokens, transformer
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from llmanac.adapters.load import CONFIG, WEIGHTS, load_adapter, save_adapter
from llmanac.cli import main
from llmanac.core.errors import CheckpointError, LlmanacError, SpecError
from llmanac.core.spec import make_method
from llmanac.models.gguf.write import export_gguf
from llmanac.models.load import load_model
from llmanac.models.quantized import Quantized
from llmanac.tokenizers.load import train_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")
FIELDS = {
    "lora": {"rank": 3, "targets": ["q_proj", "down_proj"]},
    "dora": {"rank": 3, "targets": ["q_proj", "lm_head"]},
    "prefix": {"tokens": 4},
    "prompt": {"tokens": 4},
}


def written(name, folder, model=None, seed=1):
    """A folder with an adapter of large values, and its model."""
    model = model or transformer()
    transform = make_method("adapter", {"name": name, **FIELDS[name]}).build(seed=0).apply(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in transform.parameters().values():
            parameter.add_(torch.empty(parameter.shape).normal_(0, 0.2, generator=generator))
    return save_adapter(transform, folder, base="some/model"), model


def changed(folder, config=None, tensors=None):
    path = folder / CONFIG
    table = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in {**table, **(config or {})}.items() if v is not ...}))
    if tensors is not None:
        held = load_file(folder / WEIGHTS)
        tensors(held)
        save_file(held, folder / WEIGHTS)
        replaced(folder)


def first(held, ending):
    return next(name for name in held if name.endswith(ending))


def drop(ending):
    return lambda held: held.pop(first(held, ending))


def strip(held, part):
    for name in [name for name in held if part in name]:
        del held[name]


def put(ending, make):
    def act(held):
        name = first(held, ending)
        held[name] = make(held[name]).contiguous()

    return act


def add(name, *shape):
    return lambda held: held.update({name: torch.zeros(*shape)})


TOKENS = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"
HOSTILE = [
    ("lora", {"peft_type": "IA3"}, None, "peft_type is 'IA3'; this llmanac reads LORA, PREFIX_TUNING, PROMPT_TUNING"),
    ("lora", {"peft_type": ["LORA"]}, None, "peft_type"),
    ("lora", {"peft_type": ...}, None, "peft_type is None"),
    ("lora", {"r": 0}, None, "r is 0"),
    ("lora", {"r": 1 << 40}, None, "r is"),
    ("lora", {"r": 4}, None, r"\(3, 96\), the model and adapter_config.json ask for \(4, 96\).*'some/model'"),
    ("lora", {"lora_alpha": "big"}, None, "lora_alpha is 'big'"),
    ("lora", {"lora_alpha": float("nan")}, None, "lora_alpha|NaN|nan"),
    ("lora", {"lora_dropout": 1.5}, None, "lora_dropout is 1.5"),
    ("lora", {"bias": "some"}, None, "bias is 'some'; expected one of none, lora_only, all"),
    ("lora", {"bias": ["all"]}, None, "bias is"),
    ("lora", {"use_dora": True}, None, "lora_magnitude_vector is missing"),
    ("lora", {"use_rslora": "yes"}, None, "use_rslora is 'yes'; expected true or false"),
    ("lora", {"modules_to_save": ["lm_head"]}, None, "says that lm_head is trained, which the file lacks"),
    ("lora", {"modules_to_save": "lm_head"}, None, "modules_to_save is 'lm_head'; expected a list"),
    ("lora", {"modules_to_save": ["norm"]}, add("base_model.model.model.norm.weight", 31), "trained or of another mod"),
    ("lora", {"trainable_token_indices": [3]}, add(TOKENS, 2, 32), r"trainable_token_indices is \[3\]; .*is \(2, 32\)"),
    ("lora", {"trainable_token_indices": [3, 99]}, add(TOKENS, 2, 32), "trainable_token_indices is"),
    ("lora", {"trainable_token_indices": [3, 3]}, add(TOKENS, 2, 32), "an id is listed twice"),
    ("lora", {}, add(TOKENS, 2, 32), "trainable_token_indices is None; expected a list of ids"),
    ("lora", {"init_lora_weights": "pissa"}, None, "init_lora_weights is 'pissa'; such a start changes"),
    ("lora", {"some_new_form": {"a": 1}}, None, "some_new_form is .*not built"),
    ("lora", {"rank_pattern": {"(a+)+$": 3}}, None, "rank_pattern .*only patterns with at most 3"),
    ("lora", {"rank_pattern": {"q_proj": -1}}, None, "rank_pattern .*numbers from 1"),
    ("lora", {"rank_pattern": 3}, None, "rank_pattern is 3; expected a table"),
    ("lora", {}, drop("lora_B.weight"), "lora_B.weight is missing"),
    ("lora", {}, put("lora_A.weight", lambda t: t[:, :-1]), r"\(3, 95\), the model"),
    ("lora", {}, put("lora_B.weight", lambda t: t * float("inf")), "lora_B.weight' holds a value that is not finite"),
    ("lora", {}, add("base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight", 3, 32), "1 of its 5 modules"),
    ("lora", {}, add("base_model.model.model.embed_tokens.lora_embedding_A", 3, 32), "lora_B.weight is missing"),
    ("lora", {}, add("base_model.model.lm_head.weight", 61, 32), "trained or of another model"),
    ("lora", {}, lambda held: held.clear(), "the adapter is empty"),
    ("lora", {}, lambda held: strip(held, "1.mlp.down_proj"), r"means 1 modules .*: model.layers.1.mlp.down_proj;"),
    ("lora", {"target_modules": r"model\..*\.(q_proj|v_proj|down_proj)"}, None, "means 2 modules .*0.self_attn.v_proj"),
    ("lora", {"target_modules": "all-linear"}, None, "means 10 modules"),
    ("lora", {"target_modules": [3]}, None, r"target_modules is \[3\]; expected names"),
    ("lora", {"target_modules": "(a"}, None, "target_modules is '\\(a'; this is no regular expression"),
    ("dora", {"use_dora": False}, None, "lora_magnitude_vector has no use"),
    ("prefix", {"num_virtual_tokens": 1 << 60}, None, "num_virtual_tokens is"),
    ("prefix", {"num_virtual_tokens": 5}, None, "num_virtual_tokens is 5; adapter_model.safetensors holds 4"),
    ("prefix", {"num_transformer_submodules": 2}, None, "num_transformer_submodules is 2"),
    (
        "prefix",
        {"peft_type": "PROMPT_TUNING"},
        None,
        r"is \(4, 128\), this model takes \(4, 32\) for 4 tokens.*'some/mod",
    ),
    ("prompt", {}, put("prompt_embeddings", lambda t: t / 0), "not finite"),
    ("prompt", {}, add("other", 2), "expected prompt_embeddings alone"),
    ("prompt", {}, put("prompt_embeddings", lambda t: t[0]), "num_virtual_tokens|takes"),
]


@pytest.mark.parametrize("name, config, tensors, message", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_files_are_refused_with_a_sentence(tmp_path, name, config, tensors, message):
    folder, _ = written(name, tmp_path / "a")
    changed(folder, config, tensors)
    model = transformer()
    trained = [k for k, p in model.named_parameters() if p.requires_grad]
    with pytest.raises(LlmanacError, match=message) as found:
        load_adapter(model, folder)
    assert str(tmp_path) in str(found.value) and len(str(found.value)) < 700
    assert [k for k, p in model.named_parameters() if p.requires_grad] == trained
    assert model.soft_prompt is None and not any(getattr(m, "change", None) for m in model.modules())


def test_modules_that_the_config_leaves_out_need_no_tensors(tmp_path):
    folder, _ = written("lora", tmp_path / "a")
    named = {"target_modules": ["q_proj", "down_proj"]}
    slow = {"target_modules": r"(.*)*(q_proj|v_proj)"}  # is not tried: it could take for ever
    for config in ({**named, "layers_to_transform": [0]}, {**named, "exclude_modules": r".*\.1\..*"}, slow):
        changed(folder, config, lambda held: strip(held, "layers.1."))
        assert len(load_adapter(transformer(), folder).parts) == 2
        changed(folder, {"layers_to_transform": ..., "exclude_modules": ...})


def test_damaged_folders(tmp_path):
    folder, _ = written("lora", tmp_path / "a")
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")
    with pytest.raises(CheckpointError, match="pickle"):
        load_adapter(transformer(), folder)
    (folder / WEIGHTS).write_bytes(b"\xff" * 40)
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        load_adapter(transformer(), folder)
    (folder / CONFIG).write_text("[1")
    with pytest.raises(CheckpointError, match=CONFIG):
        load_adapter(transformer(), folder)
    with pytest.raises(LlmanacError, match="nowhere"):
        load_adapter(transformer(), tmp_path / "nowhere")
    with pytest.raises(SpecError, match="not applied"):
        save_adapter(make_method("adapter", "lora").build(), tmp_path / "b")


def test_an_adapter_of_weights_that_have_changed_is_said_to_be_so(tmp_path, capsys):
    transformer(dtype=torch.float32).save_pretrained(tmp_path / "base")
    folder, _ = written("lora", tmp_path / "a", load_model(tmp_path / "base"))
    load_adapter(load_model(tmp_path / "base"), folder)
    load_adapter(transformer(), folder)  # of no folder
    assert "other weights" not in capsys.readouterr().err
    randomise(transformer(dtype=torch.float32), seed=5).save_pretrained(tmp_path / "base")
    load_adapter(load_model(tmp_path / "base"), folder)
    assert f"trained on other weights than {tmp_path / 'base'}" in capsys.readouterr().err


def test_products_that_are_fused_in_files_trained_with_an_A_each(tmp_path):
    """Written as one adapter of the ranks' sum; unlike ranks and a part of the products, too."""
    config = GPT2Config(vocab_size=61, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    randomise(GPT2LMHeadModel(config)).save_pretrained(tmp_path / "base")
    for targets, sharing in (
        (["q_proj", "v_proj", "up_proj"], "none"),
        (["all-linear"], "none"),
        (["k_proj"], "files"),
    ):
        for form in ("sum", "weight-decomposed"):
            model = load_model(tmp_path / "base", dtype=torch.float64, device="cpu")
            fields = {"name": "lora", "rank": 3, "targets": targets, "sharing": sharing, "form": form}
            transform = make_method("adapter", fields).build(seed=0).apply(model)
            with torch.no_grad():
                for parameter in transform.parameters().values():
                    parameter.add_(torch.randn(parameter.shape) * 0.2)
            save_adapter(transform, tmp_path / "a")
            again = load_model(tmp_path / "base", dtype=torch.float64, device="cpu")
            load_adapter(again, tmp_path / "a")
            ids = tokens(2, 9)
            torch.testing.assert_close(again(ids).logits, model(ids).logits, rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", ["lora", "dora"])
@pytest.mark.parametrize("dtype, most", [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 0.2)])
def test_merging_reports_what_rounding_took(tmp_path, name, dtype, most):
    _, model = written(name, tmp_path / "a", transformer(dtype=dtype))
    transform = load_adapter(twin := transformer(dtype=dtype), tmp_path / "a")
    report = transform.merge()
    assert report.error <= most and report.packed == () and len(report.errors) == (4 if name == "lora" else 3)
    if dtype == torch.bfloat16:
        assert report.error > 1e-3
    else:
        torch.testing.assert_close(twin(tokens(2, 9)).logits, model(tokens(2, 9)).logits, rtol=0, atol=20 * most)


@pytest.mark.parametrize("name", ["lora", "dora"])
def test_merging_into_packed_matrices(tmp_path, name):
    """NF4 is made dense first, exactly; packed again, the error is that of packing the sum."""
    model = transformer(dtype=torch.float32)
    make_method("quantizer", {"name": "nf4", "targets": ["all-linear"]}).build().apply(model)
    _, model = written(name, tmp_path / "a", model)
    ids = tokens(2, 9)
    expected = model(ids).logits
    dense, again = copy.deepcopy(model), copy.deepcopy(model)
    report = dense.model.layers[0].self_attn.q_proj.change.transform.merge()
    layer = dense.model.layers[0].self_attn.q_proj
    assert (
        not isinstance(layer.weight, Quantized)
        and report.error < 1e-6
        and len(report.packed) == (4 if name == "lora" else 2)
    )
    torch.testing.assert_close(dense(ids).logits, expected, rtol=0, atol=1e-4)
    report = again.model.layers[0].self_attn.q_proj.change.transform.merge(repack=True)
    layer = again.model.layers[0].self_attn.q_proj
    assert isinstance(layer.weight, Quantized) and 0.01 < report.error < 1
    exact = dense.model.layers[0].self_attn.q_proj.weight
    assert 0 < (layer.weight.dense() - exact).norm() / exact.norm() < 0.15


@pytest.mark.parametrize("kind", ["gguf", "nf4"])
def test_a_base_of_packed_matrices_is_merged_dense(tmp_path, kind, capsys):
    """The sum of what the packed matrices hold and the change, in a plain checkpoint."""
    base, tokenizer = transformer(vocab_size=VOCABULARY, dtype=torch.float32), train_tokenizer("utf8", [])
    place = tmp_path / ("base.gguf" if kind == "gguf" else "base")
    if kind == "gguf":
        export_gguf(base, tokenizer, place, "q8_0")
    else:
        make_method("quantizer", "nf4").build().apply(base)
        base.save_pretrained(place)
        tokenizer.save(place)
    folder, adapted = written("lora", tmp_path / "a", load_model(place, device="cpu"))
    with pytest.raises(SystemExit, match="0"):
        main(["merge", str(folder), "-o", str(tmp_path / "m"), "--base", str(place)])
    assert ("written dense" in (shown := capsys.readouterr().out)) and ("4" in shown)
    merged, ids = load_model(tmp_path / "m", device="cpu"), tokens(2, 9)
    torch.testing.assert_close(merged(ids).logits, adapted(ids).logits, rtol=0, atol=1e-4)
    assert not any(isinstance(p, Quantized) for n, p in merged.named_parameters() if "q_proj" in n)
    layer = adapted.model.layers[1].self_attn.q_proj
    exact = layer.change.merged(load_model(place, device="cpu").model.layers[1].self_attn.q_proj.weight.float())
    torch.testing.assert_close(merged.model.layers[1].self_attn.q_proj.weight, exact, rtol=1e-6, atol=1e-6)


def test_the_command(tmp_path, capsys):
    """The written folder is a plain checkpoint whose loss is the adapted model's; what cannot be done is a sentence."""
    base = transformer(vocab_size=VOCABULARY, dtype=torch.float32)
    base.save_pretrained(tmp_path / "base")
    train_tokenizer("utf8", []).save(tmp_path / "base")
    model = load_model(tmp_path / "base", device="cpu")
    folder, _ = written("dora", tmp_path / "a", model)
    batch = shifted(tokens(2, 9))
    with pytest.raises(SystemExit):
        main(["merge", str(folder), "-o", str(tmp_path / "m")])
    assert "some/model" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="0"):
        main(["merge", str(folder), "-o", str(tmp_path / "m"), "--base", str(tmp_path / "base")])
    shown = capsys.readouterr().out
    assert "llmanac chat" in shown and "largest error" in shown
    merged = load_model(tmp_path / "m", device="cpu")
    torch.testing.assert_close(merged.nll(batch), model.nll(batch), rtol=1e-6, atol=0)
    assert merged.spec.tied is False  # the head has an adapter, the embedding none
    with pytest.raises(SystemExit):
        main(["merge", str(folder), "-o", str(tmp_path / "m"), "--base", str(tmp_path / "base")])
    assert "is there already" in capsys.readouterr().err
    folder, _ = written("prefix", tmp_path / "p", load_model(tmp_path / "base", device="cpu"))
    with pytest.raises(SystemExit):
        main(["merge", str(folder), "-o", str(tmp_path / "n"), "--base", str(tmp_path / "base")])
    assert "cannot be merged" in capsys.readouterr().err and not (tmp_path / "n").exists()
