"""A GGUF file as the native runner reads it by itself is what the model that torch loads of it is, number by number."""

import numpy as np
import pytest
from test_gguf import CASES, models, tokenizer  # noqa: F401 (fixtures)

from llmanac.core.errors import CheckpointError, RequestError
from llmanac.generate._native_file import READ, FileModel
from llmanac.generate.engine import Engine
from llmanac.generate.load import load_engine
from llmanac.generate.native_torch import TorchSource
from llmanac.kernels.gguf import GGUF
from llmanac.kernels.gguf.file import Packable, write
from llmanac.models.gguf.architectures import ARCHITECTURES
from llmanac.models.gguf.write import export_gguf
from llmanac.models.load import load_model

KINDS = ("f32", "bf16", "q8_0", "q4_k_m")
PRODUCTS = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj"]
PRODUCTS += ["mlp.up_proj", "mlp.down_proj"]


def names(source):
    """Of matrices, and of norms."""
    norms = ["input_layernorm", "post_attention_layernorm"]
    norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"] if source.shape.post else []
    norms += ["self_attn.q_norm", "self_attn.k_norm"] if source.shape.qk_eps is not None else []
    layers = [f"model.layers.{i}" for i in range(len(source.shape.windows))]
    return [f"{layer}.{name}" for layer in layers for name in PRODUCTS], [
        *(f"{layer}.{name}" for layer in layers for name in norms), "model.norm",
    ]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES)
def test_a_file_is_read_as_torch_reads_it(case, kind, models, tokenizer, tmp_path):  # noqa: F811
    path = export_gguf(models(case)[1], tokenizer, tmp_path / "m.gguf", kind)
    loaded = load_model(path, device="cpu")
    if "longrope" in case:
        assert "positions" in FileModel.refusal(path)
        with pytest.raises(RequestError, match="positions"):
            TorchSource(loaded)
        return
    if ARCHITECTURES[case.partition(",")[0]].family not in READ:
        assert "files of the family" in FileModel.refusal(path)
        if case == "hunyuan-dense":
            with pytest.raises(RequestError, match="qk_norm_at is set"):
                load_engine(path, device="cpu", runner="native")
            return
        given = load_engine(path, device="cpu", runner="native").generate("the cat", max_new_tokens=12)[0]
        wanted = Engine(loaded, tokenizer).generate("the cat", max_new_tokens=12)[0]
        assert given.ids == wanted.ids or kind in ("q8_0", "q4_k_m")  # which activations of 8 bits multiply
        assert abs(given.logprobs[0] - wanted.logprobs[0]) < 0.5
        return
    assert FileModel.refusal(path) is None
    mine, theirs = FileModel(path), TorchSource(loaded)
    assert mine.shape == theirs.shape and mine.coded == theirs.coded
    assert (mine.max_length, mine.generation) == (loaded.max_length, loaded.generation)
    matrices, norms = names(mine)
    for name in [*matrices, "lm_head"]:
        a, b, dense, wanted = mine.matrix(name), theirs.matrix(name), mine.dense(name), theirs.dense(name)
        assert a.kind == b.kind and tuple(a.shape) == tuple(b.shape)
        assert np.ascontiguousarray(a.data).tobytes() == np.ascontiguousarray(b.data).tobytes(), name
        np.testing.assert_array_equal(dense, wanted)
        bias, wanted = mine.bias(name), theirs.bias(name)
        assert (bias is None) == (wanted is None)
        np.testing.assert_array_equal(0 if bias is None else bias, 0 if wanted is None else wanted)
    for name in norms:
        np.testing.assert_array_equal(mine.norm(name), theirs.norm(name))
    assert (mine.key("lm_head") == "lm_head") == (theirs.key("lm_head") != theirs.key("model.embed_tokens"))
    np.testing.assert_array_equal(mine.embed([0, 7, 299]), theirs.embed([0, 7, 299]))
    pairs = list(zip(mine.tables(100), theirs.tables(100), strict=True))
    assert pairs
    for one, other in pairs:
        for ours, wanted in zip(one, other, strict=True):
            np.testing.assert_allclose(ours, wanted, rtol=0, atol=2e-5)  # angles up to 100 in float32
    same = [
        Engine(model, tokenizer, runner="native").generate("the cat", max_new_tokens=12) for model in (mine, loaded)
    ]
    assert same[0][0].ids == same[1][0].ids
    np.testing.assert_allclose(same[0][0].logprobs, same[1][0].logprobs, atol=0.05 if mine.coded else 1e-3)


def changed(path, tensors):
    """The file with other tensors: by name an array, None for one that is left out."""
    file, made = GGUF(path), {}
    for name in [*file.names, *(name for name in tensors if name not in file.names)]:
        numbers = tensors[name] if name in tensors else file.tensor(name).float32()
        if numbers is not None:
            made[name] = Packable("F32", numbers.shape, lambda numbers=numbers: numbers)
    with (path.parent / "changed.gguf").open("wb") as handle:
        write(handle, file.metadata, made)
    return path.parent / "changed.gguf"


def refused(read, path):
    try:
        read(path)
    except CheckpointError:
        return True
    return False


def read_whole(path):
    return Engine(FileModel(path), runner="native")


@pytest.mark.parametrize("case", ["llama, tied, biases", "qwen3", "phi3", "gemma3"])
def test_tensors_that_do_not_fit_are_refused_as_torch_refuses_them(case, models, tokenizer, tmp_path):  # noqa: F811
    path = export_gguf(models(case)[1], tokenizer, tmp_path / "m.gguf", "f32")
    file, count = GGUF(path), 0
    for name in [n for n in file.names if ".1." not in n and ".2." not in n and "rope" not in n]:
        numbers = file.tensor(name).float32()
        hole = numbers.copy()
        hole.flat[0] = np.nan
        for wrong in ({name: None}, {name: numbers[:-1]}, {name: hole}, {f"{name}.more": numbers}):
            place = changed(path, wrong)
            by_torch, by_itself = refused(load_model, place), refused(read_whole, place)
            assert by_torch == by_itself, (name, wrong.keys())
            count += by_itself
    assert count > 30
