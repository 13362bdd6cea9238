"""`llmanac ngram`, and what a counted model does everywhere else: generate, serve, bits per byte, compare."""

from __future__ import annotations

import gzip
import json
import math
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from _servers import running

from llmanac.cli import main
from llmanac.cli.options import read_size
from llmanac.cli.score import Totals
from llmanac.core.errors import SpecError
from llmanac.core.spec import make_method
from llmanac.evaluate.bits_per_byte import bits_per_byte, score_texts
from llmanac.generate.engine import Engine
from llmanac.generate.load import load_engine
from llmanac.lab.compare import compare
from llmanac.lab.words import worse_than_uniform
from llmanac.models.load import load_model
from llmanac.models.ngrams.load import load
from llmanac.tokenizers.load import train_tokenizer


def story(seed: int, lines: int) -> str:
    rng = random.Random(seed)
    who, does = ["the old king", "a fool", "the queen", "my lord"], ["sees", "loves", "fears"]
    return "".join(f"{rng.choice(who)} {rng.choice(does)} {rng.choice(who)} .\n" for _ in range(lines))


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("text")
    (folder / "train.txt").write_text(story(0, 400))
    (folder / "test.txt").write_text(story(1, 50) + "the fool sees a dragon\n")
    return folder / "train.txt", folder / "test.txt"


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    out = capsys.readouterr()
    assert ended.value.code == 0, out.err
    return out.out


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_train_score_query_convert(texts, tmp_path: Path, capsys) -> None:
    train, test = texts
    said = run(capsys, "ngram", "train", train, "-o", tmp_path / "m.arpa", "--order", 3)
    assert said.startswith("3-gram of words, modified-kneser-ney\n") and "Next: llmanac ngram score" in said
    assert train.name not in said  # to score what was trained on says nothing
    scores = json.loads(run(capsys, "ngram", "score", tmp_path / "m.arpa", test, "--json"))
    assert (scores["oov"], scores["sentences"]) == (1, 51)
    assert scores["perplexity_excluding_oov"] < scores["perplexity_including_oov"] < 10
    run(capsys, "ngram", "convert", tmp_path / "m.arpa", tmp_path / "m.ngram")
    run(capsys, "ngram", "convert", tmp_path / "m.ngram", tmp_path / "again.arpa.gz")
    assert gzip.decompress((tmp_path / "again.arpa.gz").read_bytes()) == (tmp_path / "m.arpa").read_bytes()
    assert json.loads(run(capsys, "ngram", "score", tmp_path / "m.ngram", test, "--json")) == scores
    table = run(capsys, "ngram", "score", tmp_path / "m.ngram", test, "--sentences")
    values = [float(line) for line in table.splitlines()[:51]]
    assert sum(values) == pytest.approx(scores["log10_probability"], abs=1e-3) and "Perplexity including OOVs" in table
    line = run(capsys, "ngram", "query", tmp_path / "m.ngram", "--text", "the queen dragon")
    found = re.findall(r"(\S+)=(\d+) (\d) (-\S+)", line)
    assert [w for w, *_ in found] == ["the", "queen", "dragon", "</s>"] and found[2][1:3] == ("0", "1")
    assert "OOV: 1" in line
    total = float(re.search(r"Total: (\S+)", line)[1])
    assert total == pytest.approx(load(tmp_path / "m.ngram").sentence_scores(b"the queen dragon\n")[0], rel=1e-5)


@pytest.mark.parametrize("smoothing, fields", [("add-k", ["-s", "k=0.5"]), ("kneser-ney", ["-s", "discount=0.4"])])
def test_every_smoothing_and_its_fields(smoothing: str, fields: list[str], texts, tmp_path: Path, capsys) -> None:
    train, test = texts
    outs = []
    for extra in ([], fields):
        path = tmp_path / f"{len(extra)}.ngram"
        run(capsys, "ngram", "train", train, "-o", path, "--order", 2, "--smoothing", smoothing, *extra)
        outs.append(json.loads(run(capsys, "ngram", "score", path, test, "--json"))["log10_probability"])
    assert outs[0] != outs[1]


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("smoothing", ["add-k", "modified-kneser-ney"])
def test_what_tokens_were_found_as_adds_up(smoothing: str, order: int, texts, tmp_path: Path, capsys) -> None:
    """Add-k asks no shorter context: what was not seen after its context was found as nothing, known word or not."""
    train, test = texts
    path = tmp_path / "m.ngram"
    run(capsys, "ngram", "train", train, "-o", path, "--order", order, "--smoothing", smoothing)
    found = json.loads(run(capsys, "ngram", "score", path, test, "--json"))
    assert sum(found["found_as"]) + found["not_found"] == found["tokens"]
    shown = run(capsys, "ngram", "score", path, test)
    shares = [float(s) for s in re.findall(r"(?:found as|not seen).*?(\d+\.\d)%", shown)]
    assert len(shares) == order and sum(shares) == pytest.approx(100, abs=0.2)
    without = smoothing == "add-k" and order > 1
    assert ("not seen after its context" in shown) == without == (found["not_found"] > 0)
    with pytest.raises(SystemExit):
        main(["ngram", "query", str(path), "--text", "king the"])
    said = capsys.readouterr()
    assert ("length 0" in said.err) == without and ("=0 " in said.out or not without or " 0 -" in said.out)


def test_wrong_requests_are_one_sentence(texts, tmp_path: Path, capsys) -> None:
    train, _ = texts
    out = ["-o", tmp_path / "x.arpa"]
    assert "--order: 0" in refused(capsys, "ngram", "train", train, *out, "--order", 0)
    assert "did you mean 'add-k'" in refused(capsys, "ngram", "train", train, *out, "--smoothing", "addk")
    assert "no such field" in refused(capsys, "ngram", "train", train, *out, "-s", "k=1")
    assert "--memory" in refused(capsys, "ngram", "train", train, *out, "--memory", "much")
    assert "missing.txt" in refused(capsys, "ngram", "train", tmp_path / "missing.txt", *out)
    assert "memory" in refused(capsys, "ngram", "train", train, *out, "--memory", "40K")
    assert "data" in refused(capsys, "ngram", "score", train, train)
    assert "cannot read" in refused(capsys, "ngram", "score", tmp_path / "none", train)
    assert "llmanac ngram train" in refused(capsys, "run", "quickstart", "-s", "model=ngram")
    assert not (tmp_path / "x.arpa").exists()
    assert read_size("8G", thousand=1024) == 8 << 30 and read_size("1.5k", thousand=1024) == 1536


def test_no_folder_is_taken_for_a_file(texts, tokenizer, tmp_path: Path, capsys, monkeypatch) -> None:
    train, _ = texts
    (tmp_path / "kept").write_text("x")
    monkeypatch.chdir(tmp_path)
    for place in (".", "..", "/", str(tmp_path)):
        said = refused(capsys, "ngram", "train", train, "-o", place, "--force")
        assert f"--output: {place} is a folder; name a file in it" in said
        assert "the target: " in refused(capsys, "ngram", "convert", train, place, "--force")
    tokenizer.save("tok")
    run(capsys, "ngram", "train", train, "-o", ".", "--force", "--tokenizer", "tok")  # a folder's files go into it
    assert Path("model.safetensors").is_file() and Path("kept").read_text() == "x"
    Path("empty").mkdir()
    monkeypatch.chdir("empty")
    assert "--folder .: " in refused(capsys, "tokenizer", "train", "bpe", train, "-o", ".")


def test_a_text_that_can_be_read_once(texts, tmp_path: Path, capsys) -> None:
    train, test = texts
    run(capsys, "ngram", "train", train, "-o", tmp_path / "m.ngram", "--order", 2)
    expected = run(capsys, "ngram", "score", tmp_path / "m.ngram", test, "--sentences")
    ended = subprocess.run(
        [sys.executable, "-c", "from llmanac.cli import main; main()", "ngram", "score", tmp_path / "m.ngram",
         "/dev/stdin", "--sentences"],
        input=test.read_text(), capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[:51] == expected.splitlines()[:51] and "OOVs" in ended.stdout


@pytest.fixture(scope="module")
def tokenizer(texts):
    return train_tokenizer("bpe", [texts[0].read_text()], vocab_size=320)


@pytest.fixture(scope="module")
def folder(texts, tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of a tokenizer's tokens, made by the command."""
    made = tmp_path_factory.mktemp("model")
    tokenizer.save(made / "tokenizer")
    with pytest.raises(SystemExit) as ended:
        main(["ngram", "train", str(texts[0]), "-o", str(made / "model"), "--order", "4",
              "--tokenizer", str(made / "tokenizer")])  # fmt: skip
    assert ended.value.code == 0
    return made / "model"


def test_generate_with_a_counted_model(folder: Path, capsys) -> None:
    assert "not tuned to chat" in refused(capsys, "chat", folder)
    said = run(capsys, "generate", folder, "--prompt", "the old", "--max-new-tokens", 8)
    assert said.startswith("the old king") and len(said) > len("the old king") + 5
    assert "not words" in refused(capsys, "ngram", "score", folder / "model.safetensors", folder / "config.json")
    said = refused(capsys, "ngram", "score", folder, folder / "config.json")
    assert "is a folder" in said and "llmanac score" in said and "llmanac generate" in said


def test_serve_a_counted_model(folder: Path) -> None:
    with running(load_engine(folder)) as server:
        reply = server.client.completions.create(model="tiny", prompt="the old", max_tokens=4, temperature=0)
        assert reply.choices[0].text.startswith(" king")
        drawn = server.client.completions.create(
            model="tiny", prompt="the", max_tokens=6, temperature=1, n=2, logprobs=2
        )
        assert len(drawn.choices) == 2 and len(drawn.choices[0].logprobs.tokens) >= 1


def test_no_family_holds_it(folder: Path, tmp_path: Path, capsys) -> None:
    assert "the model is ngram" in refused(capsys, "convert", folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bits_per_byte_is_the_sum_over_the_tokens(folder: Path, texts, tokenizer) -> None:
    model = load_model(folder)
    documents = texts[1].read_text().split(" .\n")[:20]
    found = score_texts(model, tokenizer, documents)
    start = tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.eos_id
    nats = 0.0
    for text in documents:
        ids = [start, *tokenizer.encode(text)]
        for i in range(1, len(ids)):
            context = np.array(ids[max(0, i - 3) : i], np.int32)
            nodes = model.trie.contexts(context, np.arange(len(context), dtype=np.uint8))[-1:]
            nats -= np.log(10) * model.trie.score_targets(nodes, np.array([len(context)]), np.array([ids[i]]))[0]
    assert found.nats == pytest.approx(nats, rel=1e-9)
    # windows shorter than the document lose no context that the model could use
    assert bits_per_byte(model, tokenizer, documents, window=8, stride=4) == pytest.approx(
        found.bits_per_byte, rel=1e-6
    )


SMALL = {
    "model.dim": 16, "model.layers": 1, "model.max_length": 32, "train.length": 32, "train.batch_tokens": 64,
    "model.blocks.*.mixer.heads": 2, "evaluate.held_out_bytes": 4000, "tokenizer.vocab_size": 300, "data.held_out": 0.2,
}  # fmt: skip


def test_bigram_to_transformer_in_one_comparison(tmp_path: Path) -> None:
    for i in range(12):
        (tmp_path / "text").mkdir(exist_ok=True)
        (tmp_path / "text" / f"{i}.txt").write_text(story(i, 60))
    patches = SMALL | {"data.source": {"name": "files", "paths": [str(tmp_path / "text")]}}
    said: list[str] = []
    done = compare(
        "lm", "bigram,ngram{order=3},feedforward,transformer", budget=120, seeds=3, min_steps=2,
        patches=patches | {"train.steps": 3}, folder=tmp_path / "studies" / "lm", report=said.append,
    )  # fmt: skip
    values, costs = done.values(), done.data["costs"]
    for arm in ("bigram", "ngram{order=3}"):
        assert len(set(values[arm])) == 1  # nothing is random
        assert costs[arm]["steps"] is None and costs[arm]["train_flops"] is None
    assert len(set(values["transformer"])) == 3
    for arm, found in costs.items():
        for name in ("parameters", "seconds", "model_bytes", "peak_memory", "decode_tokens_per_second", "tokens"):
            assert found[name] > 0, (arm, name)
    assert costs["ngram{order=3}"]["model_bytes"] > costs["bigram"]["model_bytes"]
    assert any("estimated once" in line for line in said) and sum("from the cache" in line for line in said) == 4
    page = done.page.read_text()
    assert "estimated" in page and "ngram{order=3}" in page
    counted_only = compare(
        "lm",
        "bigram,ngram",
        budget=30,
        seeds=3,
        patches=patches,
        folder=tmp_path / "studies" / "two",
        report=said.append,
    )
    assert counted_only.values()["bigram"] == values["bigram"]
    for hold in ("params", "flops", "time"):
        with pytest.raises(SpecError, match=f"--hold {hold}: bigram"):
            compare("lm", "bigram,transformer", hold=hold, patches=patches, folder=tmp_path / "studies" / "x")


def test_smoothings_are_compared_as_a_path(tmp_path: Path) -> None:
    """Any field is an axis: here the smoothing of one n-gram."""
    for i in range(8):
        (tmp_path / "text").mkdir(exist_ok=True)
        (tmp_path / "text" / f"{i}.txt").write_text(story(i, 60))
    patches = {
        "data.source": {"name": "files", "paths": [str(tmp_path / "text")]},
        "model": {"name": "ngram", "order": 3},
        "tokenizer.vocab_size": 300, "evaluate.held_out_bytes": 4000, "data.held_out": 0.3,
    }  # fmt: skip
    done = compare("model.smoothing", "add-k,modified-kneser-ney", budget=30, seeds=5, patches=patches,
                   folder=tmp_path / "studies" / "s", report=lambda _: None)  # fmt: skip
    assert done.verdicts == {"modified-kneser-ney": "better"}


def test_an_engine_draws_what_the_model_says(folder: Path) -> None:
    """Frequencies of sampled next tokens follow the counted distribution."""
    model = load_model(folder)
    engine = Engine(model)
    prompt = [int(i) for i in np.argsort(model.trie.logs[: model.vocab_size])[-1:]]
    drawn = engine.generate([prompt], max_new_tokens=1, temperature=1.0, n=400, stop_ids=())
    import torch

    p = model(torch.tensor([prompt])).logits[0, -1].double().exp().numpy()
    counts = np.bincount([c.ids[0] for c in drawn], minlength=model.vocab_size)
    for token in np.flatnonzero(p > 0.05):
        assert abs(counts[token] / 400 - p[token]) < 5 * np.sqrt(p[token] * (1 - p[token]) / 400)


def test_make_method_knows_the_alias() -> None:
    spec = make_method("lm", "bigram")
    assert (spec.order, spec.smoothing.name, spec.estimated) == (2, "mle", True)


def test_training_overwrites_nothing_unasked(texts, tmp_path: Path, tokenizer, capsys) -> None:
    train, _ = texts
    out = tmp_path / "m.ngram"
    out.write_text("mine")
    words = ["ngram", "train", train, "-o", out, "--order", 2]
    assert "m.ngram is there already" in refused(capsys, *words) and out.read_text() == "mine"
    run(capsys, *words, "--force")
    assert load(out).trie.order == 2
    tokenizer.save(tmp_path / "tokenizer")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter").write_text("mine")
    words = ["ngram", "train", train, "-o", tmp_path / "full", "--order", 2, "--tokenizer", tmp_path / "tokenizer"]
    assert "--force" in refused(capsys, *words)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["letter"]


def test_force_writes_over_no_input(texts, tmp_path: Path, capsys) -> None:
    text = tmp_path / "text.txt"
    text.write_bytes(texts[0].read_bytes())
    said = refused(capsys, "ngram", "train", text, "-o", text, "--force")
    assert f"--output: {text} is read by this command" in said
    model = tmp_path / "model.arpa"
    run(capsys, "ngram", "train", text, "-o", model)
    before = model.read_bytes()
    assert "the target: " in refused(capsys, "ngram", "convert", model, model, "--force")
    assert model.read_bytes() == before and text.read_bytes() == texts[0].read_bytes()


def test_a_model_without_smoothing_is_explained(texts, tmp_path: Path, capsys) -> None:
    train, test = texts
    for smoothing, noted in (("mle", True), ("kneser-ney", False)):
        path = tmp_path / f"{smoothing}.ngram"
        run(capsys, "ngram", "train", train, "-o", path, "--order", 2, "--smoothing", smoothing)
        with pytest.raises(SystemExit) as ended:
            main(["ngram", "score", str(path), str(test), "--json"])
        found = capsys.readouterr()
        assert not ended.value.code and json.loads(found.out) and ("without smoothing (mle)" in found.err) == noted


def test_what_is_worse_than_no_model_is_explained() -> None:
    result = {"values": {"bits_per_byte": {"bigram": [11.4, 11.6], "ngram": [2.5, 2.6], "none": [math.inf]}}}
    assert worse_than_uniform(result).startswith("bigram, none: ")
    assert not worse_than_uniform({"values": {"bits_per_byte": {"ngram": [2.5]}}})
    totals = Totals()
    totals.bytes, totals.nats = 10, -10 * 8.5 * math.log(2)
    assert totals.explanation().startswith("That is more than 8 bits per byte")
    totals.nats = -10 * 7.5 * math.log(2)
    assert not totals.explanation()
