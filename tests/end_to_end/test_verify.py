"""`llmanac verify`: each published cause of gibberish after export is named, and faithful exports raise no alarm."""

from __future__ import annotations

import json
import socket

import numpy as np
import pytest
from _exports import TEMPLATE, changed, edited, folder, gguf, model, words
from _servers import running

from llmanac.adapters.load import save_adapter
from llmanac.cli import main
from llmanac.core.errors import CheckpointError, RequestError
from llmanac.core.spec import make_method
from llmanac.generate.load import load_engine
from llmanac.models.load import load_model
from llmanac.recipes.verifying import CheckBounds, verify
from llmanac.recipes.verifying.answers import paired
from llmanac.recipes.verifying.sides import Remote

THETA = 500_000.0
FEW = CheckBounds(limit=6, length=12)


def causes(tuned, exported, **choices):
    [one] = verify(str(tuned), [str(exported)], bounds=FEW, with_llama_cpp=False, **choices)
    return [found.cause for found in one.findings], one


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A tuned model's folder, its faithful file, and an adapter on a base."""
    root = tmp_path_factory.mktemp("verify")
    tokenizer = words()
    whole = model(tokenizer, position={"name": "rope", "theta": THETA})
    tuned = folder(root / "tuned", whole, tokenizer)
    return root, tuned, gguf(root / "faithful.gguf", whole, tokenizer)


def swapped(tokens, a=300, b=301):
    out = list(tokens)
    out[a], out[b] = out[b], out[a]
    return out


def reordered(name, x):
    """Rows of each head as another converter leaves them."""
    if not name.endswith(("attn_q.weight", "attn_k.weight")):
        return None
    heads = 4 if "attn_q" in name else 2
    return x.reshape(heads, -1, 2, x.shape[-1]).swapaxes(1, 2).reshape(x.shape)


def signs(name, x):
    return np.sign(x) * np.abs(x).mean() if x.ndim == 2 else None


def huge(name, x):
    return x * 1e7 if "ffn_up" in name else None


def without_head(name, x):
    return False if name == "output.weight" else None


def other_head(name, x):
    return x[::-1] if name == "output.weight" else None


KEYS = {
    "template missing": ("template", {"tokenizer.chat_template": None}),
    "template of others": ("template", {"tokenizer.chat_template": TEMPLATE.replace("user", "assistant", 1)}),
    "template without system": ("template", {"tokenizer.chat_template": TEMPLATE.replace(
        "{% else %}", "{% elif message['role'] != 'system' %}")}),
    "bos twice": ("bos-twice", {"tokenizer.chat_template": "{{ bos_token }}" + TEMPLATE}),
    "bos missing": ("bos-missing", {"tokenizer.ggml.add_bos_token": False}),
    "end of others": ("end-token", {"tokenizer.ggml.eos_token_id": 300}),
    "end missing": ("end-token", {"tokenizer.ggml.eos_token_id": None}),
    "split pattern": ("split-pattern", {"tokenizer.ggml.pre": "smollm"}),
    "base of rotation lost": ("rope", {"llama.rope.freq_base": None}),
    "base of rotation of others": ("rope", {"llama.rope.freq_base": 1e6}),
    "scaling of rotation": ("rope", {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}),
    "epsilon of norms": ("config", {"llama.attention.layer_norm_rms_epsilon": 1e-3}),
}  # fmt: skip
TENSORS = {
    "head lost": ("tied-head", without_head, "f16"),
    "head of others": ("tied-head", other_head, "f16"),
    "rows of queries and keys": ("row-order", reordered, "f16"),
    "infinite": ("dtype", huge, "f16"),
    "one bit": ("quantization", signs, "q4_0"),
    "one bit in 8": ("quantization", signs, "q8_0"),
}


@pytest.mark.parametrize("fault", KEYS)
def test_a_changed_key_is_named(fault, made):
    root, tuned, faithful = made
    cause, keys = KEYS[fault]
    found, one = causes(tuned, changed(faithful, root / "key.gguf", keys))
    assert found[:1] == [cause], one.findings


@pytest.mark.parametrize("fault", TENSORS)
def test_a_changed_tensor_is_named(fault, made):
    root, tuned, faithful = made
    cause, tensors, kind = TENSORS[fault]
    source = faithful
    if kind != "f16":
        engine = load_engine(str(tuned))
        source = gguf(root / f"{kind}.gguf", engine.model, engine.tokenizer, kind)
    found, one = causes(tuned, changed(source, root / "tensor.gguf", None, tensors))
    assert found[:1] == [cause], one.findings


def test_tokens_that_moved_and_another_vocabulary(made):
    root, tuned, faithful = made
    from llmanac.kernels.gguf import GGUF

    tokens = GGUF(faithful).metadata["tokenizer.ggml.tokens"]
    found, _ = causes(tuned, changed(faithful, root / "moved.gguf", {"tokenizer.ggml.tokens": swapped(tokens, 40, 41)}))
    assert found[:1] == ["vocabulary"]
    smaller = words(vocab_size=300)
    other = model(smaller, position={"name": "rope", "theta": THETA})
    found, one = causes(tuned, gguf(root / "smaller.gguf", other, smaller))
    assert found[:1] == ["vocabulary"] and one.answers.kl is None


def test_a_begin_of_text_that_the_model_never_read(tmp_path):
    tokenizer = words(adds_bos=False)
    whole = model(tokenizer)
    tuned = folder(tmp_path / "tuned", whole, tokenizer)
    faithful = gguf(tmp_path / "faithful.gguf", whole, tokenizer)
    assert causes(tuned, faithful)[0] == []
    found, _ = causes(tuned, changed(faithful, tmp_path / "a.gguf", {"tokenizer.ggml.add_bos_token": True}))
    assert found[:1] == ["bos-twice"]
    tokenizer = words(adds_bos=False, template=TEMPLATE.removeprefix("{{ bos_token }}"))
    tuned = folder(tmp_path / "plain", whole, tokenizer)
    faithful = gguf(tmp_path / "plain.gguf", whole, tokenizer)
    found, _ = causes(tuned, changed(faithful, tmp_path / "b.gguf", {"tokenizer.ggml.add_bos_token": True}))
    assert found[:1] == ["bos-added"]


@pytest.mark.parametrize("size", [0.5, 0.05, 0.02])
def test_the_base_in_place_of_the_tuned_model(size, tmp_path):
    """The smaller changes are below what rounding to 8 and to 4 bits leaves."""
    tokenizer = words()
    base = folder(tmp_path / "base", model(tokenizer, dim=256), tokenizer)
    whole = load_model(base, device="cpu")
    change = make_method("adapter", {"name": "lora", "rank": 4}).build(seed=1).apply(whole)
    for name, parameter in whole.named_parameters():
        if "lora" in name:
            parameter.data.normal_(0, size)
    save_adapter(change, tmp_path / "adapter", base=str(base))
    tokenizer.save(tmp_path / "adapter")
    kinds = ("f16", "q8_0", "q4_k_m", "q4_0")
    for kind in kinds:
        exported = gguf(tmp_path / f"base-{kind}.gguf", load_model(base, device="cpu"), tokenizer, kind)
        found, one = causes(tmp_path / "adapter", exported)
        assert found == ["adapter-not-merged"], (kind, one.findings)
    merged = load_engine(str(tmp_path / "adapter"))
    for kind in kinds:
        exported = gguf(tmp_path / f"{kind}.gguf", merged.model, tokenizer, kind)
        found, one = causes(tmp_path / "adapter", exported)
        assert "adapter-not-merged" not in found, (kind, one.findings)
        assert size == 0.5 or found == [], (kind, one.findings)


CASES = {
    "llama": ({}, {"dim": 64}, "llama"),
    "tied, of 256": ({"tied": True}, {"dim": 256}, "llama"),
    "yarn, no begin of text": (
        {"position": {"name": "rope", "scaling": {"type": "yarn", "factor": 4.0, "original_length": 64}}},
        {"dim": 64, "adds_bos": False}, "llama"),
    "another pattern": ({"position": {"name": "rope", "theta": THETA}}, {"dim": 64, "pattern": "llama3"}, "llama"),
    "no template": ({"tied": True}, {"dim": 64, "template": None}, "llama"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_faithful_exports_raise_no_alarm(case, tmp_path):
    """20: five models, four types each."""
    choices, more, family = CASES[case]
    dim = more.pop("dim")
    tokenizer = words(**more)
    more["dim"] = dim
    whole = model(tokenizer, dim=dim, **choices)
    tuned = folder(tmp_path / "tuned", whole, tokenizer, family)
    files = [gguf(tmp_path / f"{kind}.gguf", whole, tokenizer, kind) for kind in ("f16", "bf16", "q8_0", "q4_k_m")]
    found = verify(str(tuned), [str(file) for file in files], bounds=FEW, with_llama_cpp=False)
    assert [(one.findings, one.beyond) for one in found] == [([], [])] * 4
    assert all(one.answers.kl[0] < 0.3 for one in found)
    assert found[0].answers.kl[0] < found[3].answers.kl[0]


def test_a_folder_is_compared_as_a_file_is(made, tmp_path):
    _, tuned, _ = made
    engine = load_engine(str(tuned))
    copy = folder(tmp_path / "copy", engine.model, engine.tokenizer)
    assert causes(tuned, copy)[0] == []
    edited(copy / "config.json", rope_theta=10_000.0, rope_parameters=None)
    assert causes(tuned, copy)[0] == ["rope"]


def test_a_server_is_asked(made):
    _, tuned, _ = made
    with running(load_engine(str(tuned))) as server:
        [one] = verify(str(tuned), [server.url], bounds=FEW)
        assert one.faithful and one.runner == "server" and one.answers.kl is None and one.answers.identical[0] == 1
    engine = load_engine(str(tuned))
    engine.tokenizer.chat_template = TEMPLATE.replace("user: ", "u ").replace(
        "<|user|>{{ message['role'] }}: ", "<|user|>"
    )
    with running(engine) as server:
        [one] = verify(str(tuned), [server.url], bounds=FEW)
        assert [found.cause for found in one.findings] == ["template"]


REPLIES = {
    "a text as choice": {"choices": ["x"]},
    "a text as message": {"choices": [{"message": "x"}]},
    "no text": {"choices": [{"message": {"content": None}}]},
    "usage of a word": {"choices": [{"message": {"content": "x"}, "text": "x"}], "usage": "many"},
    "count of a word": {"choices": [{"message": {"content": "x"}, "text": "x"}], "usage": {"prompt_tokens": "many"}},
    "a table of choices": {"choices": {"a": 1}},
    "choices null": {"choices": None},
    "choices missing": {"message": "x"},
    "none": {"choices": []},
}


@pytest.mark.parametrize("reply", REPLIES)
def test_a_reply_of_another_form_is_no_answer(reply, made, monkeypatch):
    from llmanac.evaluate.server import ServedModel

    listed = {"data": [{"id": "m"}]}
    monkeypatch.setattr(ServedModel, "_send", lambda self, path, body: listed if body is None else REPLIES[reply])
    with pytest.raises(CheckpointError, match=r"http://127.0.0.1:9/v1/.* not in OpenAI's form"):
        verify(str(made[1]), ["http://127.0.0.1:9"], bounds=FEW)


def test_a_server_that_is_silent_is_said_to_be(monkeypatch):
    from llmanac.evaluate._requests import Requests
    from llmanac.evaluate.server import OPENAI, ServedModel

    def init(self, url, seconds):
        vars(self).update(url=url, form=OPENAI, requests=Requests(seconds=seconds))

    monkeypatch.setattr(ServedModel, "__init__", init)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        side = Remote(f"http://127.0.0.1:{silent.getsockname()[1]}/v1", seconds=0.1)
        side.model = "m"
        with pytest.raises(RequestError, match=r"/v1/completions: cannot be reached .timed out."):
            side.answers(["Hello"], 4)


def test_a_paired_change_has_an_interval():
    """18 of 18 unchanged has a width; where all change in both directions it is as wide as a paired t-interval."""
    mean, low, high = paired([0] * 18)
    assert mean == 0 and low == -high and 0.1 < high < 0.2
    mean, low, high = paired([1, -1] * 50)
    assert mean == 0 and low == pytest.approx(-0.196, abs=0.01)
    assert paired([1] * 18)[2] == 1 and paired([-1] * 18)[1] == -1


def test_the_command(made, tmp_path, capsys):
    root, tuned, faithful = made

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(["verify", *map(str, arguments)])
        return ended.value.code, capsys.readouterr().out

    few = ("--limit", "4", "--length", "6", "--runner", "llmanac")
    status, said = run(tuned, faithful, "--json", *few)
    assert status == 0 and json.loads(said)["exports"][0]["faithful"] is True
    status, said = run(tuned, faithful, changed(faithful, root / "bad.gguf", {"tokenizer.chat_template": None}), *few)
    assert status == 1 and "bad.gguf (llmanac): template: " in said
    status, said = run(tuned, tmp_path / "missing.gguf", *few)
    assert status == 1 and "no such file" in said
    assert run(tmp_path / "missing", faithful)[0] == run(tuned, faithful, "--runner", "other")[0] == 2
