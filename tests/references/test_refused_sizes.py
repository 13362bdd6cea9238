"""Choices that would ask for memory or time without end are refused before anything is read."""

from __future__ import annotations

import json

import pytest

from llmanac.cli import main
from llmanac.core.errors import SpecError, TokenizerError
from llmanac.core.spec import make_method
from llmanac.evaluate.classify import LabelPrompt, check_fields
from llmanac.recipes.classifying.use import make_classifier
from llmanac.tokenizers.load import load_tokenizer


@pytest.mark.parametrize(
    ("method", "patch", "message"),
    [
        ("bow", "ngrams=100000", "bow.ngrams: 100000 is more than 16"),
        ("cbow", "dim=100000000", "cbow.dim: 100000000 is more than 16,384"),
        ("deep-cbow", "hidden=[8, 1000000]", "deep-cbow.hidden: 1000000 is more than 16,384"),
        ("deep-cbow", f"hidden={[8] * 1000}", "deep-cbow.hidden: 1000 layers are more than 64"),
        ("bow", "epochs=1000000000", "bow.epochs: 1000000000 is more than 1,000,000"),
        ("bow", f"batch={10**30}", f"bow.batch: {10**30} is more than"),
        ("fine-tuning", "length=1000000000", "fine-tuning.length: 1000000000 is more than"),
        ("prompting", "shots=100000", "prompting.shots: 100000 is more than 1,000"),
    ],
)
def test_a_classifiers_size(method, patch, message):
    with pytest.raises(SpecError, match=message):
        make_classifier(method, [patch])


def test_a_classifiers_size_where_it_is_fitted():
    with pytest.raises(SpecError, match=r"bow\.ngrams: 100000 is more than 16"):
        make_method("classifier", {"name": "bow", "ngrams": 100_000}).build().fit(["a b", "c d"], ["x", "y"])
    fitted = (
        make_method("classifier", {"name": "bow", "ngrams": 16, "epochs": 1}).build().fit(["a b", "c d"], ["x", "y"])
    )
    assert set(fitted.predict(["a b"])) <= {"x", "y"}


def test_other_kinds():
    for kind, data, message in (
        ("stage", {"name": "gopher-repetition", "top_n_grams": [0.1] * 100}, "top_n_grams: 100 sizes"),
        ("lm", {"name": "ngram", "order": 1000}, "order: 1000 is not between 1 and 20"),
        ("smoothing", {"name": "good-turing", "largest": 10**9}, "largest: 1000000000 must be from 2 to 50"),
        ("stage", {"name": "minhash", "permutations": 10**9}, "permutations: 1000000000 must be from 2 to 4096"),
    ):
        with pytest.raises(SpecError, match=message):
            make_method(kind, data)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{text} {foo} {label}", r"template: \{foo\} is no field; the fields are \{text\} and \{label\}"),
        ("{text} {txt} {label}", r"\{txt\} is no field; did you mean 'text'\?"),
        ("{text} { label }", r"\{ label \} is no field; did you mean 'label'\?"),
        ("{text} {0} {label}", r"\{0\} is no field"),
    ],
)
def test_a_template_with_another_field(template, message):
    with pytest.raises(SpecError, match=message):
        check_fields(template)


def test_the_command_refuses_it_before_a_model_is_opened(capsys):
    words = ["score", "no-such-model", "--text", "x", "--labels", "a,b", "--template", "{text} {foo} {label}"]
    with pytest.raises(SystemExit):
        main(words)
    assert "{foo} is no field" in capsys.readouterr().err


def test_braces_around_no_word_are_text():
    check_fields('{} {"a": 1} {text} -> {label}')
    assert LabelPrompt.parse('{} {"a": 1} {text} -> {label}', "direct").pair("t", "l") == ('{} {"a": 1} t -> ', "l")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("score", ["1e300", "-1e39", "1" + "0" * 400, "NaN", "Infinity", "true", '"1"'])
def test_a_score_that_32_bits_cannot_hold(tmp_path, score):
    document = {"version": "1.0", "added_tokens": [], "model": {"type": "Unigram", "unk_id": 0, "byte_fallback": False}}
    document["model"]["vocab"] = [["<unk>", 0.0], ["a", "SCORE"]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(document).replace('"SCORE"', score))
    with pytest.raises(
        TokenizerError, match=r"model\.vocab\[1\] \('a'\): its score is .*, no finite number of 32 bits"
    ):
        load_tokenizer(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer.json").write_text(json.dumps(document).replace('"SCORE"', "-3e38"))
    assert load_tokenizer(tmp_path / "tokenizer.json").encode("a") == [1]
