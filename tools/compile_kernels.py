"""Compile the kernels that take longest, so that they are on the disk before they are wanted.

python tools/compile_kernels.py training|tokenizers|models|counts

A kernel is compiled on its first call and kept (`kernels/_cache.py` says where). Here each method runs once on a few
words; what is kept already is read. `make` runs this while packages are installed, which leaves a core free.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from llmanac import cli, train_tokenizer
from llmanac.core.errors import TokenizerError
from llmanac.core.spec import make_method
from llmanac.core.types import Batch, OutputRequest
from llmanac.generate.engine import Engine
from llmanac.generate.native import NativeModel, NativeRunner
from llmanac.kernels.infer._machine import forms
from llmanac.models.forward import ATTENTION_FORMS
from llmanac.train.plan import set_attention

TEXTS = ["the theatre there, these others 12 123", "naïve café, it's 中文 x = 1;\n\n  y", "aaaa bbbb abab baba"] * 9
LINES = "the old king sees a fool .\nthe queen fears my lord .\n" * 40


def training() -> None:
    """What `llmanac run` needs before its first step: its budget counts from its start."""
    train_tokenizer("bpe", ["compile once"], vocab_size=300).encode("now")
    fields = {"name": "transformer", "dim": 64, "layers": 1, "max_length": 64}
    model = make_method("lm", fields).build(vocab_size=300).initialise(0).bfloat16()
    ids = torch.arange(8 * 64).view(8, 64) % 300
    for form in ATTENTION_FORMS:
        set_attention(model, form)
        model(Batch(ids=ids, targets=ids), want=OutputRequest(nll="sum")).nll.backward()


def tokenizers() -> None:
    for name in ("bpe", "sentencepiece", "unigram", "sentencepiece-bpe", "word"):
        tokenizer = train_tokenizer(name, TEXTS, special_tokens=["<|endoftext|>"])
        tokenizer.encode(TEXTS[0])
        for call in (lambda t: t.sample(TEXTS[0], seed=0), lambda t: t.extended(["zebra fjord zebra"] * 5, 1)):
            with contextlib.suppress(TokenizerError):  # it has one segmentation, or no way to grow
                call(tokenizer)


def models() -> None:
    tokenizer = train_tokenizer("utf8", ["a"], special_tokens=["<|endoftext|>"])
    fields = {"name": "transformer", "dim": 64, "layers": 1, "max_length": 64}
    model = make_method("lm", fields).build(vocab_size=tokenizer.vocab_size).initialise(0)
    for form, weights in itertools.product(forms(), ("own", "q8_0", "q4_0", "q4_1")):
        runner = NativeRunner(NativeModel(model.float(), weights=weights, threads=1, form=form))
        runner.extend([[1, 2, 3]], 64)
        runner.read(0, [[1, 2, 3]], every=False)
    engine = Engine(model.float(), tokenizer, runner="native")
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]}
    for constraint in ({}, {"regex": "[a-z]+ [0-9]{1,3}"}, {"schema": schema}):
        engine.generate("a", max_new_tokens=4, temperature=1.0, seed=0, **constraint)
    for mixer in ("rnn", "gru", "lstm", "mamba"):
        blocks = [{"name": "pre-norm", "mixer": mixer, "ffn": "swiglu"}]
        recurrent = make_method("lm", {**fields, "blocks": blocks, "position": "none"}).build(vocab_size=64)
        recurrent.initialise(0).float()(torch.arange(8)[None]).logits.sum().backward()


def counts() -> None:
    with tempfile.TemporaryDirectory() as name:
        text, arpa, model = (Path(name) / file for file in ("text.txt", "model.arpa", "model.ngram"))
        text.write_text(LINES, "utf-8")
        for words in (
            ("train", text, "-o", arpa, "--order", "3"), ("convert", arpa, model),
            ("score", model, text, "--sentences"), ("query", model, "--text", "the queen"),
        ):  # fmt: skip
            with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
                cli.main(["ngram", *map(str, words)])


if __name__ == "__main__":
    {"training": training, "tokenizers": tokenizers, "models": models, "counts": counts}[sys.argv[1]]()
