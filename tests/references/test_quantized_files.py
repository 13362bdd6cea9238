"""Packed matrices in files: what other projects write is read, what is written is theirs, and hostile files."""

from __future__ import annotations

import json
import re

import pytest
import torch
import transformers
from _small_models import replaced
from safetensors.torch import load_file, save_file
from transformers.integrations.bitnet import pack_weights

import llmanac
from llmanac.core.errors import CheckpointError
from llmanac.core.spec import make_method
from llmanac.core.types import Batch
from llmanac.generate.native import NativeModel, NativeRunner
from llmanac.models.load import export_model, load_model
from llmanac.models.quantized import Quantized, stored_bytes

bnb = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
NAMES = ("int8", "int8-dynamic", "nf4", "nf4-single", "int4", "ternary", "binary")
ENDINGS = {
    "int8": ("weight", "weight_scale"),
    "nf4": ("weight", "weight.absmax", "weight.quant_map", "weight.nested_absmax", "weight.nested_quant_map",
            "weight.quant_state.bitsandbytes__nf4"),
    "int4": ("qweight", "qzeros", "scales", "g_idx"),
    "ternary": ("weight", "weight_scale"),
    "binary": ("weight", "weight.scale", "weight.shape"),
}  # fmt: skip
IDS = torch.randint(0, 96, (2, 17), generator=torch.Generator().manual_seed(5))
LAYER = "model.layers.1.mlp.up_proj"


def model(**fields):
    block = {"name": "pre-norm", "ffn": {"name": "swiglu", "width": 128}}
    spec = make_method("lm", {"name": "transformer", "dim": 64, "layers": 2, "blocks": [block], **fields})
    made = spec.build(vocab_size=96).eval()
    with torch.no_grad():
        for i, p in enumerate(made.parameters()):
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(i)) * 0.1 + (p.ndim == 1))
    return made


def quantized(name, targets=("all-linear",), made=None, **fields):
    made = made or model()
    make_method("quantizer", {"name": name, "targets": targets, **fields}).build().apply(made)
    return made


def logits(made):
    with torch.no_grad():
        return made(Batch(ids=IDS)).logits


def change(folder, edit=None, **config):
    """Edit the tensors and keys of quantization_config in place; None removes one."""
    path = folder / "model.safetensors"
    if edit is not None:
        tensors = load_file(path)
        edit(tensors)
        save_file(tensors, path, metadata={"format": "pt"})
        if (folder / "llmanac.json").exists():  # not where transformers wrote it
            replaced(folder)
    table = json.loads((folder / "config.json").read_text())
    table["quantization_config"].update(config)
    (folder / "config.json").write_text(json.dumps(table))


def quantization(folder):
    return json.loads((folder / "config.json").read_text())["quantization_config"]


# ---------------------------------------------------------------- both ways


@pytest.mark.parametrize("targets", [("all-linear",), ("all-linear", "lm_head", "embed_tokens")])
@pytest.mark.parametrize("name", NAMES)
def test_a_folder_holds_what_is_packed(name, targets, tmp_path):
    """Same logits, same bytes in memory, no larger on disk; saved again it is the same file."""
    made = quantized(name, targets)
    llmanac.save_model(made, tmp_path / "a")
    loaded = load_model(tmp_path / "a", device="cpu")
    torch.testing.assert_close(logits(loaded), logits(made), rtol=1e-5, atol=1e-5)
    assert stored_bytes(loaded) == stored_bytes(made) < stored_bytes(model()) / 2
    kinds = [type(p) for p in loaded.parameters()]
    assert kinds == [type(p) for p in made.parameters()] and any(isinstance(p, Quantized) for p in loaded.parameters())
    own = name == "binary" or len(targets) > 1
    assert (quantization(tmp_path / "a")["quant_method"] == "llmanac") == own
    llmanac.save_model(loaded, tmp_path / "b")
    assert quantization(tmp_path / "a") == quantization(tmp_path / "b")
    first, second = (load_file(tmp_path / part / "model.safetensors") for part in "ab")
    assert list(first) == list(second)
    for key in first:
        torch.testing.assert_close(first[key], second[key], rtol=1e-6, atol=0)
    found = {key.removeprefix(LAYER + ".") for key in first if key.startswith(LAYER + ".")}
    if not own:
        assert found == set(ENDINGS[name.partition("-")[0]]) - (
            {"weight.nested_absmax", "weight.nested_quant_map"} if name == "nf4-single" else set()
        )


def test_a_model_of_no_family_and_shards_and_adapters(tmp_path):
    made = quantized("nf4", made=model(head={"name": "pointer", "width": 8}))
    llmanac.save_model(made, tmp_path, shard_bytes=20_000)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    loaded = load_model(tmp_path, device="cpu")
    torch.testing.assert_close(logits(loaded), logits(made))
    adapters = [make_method("adapter", {"name": "lora", "rank": 2}).build(seed=3).apply(m) for m in (made, loaded)]
    for adapter in adapters:
        for i, p in enumerate(adapter.parameters().values()):
            p.data = torch.randn(p.shape, generator=torch.Generator().manual_seed(i)) * 0.1
    torch.testing.assert_close(logits(loaded), logits(made))
    loaded.nll(Batch(ids=IDS[:, :-1], targets=IDS[:, 1:])).sum().backward()
    assert all(p.grad is not None for p in adapters[1].parameters().values())


def test_what_one_layout_cannot_hold(tmp_path):
    """Odd shapes have our own layout; two methods in one model are refused and leave no file."""
    made = quantized("int4", ("lm_head",), model(tied=False))
    llmanac.save_model(made, tmp_path / "a")
    assert quantization(tmp_path / "a")["quant_method"] == "gptq" and quantization(tmp_path / "a")["lm_head"] is True
    quantized("int8", ("q_proj",), made)
    with pytest.raises(CheckpointError, match="one method"):
        llmanac.save_model(made, tmp_path / "b")
    assert not (tmp_path / "b" / "config.json").exists()
    with pytest.raises(CheckpointError, match="fused"):
        export_model(quantized("int8"), tmp_path / "c", family="phi3")


def test_matrices_that_a_family_stores_in_another_way_are_dense(tmp_path):
    """GPT-2 fuses q, k and v, and transposes."""
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=96))
    theirs.save_pretrained(tmp_path)
    expected = load_model(tmp_path, device="cpu")
    codes = {}

    def pack(tensors):
        for key in [k for k in tensors if k.endswith(("c_attn.weight", "c_fc.weight", "c_proj.weight"))]:
            packed = make_method("quantizer", "int8").build().pack(tensors[key])
            tensors[key], tensors[key + "_scale"] = packed.parts[""], packed.parts["scale"]
            codes[key] = packed.dense()

    made = quantized("int8")
    llmanac.save_model(made, tmp_path / "other")
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = quantization(tmp_path / "other")
    (tmp_path / "config.json").write_text(json.dumps(config))
    change(tmp_path, pack)
    with pytest.warns(UserWarning, match="4 packed matrices are read as dense ones"):
        loaded = load_model(tmp_path, device="cpu")
    assert not any(isinstance(p, Quantized) for p in loaded.parameters())
    fc = next(value for key, value in codes.items() if key.endswith("c_fc.weight"))
    torch.testing.assert_close(loaded.model.layers[0].mlp.up_proj.weight, fc.T)
    assert 0 < (logits(loaded) - logits(expected)).abs().max() < 0.05


# ---------------------------------------------------------------- other projects


@pytest.mark.parametrize("double", [True, False])
def test_nf4_from_and_to_transformers(double, tmp_path):
    llmanac.save_model(model(), tmp_path / "dense")
    config = transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=double
    )
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "dense", quantization_config=config)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load_model(tmp_path / "theirs", device="cpu")
    state = theirs.get_submodule(LAYER).weight
    found = ours.get_submodule(LAYER).weight
    assert isinstance(found, Quantized)
    torch.testing.assert_close(
        found.dense(), bnb.functional.dequantize_4bit(state.data, state.quant_state).float(), rtol=1e-6, atol=1e-8
    )
    with torch.no_grad():
        torch.testing.assert_close(logits(ours), theirs(IDS).logits.float(), rtol=0, atol=6e-2)  # it multiplies in bf16
        assert (logits(ours) - logits(model())).abs().max() > 0.3
    llmanac.save_model(ours, tmp_path / "ours")
    a, b = (load_file(tmp_path / part / "model.safetensors") for part in ("theirs", "ours"))
    assert set(a) == set(b)
    for key in a:
        if "quant_state" not in key:
            torch.testing.assert_close(a[key], b[key].to(a[key].dtype), rtol=0, atol=0)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    read = again.get_submodule(LAYER).weight
    torch.testing.assert_close(
        bnb.functional.dequantize_4bit(read.data, read.quant_state).float(), found.dense(), rtol=1e-6, atol=1e-8
    )
    with torch.no_grad():
        torch.testing.assert_close(again(IDS).logits.float(), logits(ours), rtol=0, atol=6e-2)


def test_bitnet_from_and_to_transformers(tmp_path):
    made = quantized("ternary")
    llmanac.save_model(made, tmp_path)
    with torch.compiler.set_stance("force_eager"), torch.no_grad():
        theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
        assert type(theirs.get_submodule(LAYER)).__name__ == "BitLinear"
        torch.testing.assert_close(theirs(IDS).logits, logits(made), rtol=1e-4, atol=1e-4)

    def write(tensors):  # by transformers' own packing, with the scale that autobitlinear has
        for key in [k for k in tensors if k.endswith("_scale")]:
            weight = model().get_parameter(key.removesuffix("_scale"))
            scale = weight.detach().abs().mean()
            tensors[key.removesuffix("_scale")] = pack_weights((weight.detach() / scale).round().clamp(-1, 1))
            tensors[key] = scale.reshape(1)

    change(tmp_path, write, linear_class="autobitlinear")
    torch.testing.assert_close(logits(load_model(tmp_path, device="cpu")), logits(made), rtol=1e-5, atol=1e-5)


def test_int8_equals_compressed_tensors_formula(tmp_path):
    made = quantized("int8-dynamic")
    llmanac.save_model(made, tmp_path)
    config, tensors = quantization(tmp_path), load_file(tmp_path / "model.safetensors")
    assert config["format"] == "int-quantized" and config["ignore"] == ["model.embed_tokens", "lm_head"]
    group = config["config_groups"]["group_0"]
    assert group["targets"] == ["Linear"] and group["weights"]["strategy"] == "channel"
    assert group["input_activations"]["dynamic"] is True and group["input_activations"]["strategy"] == "token"
    codes, scale = tensors[LAYER + ".weight"], tensors[LAYER + ".weight_scale"]
    assert codes.dtype == torch.int8 and scale.shape == (128, 1)
    torch.testing.assert_close(codes.float() * scale, made.get_submodule(LAYER).weight.dense())
    weight = model().get_submodule(LAYER).weight
    assert bool(((codes.float() * scale - weight).abs() <= scale / 2 * 1.001).all())


def unpack_gptq(tensors, base, version):
    """AutoGPTQ's formula, a number at a time: scales[g] (q - (z + 1)) for version 1."""
    qweight, qzeros, scales, order = (tensors[f"{base}.{key}"] for key in ("qweight", "qzeros", "scales", "g_idx"))
    weight = torch.zeros(scales.shape[1], len(order))
    for n in range(weight.shape[0]):
        for k in range(weight.shape[1]):
            g = int(order[k])
            q = (int(qweight[k // 8, n]) & 0xFFFFFFFF) >> 4 * (k % 8) & 15
            z = (int(qzeros[g, n // 8]) & 0xFFFFFFFF) >> 4 * (n % 8) & 15
            weight[n, k] = float(scales[g, n]) * (q - (z + 1 & 15 if version == 1 else z))
    return weight


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("kind", ["plain", "ordered", "asymmetric", "one group"])
def test_gptq_equals_the_formula(kind, version, tmp_path):
    made = quantized("int4", group=32)
    llmanac.save_model(made, tmp_path)
    base = "model.layers.0.self_attn.k_proj"
    tensors = load_file(tmp_path / "model.safetensors")
    torch.testing.assert_close(unpack_gptq(tensors, base, 1), made.get_submodule(base).weight.dense())
    generator = torch.Generator().manual_seed(3)

    def edit(tensors):
        for key in list(tensors):
            if kind == "ordered" and key.endswith("g_idx"):
                tensors[key] = tensors[key][torch.randperm(len(tensors[key]), generator=generator)]
            if kind == "asymmetric" and key.endswith("qzeros"):
                whole = torch.randint(-(1 << 31), 1 << 31, tensors[key].shape, generator=generator)
                tensors[key] = whole.to(torch.int32)
            if kind == "one group" and key.endswith(("qzeros", "scales")):
                tensors[key] = tensors[key][:1].contiguous()
            if kind == "one group" and key.endswith("g_idx"):
                tensors[key] = torch.zeros_like(tensors[key])

    more = {"desc_act": kind == "ordered", "sym": kind != "asymmetric"}
    change(
        tmp_path, edit, **more, checkpoint_format="gptq" if version == 1 else "gptq_v2",
        group_size=-1 if kind == "one group" else 32,
    )  # fmt: skip
    loaded, tensors = load_model(tmp_path, device="cpu"), load_file(tmp_path / "model.safetensors")
    packed = loaded.get_submodule(base).weight
    torch.testing.assert_close(packed.dense(), unpack_gptq(tensors, base, version))
    rows = torch.tensor([[3, 1], [0, 0]])
    torch.testing.assert_close(packed.form.rows(packed.parts, tuple(packed.shape), rows), packed.dense()[rows])
    llmanac.save_model(loaded, tmp_path / "again")  # version 1, whatever was read
    assert quantization(tmp_path / "again")["desc_act"] == more["desc_act"]
    torch.testing.assert_close(logits(load_model(tmp_path / "again", device="cpu")), logits(loaded))


def test_biases_of_zeros_are_no_biases(tmp_path):
    made = quantized("int4")
    llmanac.save_model(made, tmp_path)
    change(tmp_path, lambda tensors: tensors.update({f"{LAYER}.bias": torch.zeros(128)}))
    torch.testing.assert_close(logits(load_model(tmp_path, device="cpu")), logits(made))
    change(tmp_path, lambda tensors: tensors.update({f"{LAYER}.bias": torch.ones(128)}))
    with pytest.raises(CheckpointError, match="no place"):
        load_model(tmp_path, device="cpu")


# ---------------------------------------------------------------- hostile


def state(**fields):
    table = {"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [128, 64], "nested_blocksize": 256,
             "nested_dtype": "float32", "nested_offset": 0.1}  # fmt: skip
    text = json.dumps({**table, **fields}) if isinstance(fields, dict) else fields
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def put(ending, value):
    def edit(tensors):
        if value is None:
            del tensors[f"{LAYER}.{ending}"]
        else:
            tensors[f"{LAYER}.{ending}"] = value(tensors[f"{LAYER}.{ending}"]) if callable(value) else value

    return edit


STATE = "weight.quant_state.bitsandbytes__nf4"
TENSORS = [
    ("int8", put("weight_scale", None), "weight_scale is missing"),
    ("int8", put("weight_scale", lambda t: t[:5]), r"weight_scale is F32 \[5, 1\], expected F32 or F16 or BF16"),
    ("int8", put("weight_scale", lambda t: t * float("nan")), "weight_scale holds NaN or infinity"),
    ("int8", put("weight", lambda t: t.view(torch.uint8)), r"weight is U8"),
    ("int8", put("weight", lambda t: t.flatten()), "1 axes"),
    ("int8", put("weight_extra", torch.zeros(2)), "weights have no place"),
    ("int8", put("weight", lambda t: t.float()), "no place|no packed"),
    ("int8", put("weight", lambda t: t[:64]), "weight_scale is F32"),
    ("nf4", put(STATE, None), "is missing"),
    ("nf4", put(STATE, state(shape=[1 << 40, 1 << 40])), "shape is"),
    ("nf4", put(STATE, state(shape=[1 << 20, 1 << 20])), "weight is U8"),
    ("nf4", put(STATE, state(shape=[64])), "shape is"),
    ("nf4", put(STATE, state(shape=[True, 8192])), "shape is"),
    ("nf4", put(STATE, state(shape=[64, 128])), "asks for"),
    ("nf4", put(STATE, state(blocksize=0)), "blocksize is 0"),
    ("nf4", put(STATE, state(blocksize="64")), "blocksize is '64'"),
    ("nf4", put(STATE, state(nested_offset="x")), "nested_offset is 'x'"),
    ("nf4", put(STATE, state(nested_offset=float("nan"))), "nested_offset is nan"),
    ("nf4", put(STATE, state(nested_blocksize=1)), "nested_blocksize"),
    ("nf4", put(STATE, state(quant_type="fp4")), "quant_type is nf4"),
    ("nf4", put(STATE, torch.tensor(list(b"[" * 4000), dtype=torch.uint8)), "no JSON object"),
    ("nf4", put(STATE, torch.zeros(5000, dtype=torch.uint8)), "5,000 numbers"),
    ("nf4", put("weight.quant_map", lambda t: t.flip(0)), "other levels"),
    ("nf4", put("weight.nested_quant_map", None), "nested_quant_map is missing"),
    ("nf4", put("weight.absmax", lambda t: t[:-1]), "weight.absmax is U8"),
    ("int4", put("g_idx", lambda t: t + 9), "g_idx names groups"),
    ("int4", put("g_idx", lambda t: t - 1), "g_idx names groups"),
    ("int4", put("scales", None), "scales is missing"),
    ("int4", put("qzeros", lambda t: t[:, :-1]), "qzeros is I32"),
    ("int4", put("qweight", lambda t: t[:, :-1]), "multiple of 8"),
    ("ternary", put("weight_scale", lambda t: t * 0), "weight_scale is 0.0"),
    ("ternary", put("weight", lambda t: t * 0 + 255), "code 3"),
    ("ternary", put("weight", lambda t: t[:-1]), "asks for"),
    ("binary", put("weight.shape", torch.tensor([1 << 40, 1 << 40])), "cannot fill"),
    ("binary", put("weight.shape", torch.tensor([-1, 64])), "cannot fill"),
    ("binary", put("weight.shape", torch.tensor([128, 63])), "multiple of 8"),
    ("binary", put("weight.shape", None), "weight.shape is missing"),
    ("binary", put("weight.shape", torch.zeros(1 << 14, dtype=torch.int64)), "16,384 numbers"),
    ("binary", put("weight.scale", lambda t: t.float()), "weight.scale is F32"),
]


@pytest.mark.parametrize("name, edit, message", TENSORS, ids=range(len(TENSORS)))
def test_tensors_that_do_not_fit_are_refused(name, edit, message, tmp_path):
    llmanac.save_model(quantized(name), tmp_path)

    def contiguous(tensors):
        edit(tensors)
        tensors.update({key: value.contiguous() for key, value in tensors.items()})

    change(tmp_path, contiguous)
    with pytest.raises(CheckpointError, match=message) as error:
        load_model(tmp_path, device="cpu")
    assert str(tmp_path) in str(error.value) and len(str(error.value)) < 800


CONFIGS = [
    ("int8", {"quant_method": "hqq"}, "quant_method: awq, bitsandbytes, bitnet"),
    ("int8", {"quant_method": ["gptq"]}, "quant_method"),
    ("int8", {"format": "marlin-24"}, "format is 'marlin-24'"),
    ("int8", {"format": "pack-quantized"}, "weights: num_bits is 8"),
    ("int8", {"config_groups": {}}, "config_groups"),
    ("int8", {"config_groups": {"a": {"weights": {"num_bits": 4}}}}, "weights: num_bits is 4"),
    ("nf4", {"bnb_4bit_quant_type": "fp4"}, "bnb_4bit_quant_type is 'fp4'"),
    ("nf4", {"load_in_4bit": False}, "load_in_4bit is False"),
    ("nf4", {"load_in_8bit": True}, "load_in_4bit is True"),
    ("int4", {"bits": 3}, "bits is 3"),
    ("int4", {"group_size": 0}, "group_size is 0"),
    ("int4", {"group_size": 10**30}, "group_size is"),
    ("int4", {"checkpoint_format": "marlin"}, "checkpoint_format is 'marlin'"),
    ("ternary", {"use_rms_norm": True}, "use_rms_norm is True"),
    ("ternary", {"linear_class": "autobitlinear", "quantization_mode": "online"}, "quantization_mode is 'online'"),
    ("binary", {"quantizer": None}, "quantizer is None"),
    ("binary", {"quantizer": {"name": "bf16"}}, "packs no matrices"),
    ("binary", {"quantizer": {"name": "binary", "group": 7}}, "group: 7"),
]


@pytest.mark.parametrize("name, fields, message", CONFIGS, ids=range(len(CONFIGS)))
def test_configs_that_are_not_read_are_refused(name, fields, message, tmp_path):
    llmanac.save_model(quantized(name), tmp_path)
    change(tmp_path, **fields)
    with pytest.raises(CheckpointError, match=message) as error:
        load_model(tmp_path, device="cpu")
    assert re.search("config.json|model.safetensors", str(error.value))


# ---------------------------------------------------------------- layouts that are read only


def nibbles(codes):
    """(..., n) whole numbers below 16 -> int32 (..., n / 8), the first in the lowest bits."""
    shifted = codes.long().unflatten(-1, (-1, 8)) << torch.arange(0, 32, 4)
    whole = shifted.sum(-1)
    return torch.where(whole >= 1 << 31, whole - (1 << 32), whole).to(torch.int32)


def numbers(shape, below, seed):
    return torch.randint(0, below, shape, generator=torch.Generator().manual_seed(seed))


def awq(weight, group=32):
    """The formula of AWQ's files, with any codes: s (q - z), columns of eight in the order of its kernels."""
    rows, columns = weight.shape
    q, z = numbers((columns, rows), 16, 1), numbers((columns // group, rows), 16, 2)
    s = (0.01 + 0.01 * torch.rand(columns // group, rows)).half()
    order = torch.tensor([0, 2, 4, 6, 1, 3, 5, 7])
    found = {"qweight": q, "qzeros": z}
    tensors = {name: nibbles(x.unflatten(1, (-1, 8))[..., order].flatten(1)) for name, x in found.items()}
    exact = s.float().repeat_interleave(group, 0) * (q - z.repeat_interleave(group, 0))
    return {**tensors, "scales": s}, exact.T


def pack_quantized(weight, group=32, symmetric=True):
    rows, columns = weight.shape
    q, s = numbers((rows, columns), 16, 3), (0.01 + 0.01 * torch.rand(rows, columns // group)).bfloat16()
    z = torch.full(s.shape, 8) if symmetric else numbers(s.shape, 16, 4)
    tensors = {"weight_packed": nibbles(q), "weight_scale": s, "weight_shape": torch.tensor([rows, columns])}
    if not symmetric:
        tensors["weight_zero_point"] = nibbles(z.T).T.contiguous()
    return tensors, s.float().repeat_interleave(group, 1) * (q - z.repeat_interleave(group, 1))


def bnb_int8(weight):
    codes, scale = numbers(weight.shape, 255, 5) - 127, 0.5 + torch.rand(len(weight))
    return {"weight": codes.to(torch.int8), "SCB": scale, "weight_format": torch.tensor(0, dtype=torch.uint8)}, (
        codes * scale[:, None] / 127
    )


def fp8(weight, ending="weight_scale", tile=(1, 0)):
    rows, columns = weight.shape
    height, width = (size or whole for size, whole in zip(tile, weight.shape, strict=True))
    scale = 0.5 + torch.rand(-(-rows // height), -(-columns // width))
    codes = weight.to(torch.float8_e4m3fn)
    spread = scale.repeat_interleave(height, 0)[:rows].repeat_interleave(width, 1)[:, :columns]
    return {"weight": codes, ending: scale}, codes.float() * spread


def group_of(**weights):
    return {
        "quant_method": "compressed-tensors",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
    }


INTEGER = {"num_bits": 4, "type": "int"}
FLOAT = {"num_bits": 8, "type": "float", "symmetric": True, "dynamic": False}
READ_ONLY = {
    "awq": (awq, {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True}),
    "pack-quantized": (pack_quantized, {
        "format": "pack-quantized", **group_of(**INTEGER, symmetric=True, strategy="group", group_size=32)}),
    "pack-quantized, zeros": (lambda w: pack_quantized(w, 32, False), {
        "format": "pack-quantized", **group_of(**INTEGER, symmetric=False, strategy="group", group_size=32)}),
    "pack-quantized, rows": (lambda w: pack_quantized(w, w.shape[1]), {
        "format": "pack-quantized", **group_of(**INTEGER, symmetric=True, strategy="channel")}),
    "bitsandbytes int8": (bnb_int8, {"quant_method": "bitsandbytes", "load_in_8bit": True, "load_in_4bit": False}),
    "fp8, tiles": (lambda w: fp8(w, "weight_scale_inv", (48, 40)), {
        "quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [48, 40]}),
    "fp8, rows": (fp8, {"format": "float-quantized", **group_of(**FLOAT, strategy="channel")}),
    "fp8, one": (lambda w: fp8(w, tile=(0, 0)), {"format": "float-quantized", **group_of(**FLOAT, strategy="tensor")}),
}  # fmt: skip


def read_only(name, folder, edit=lambda tensors: None, **config):
    """A folder of this layout, and the dense model of its numbers."""
    make, quantization = READ_ONLY[name]
    made = model()
    llmanac.save_model(made, folder)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    for key in [key for key in tensors if key.endswith("_proj.weight")]:
        base = key.removesuffix("weight")
        parts, exact = make(tensors.pop(key))
        tensors |= {base + ending: part for ending, part in parts.items()}
        made.get_parameter(key).data.copy_(exact)
    edit(tensors)
    save_file(tensors, path, metadata={"format": "pt"})
    replaced(folder)
    table = json.loads((folder / "config.json").read_text())
    table["quantization_config"] = {**quantization, **config}
    (folder / "config.json").write_text(json.dumps(table))
    return made


@pytest.mark.parametrize("name", READ_ONLY)
def test_layouts_that_are_read_hold_the_numbers_of_their_formula(name, tmp_path):
    dense = read_only(name, tmp_path / "a")
    loaded = load_model(tmp_path / "a", device="cpu")
    packed = [p for p in loaded.parameters() if isinstance(p, Quantized)]
    assert len(packed) == 14
    for key, p in loaded.named_parameters():
        if isinstance(p, Quantized):
            torch.testing.assert_close(p.dense(), dense.get_parameter(key).detach(), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(logits(loaded), logits(dense), rtol=1e-5, atol=1e-5)
    llmanac.save_model(loaded, tmp_path / "b")
    torch.testing.assert_close(logits(load_model(tmp_path / "b", device="cpu")), logits(dense), rtol=1e-5, atol=1e-5)
    native = NativeModel(loaded, threads=1)
    assert native._plan.matrices[..., 4].all()
    runner = NativeRunner(native)
    runner.extend([IDS[0].tolist()], 64)
    found = torch.from_numpy(runner.read(0, [IDS[0].tolist()], every=True)[0]).log_softmax(-1)
    exact = logits(dense)[0].log_softmax(-1)
    assert 0 <= float((exact.exp() * (exact - found)).sum(-1).mean()) < 5e-3


@pytest.mark.parametrize("name, edit, config, message", [
    ("awq", put("qzeros", lambda t: t[:, :-1].contiguous()), {}, "qzeros is I32"),
    ("awq", put("scales", None), {}, "scales is missing"),
    ("awq", None, {"bits": 8}, "bits is 8"),
    ("awq", None, {"version": "gemv"}, "version is 'gemv'"),
    ("awq", None, {"group_size": 0}, "group_size is 0"),
    ("pack-quantized", put("weight_shape", torch.tensor([128, 72])), {}, "weight_packed has the shape"),
    ("pack-quantized", put("weight_shape", None), {}, "weight_shape is missing"),
    ("pack-quantized", None, group_of(**INTEGER, strategy="tensor"), "strategy is 'tensor'"),
    ("pack-quantized", None, group_of(num_bits=8, type="int"), "num_bits is 8"),
    ("pack-quantized", None, group_of(**INTEGER, strategy="group", actorder="group"), "actorder is 'group'"),
    ("pack-quantized, zeros", put("weight_zero_point", None), {}, "weight_zero_point is missing"),
    ("bitsandbytes int8", put("SCB", lambda t: t * float("inf")), {}, "SCB holds NaN or infinity"),
    ("bitsandbytes int8", put("SCB", lambda t: t[:-1].contiguous()), {}, "SCB is F32"),
    ("bitsandbytes int8", put("weight_format", torch.tensor(1, dtype=torch.uint8)), {}, "weight_format"),
    ("fp8, tiles", None, {"weight_block_size": [48]}, r"weight_block_size is \[48\]"),
    ("fp8, tiles", None, {"activation_scheme": "static"}, "activation_scheme is 'static'"),
    ("fp8, tiles", put("weight_scale_inv", None), {}, "weight_scale_inv is missing"),
    ("fp8, rows", put("weight", lambda t: t.view(torch.int8)), {}, "weight is I8"),
    ("fp8, rows", put("weight", lambda t: (t.view(torch.int8) | 127).view(t.dtype)), {}, "weight holds NaN"),
    ("fp8, rows", None, group_of(**FLOAT, strategy="block"), "strategy is 'block'"),
])  # fmt: skip
def test_layouts_that_are_read_refuse_what_does_not_fit(name, edit, config, message, tmp_path):
    read_only(name, tmp_path, edit or (lambda tensors: None), **config)
    with pytest.raises(CheckpointError, match=message) as error:
        load_model(tmp_path, device="cpu")
    assert str(tmp_path) in str(error.value)
