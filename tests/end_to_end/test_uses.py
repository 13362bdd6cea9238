"""`llmanac score` and `llmanac correct` as a user runs them: texts in by every road, tables and JSON Lines out."""

from __future__ import annotations

import gzip
import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import pytest
from _small_models import transformer

from llmanac import cli
from llmanac.evaluate.classify import classify
from llmanac.evaluate.score import score
from llmanac.models.load import load_model
from llmanac.tokenizers.load import load_tokenizer, train_tokenizer

TEXTS = ["The boys was in the garden.", "naïve 日本 🙂", "", "The dog sat."]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with large random weights and its tokenizer: what it says is arbitrary, and always the same."""
    path = tmp_path_factory.mktemp("model")
    tokenizer = train_tokenizer("bpe", [" ".join(TEXTS) * 9], vocab_size=320, special_tokens=["<|endoftext|>"])
    transformer(vocab_size=tokenizer.vocab_size, max_length=32).save_pretrained(path)
    tokenizer.save(path)
    return path


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("words") / "words.txt"
    path.write_text("the boys were in garden dog sat\n")
    return path


def llmanac(*arguments: object, given: bytes = b"", fails: bool = False) -> SimpleNamespace:
    """The command line in this process: its standard output and error."""
    out, err = io.StringIO(), io.StringIO()
    before, sys.stdin = sys.stdin, io.TextIOWrapper(io.BytesIO(given), "utf-8")
    try:
        with redirect_stdout(out), redirect_stderr(err):
            cli.main(list(map(str, arguments)))
            status = 0
    except SystemExit as end:
        status = end.code
    finally:
        sys.stdin = before
    assert status == (2 if fails else 0), err.getvalue()
    return SimpleNamespace(stdout=out.getvalue(), stderr=err.getvalue())


def rows(done: SimpleNamespace) -> list[dict]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_lines_of_standard_input_are_scored_one_by_one(folder):
    model, tokenizer = load_model(folder, dtype="float64", device="cpu"), load_tokenizer(folder)
    done = llmanac(
        "score", folder, "--json", "--tokens", "--dtype", "float64", given="\r\n".join([*TEXTS, "last"]).encode()
    )
    expected = score(model, [*TEXTS, "last"], tokenizer)
    for row, one in zip(rows(done), expected, strict=True):
        assert row["text"] == one.text and row["tokens"] == one.tokens
        assert row["log_likelihood"] == pytest.approx(one.log_likelihood, abs=1e-9)
        assert sum(token["logprob"] for token in row["token_table"]) == pytest.approx(row["log_likelihood"])
    assert "5 texts" in done.stderr and "bits per byte" in done.stderr


def test_every_road_gives_the_same_figures(folder, tmp_path):
    table = [{"sentence": text, "n": 1} for text in TEXTS]
    (tmp_path / "a.txt").write_text("\n".join(TEXTS) + "\n")
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(("\n".join(TEXTS) + "\n").encode()))
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, table)) + "\n")
    expected = llmanac("score", folder, "--json", *(part for text in TEXTS for part in ("--text", text))).stdout
    assert expected.count("\n") == len(TEXTS)
    for arguments in (["a.txt"], ["a.txt.gz"], ["a.jsonl", "--column", "sentence"]):
        assert llmanac("score", folder, tmp_path / arguments[0], "--json", *arguments[1:]).stdout == expected


def test_the_table_has_a_line_a_text_and_the_next_command(folder):
    done = llmanac("score", folder, "--tokens", "--text", "The dog sat.")
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["text", "tokens", "log-likelihood", "perplexity", "bits/byte"]
    assert "The dog sat." in lines[1] and "perplexity" in lines[-2] and lines[-1].startswith("Next: llmanac")
    assert len(lines) == 4 + len(load_tokenizer(folder).encode("The dog sat."))


@pytest.mark.parametrize("channel", [False, True])
def test_labels(folder, channel):
    model, tokenizer = load_model(folder, device="cpu"), load_tokenizer(folder)
    template = "It is {label}: {text}" if channel else "{text} It is {label}."
    way = "channel" if channel else "direct"
    flags = ["--labels", "positive=good, negative=bad", "--template", template, "--calibrate", "N/A"]
    texts = [TEXTS[0], TEXTS[3]]
    asked = [part for text in texts for part in ("--text", text)]
    done = rows(llmanac("score", folder, *asked, *flags, *(["--channel"] if channel else []), "--json"))
    expected = classify(
        model, tokenizer, texts, {"positive": "good", "negative": "bad"}, template=template, way=way, calibrate="N/A"
    )
    for row, one in zip(done, expected, strict=True):
        assert row["label"] == one.label and row["scores"] == pytest.approx(one.scores, abs=1e-4)
    shown = llmanac("score", folder, *asked, "--labels", "good,bad").stdout
    assert "P(good)" in shown and "Next:" in shown


def test_corrections_are_shown_with_their_reasons(folder, words):
    text = "The boys was in the the garden."
    done = llmanac("correct", folder, "--text", text, "--vocabulary", words, "--margin", "-5", "--json")
    row = rows(done)[0]
    assert row["text"] == text and row["changes"]
    restored = row["text"]
    for change in reversed(row["changes"]):
        assert text[change["start"] : change["stop"]] == change["old"] and change["why"]
        restored = restored[: change["start"]] + change["new"] + restored[change["stop"] :]
    assert restored == row["corrected"]
    shown = llmanac("correct", folder, "--vocabulary", words, "--margin", "-5", given=text.encode()).stdout
    assert row["corrected"] == shown.splitlines()[0] and "nats)" in shown and "Next: llmanac score" in shown
    calm = llmanac("correct", folder, "--vocabulary", words, "--margin", "500", "--text", text).stdout
    assert calm.splitlines()[0] == text and "0 changes" in calm


def test_mistakes_get_one_sentence(folder, words, tmp_path):
    (tmp_path / "bad.txt").write_bytes(b"fine\n\xff\xfe\n")
    (tmp_path / "rows.jsonl").write_text('{"a": "x"}\n')
    for message, arguments in {
        "bad.txt:2: not UTF-8 at byte": ["score", folder, tmp_path / "bad.txt"],
        "no column 'text' (has: a)": ["score", folder, tmp_path / "rows.jsonl"],
        "none.txt: no such file": ["score", folder, tmp_path / "none.txt"],
        "give either --text or a file": ["score", folder, tmp_path / "bad.txt", "--text", "a"],
        "'a,' has an empty label": ["score", folder, "--labels", "a,", "--text", "x"],
        "must be at least two": ["score", folder, "--labels", "a", "--text", "x"],
        "--labels: 'a'": ["score", folder, "--labels", "a,a", "--text", "x"],
        "--labels: --template": ["score", folder, "--channel", "--text", "x"],
        "comes before": ["score", folder, "--labels", "a,b", "--channel", "--template", "{text}{label}", "--text", "x"],
        "context: 99 is not between": ["score", folder, "--context", "99", "--text", "x"],
        "dtype: 'float9'": ["score", folder, "--dtype", "float9", "--text", "x"],
        "no such folder": ["score", tmp_path / "nothing" / "there", "--text", "x"],
        "'articles' is not one of": ["correct", folder, "--vocabulary", words, "--kinds", "articles", "--text", "x"],
        "nowhere.txt: no such file": ["correct", folder, "--vocabulary", tmp_path / "nowhere.txt", "--text", "x"],
    }.items():
        error = llmanac(*arguments, fails=True).stderr.strip()
        assert message in error and error.startswith("llmanac: ") and "\n" not in error, error
