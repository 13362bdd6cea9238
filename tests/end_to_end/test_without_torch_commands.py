"""Commands where torch is not installed: a GGUF file's texts are those with torch, and what needs it says so."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from _published import published
from _run_commands import run
from _small_models import randomise, transformer

from llmanac.core.device import measure_host, torch_is_there
from llmanac.generate import load
from llmanac.guide.demos import demos
from llmanac.kernels.text import COMPILES
from llmanac.models.gguf.write import export_gguf
from llmanac.tokenizers.load import train_tokenizer

RUNNER = Path(__file__).parent.parent / "_run_commands.py"
TEXTS = ["the cat sat on the mat", "a dog ran to the park", 'cats and dogs {"name": "x", "age": 12}']
TEMPLATE = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\n{% endfor %}<|assistant|>"
SCHEMA = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 5}, "old": {"type": "boolean"}}}
SCHEMA |= {"required": ["name", "old"], "additionalProperties": False}
NEEDS = "needs torch: `uv pip install --torch-backend cpu 'llmanac[torch]'`, or see PyTorch's installation page"


def without_torch(commands: list, tmp_path: Path, how: str = "blocked") -> list:
    place = tmp_path / "commands.json"
    place.write_text(json.dumps(commands), "utf-8")
    words = [sys.executable, str(RUNNER), how, str(place)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    *found, imported = json.loads(done.stdout)
    assert not imported
    return [[status, out, said.replace(f"{COMPILES}\n", "")] for status, out, said in found]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> str:
    special = ["<|end|>", "<|user|>", "<|assistant|>"]
    tokenizer = train_tokenizer(
        "bpe", TEXTS * 9, vocab_size=300, pattern="gpt2", special_tokens=special, eos="<|end|>", chat_template=TEMPLATE
    )  # fmt: skip
    model = randomise(transformer(dtype=torch.float32, vocab_size=tokenizer.vocab_size, max_length=512)).eval()
    return str(export_gguf(model, tokenizer, tmp_path_factory.mktemp("tiny") / "tiny.gguf", "q8_0"))


def generating(file: str, tokens: int) -> list:
    """Every way of choosing tokens that the command has."""
    base = ["generate", file, "the cat", "--runner", "native", "--max-new-tokens", tokens]
    drawn = ["--temperature", 0.9, "--seed", 7]
    ways = [
        [], ["-n", 3, *drawn], ["--top-k", 9, *drawn], ["--top-p", 0.8, *drawn], ["--min-p", 0.05, *drawn],
        ["--typical-p", 0.9, *drawn], ["--repetition-penalty", 1.3], ["--presence-penalty", 0.5],
        ["--frequency-penalty", 0.7, *drawn], ["--no-repeat-ngram", 2], ["--beams", 3, "-n", 2],
        ["--beams", 4, "--beam-groups", 2, "--length-penalty", 0.5], ["--regex", "[a-d ]+x"],
        ["--schema", json.dumps(SCHEMA), *drawn], ["--schema", json.dumps(SCHEMA)], ["--stop", "a", *drawn],
        ["--draft", "prompt-lookup", *drawn],
        ["--decoding", "top-k{k=5}", "--decoding", "temperature{temperature=2.0}"],
    ]  # fmt: skip
    return [[*base, *way] for way in ways]


def asking(file: str) -> list:
    """Requests to a server: greedy, drawn, stopped, constrained, streamed, scored, and again from its cache."""
    text = {
        "model": "tiny",
        "temperature": 0,
        "prompt": "the cat sat on the mat and the dog ran " * 16,
        "max_tokens": 8,
    }
    chat = {"model": "tiny", "messages": [{"role": "user", "content": "the cat"}], "max_tokens": 24}
    schema = {"type": "json_schema", "json_schema": {"name": "one", "schema": SCHEMA, "strict": True}}
    requests = [
        ["/v1/completions", text], ["/v1/completions", text],
        ["/v1/completions", {**text, "temperature": 0.8, "top_p": 0.9, "seed": 3, "n": 2}],
        ["/v1/completions", {**text, "stop": ["a"], "logprobs": 3, "echo": True}],
        ["/v1/chat/completions", {**chat, "temperature": 0}],
        ["/v1/chat/completions", {**chat, "stream": True, "temperature": 1, "seed": 5}],
        ["/v1/chat/completions", {**chat, "response_format": schema, "temperature": 1, "seed": 1, "max_tokens": 64}],
    ]  # fmt: skip
    return ["serve", file, requests]


def same(found: object, wanted: object) -> None:
    """Equal but for the last digits of numbers: positions are turned by tables of another library's cosines."""
    if isinstance(wanted, float):
        assert found == pytest.approx(wanted, abs=2e-3)
    elif isinstance(wanted, dict):
        assert found.keys() == wanted.keys()  # type: ignore[attr-defined]
        for key, value in wanted.items():
            same(found[key], value)  # type: ignore[index]
    elif isinstance(wanted, list):
        assert len(found) == len(wanted)  # type: ignore[arg-type]
        for one, other in zip(found, wanted, strict=True):  # type: ignore[call-overload]
            same(one, other)
    else:
        assert found == wanted


def check_answers(found: list) -> None:
    """The server's: from its cache the second time, and by the schema."""
    answers = found[-1][1]
    assert all(status == 200 for status, _ in answers), answers
    assert answers[1][1][0]["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
    assert set(json.loads(answers[6][1][0]["choices"][0]["message"]["content"])) == {"name", "old"}
    assert len({text for _, text, _ in found[:-1]}) > len(found) / 2.5


def test_texts_of_a_file_are_those_with_torch(tiny, tmp_path, monkeypatch) -> None:
    """18 ways of choosing tokens on the command line, and 7 requests to a server, beside the model that torch loads."""
    commands = [*generating(tiny, 16), asking(tiny)]
    found = without_torch(commands, tmp_path)
    monkeypatch.setattr(load, "load_writer", load.load_engine)
    monkeypatch.chdir(tmp_path)
    for words, (status, out, _), (expected, text, _) in zip(commands, found, run(commands), strict=True):
        assert status == expected == 0, words
        same(out, text)
    check_answers(found)


@pytest.mark.pretrained
def test_texts_of_a_published_file_are_those_where_torch_is_installed(tmp_path) -> None:
    """Greedy, drawn by a schema, and of a server; above is every way, on a small file."""
    file = str(published("smollm2"))
    ways = generating(file, 8)
    commands = [*(ways[i] for i in (0, 13)), asking(file)]
    found = without_torch(commands, tmp_path)
    assert found == without_torch(commands, tmp_path, "installed")
    check_answers(found)


@pytest.mark.pretrained
def test_a_published_file_is_as_near_to_its_numbers_as_the_model_that_torch_loads() -> None:
    """Activations in 8 bits make every rounding of a cosine visible, so tokens may differ where two are near."""
    file, texts = published("smollm2"), ["The capital of France is Paris, and that of Italy is Rome.", *TEXTS]
    engines = (
        load.load_engine(file, runner="torch", device="cpu"), load.load_engine(file, runner="native", device="cpu"),
        load.load_writer(file, runner="native"),
    )  # fmt: skip
    exact, packed, own = (
        np.array([t.logprob for one in found for t in one.prompt_token_logprobs if t.logprob is not None])
        for found in (e.generate(texts, max_new_tokens=1, prompt_logprobs=0) for e in engines)
    )
    errors = [float(np.abs(found - exact).mean()) for found in (packed, own)]
    print(f"mean error of a log-probability: {errors[0]:.4f} loaded by torch, {errors[1]:.4f} read as a file")
    assert 0 < errors[1] < 1.3 * errors[0]


def test_torch_is_not_imported_where_it_is_installed(tiny, tmp_path) -> None:
    assert torch_is_there()
    commands = [
        ["generate", tiny, "the", "--runner", "native"],
        ["bench", tiny, "--runner", "native", "--rows", 1, "--context", 8],
    ]
    found = without_torch(commands, tmp_path, "installed")
    assert [status for status, *_ in found] == [0, 0] and "native" in found[1][1]


def test_commands_below_the_models(tiny, tmp_path) -> None:
    """Each runs where torch cannot be imported, or names what to install."""
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "pump.md").write_text("The pump must be inspected every 90 days.\n\nThe valve is red.\n", "utf-8")
    text = tmp_path / "t.txt"
    text.write_text("\n".join(TEXTS * 20), "utf-8")
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(TEXTS * 400), "utf-8")
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "a b c", "reference": "a b c"}\n' * 3, "utf-8")
    build = tmp_path / "build.toml"
    build.write_text('[[sources]]\npath = "t.txt"\nweight = 1.0\n', "utf-8")
    question = "How often must the pump be inspected?"
    commands = [
        ["list", "decoding"], ["show", "decode/top-k"], ["question", "list"], ["index", folder],
        ["retrieve", folder, question], ["ask", folder, question],
        ["ask", folder, question, "--model", tiny, "--mode", "quote", "--runner", "native"],
        ["ngram", "train", text, "--output", tmp_path / "n.arpa"], ["ngram", "score", tmp_path / "n.arpa", text],
        ["dedup", text, "--method", "exact", "--out", tmp_path / "d.txt"],
        ["metric", "chrf", rows, rows], ["chat", tiny, "--runner", "native", "--max-new-tokens", 4],
        ["compare", "tokenizer", "--arms", "bpe,word", "--on", corpus, "--folder", tmp_path / "study"],
    ]  # fmt: skip
    needing = [
        ["tune", tiny, rows, "--output", tmp_path / "out"], ["generate", tiny, "a", "--draft", tiny],
        ["generate", tiny, "a", "--rope", "yarn:2"], ["generate", tiny, "a", "--runner", "torch"],
        ["score", tiny, text], ["embed", tiny, text], ["compare", "tokenizer", "--arms", "bpe,word"],
    ]  # fmt: skip
    words = [[str(word) for word in one] for one in (*commands, *needing)]
    found = without_torch(words, tmp_path)
    for one, (status, out, error) in zip(words, found[: len(commands)], strict=False):
        assert status == 0 and (out or one[0] == "chat"), (one, error)
    assert "every 90 days" in found[5][1]
    assert "bytes per token bpe" in found[12][1] and (tmp_path / "study" / "study.html").is_file()
    for one, (status, _, error) in zip(words[len(commands) :], found[len(commands) :], strict=True):
        assert status == 2 and error == f"llmanac: `llmanac {one[0]}` {NEEDS}\n", (one, error)


@pytest.mark.slow
def test_the_guide_is_exported(tmp_path) -> None:
    """All of its pages; the demos that need torch say so."""
    place = tmp_path / "guide"
    ((status, out, error),) = without_torch([["guide", "--export", str(place)]], tmp_path)
    assert status == 0 and "files" in out, error
    needing = {path.stem for path in place.glob("demo/*.html") if "needs torch" in path.read_text("utf-8")}
    assert "mixer" in needing and "retriever" not in needing
    assert needing == {name for name in demos() if name != "retriever"}


def test_the_hosts_rates_are_numbers() -> None:
    bandwidth, products = measure_host(megabytes=8, rounds=2)
    assert 1e8 < bandwidth < 1e13 and 1e8 < products < 1e14
