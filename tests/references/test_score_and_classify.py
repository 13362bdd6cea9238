"""Scoring texts and labelling them by likelihood, against computations by hand over the model's own logits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from _engine_models import ByteTokenizer, HistoryModel
from _small_models import transformer

import llmanac
from evidence._intervals import newcombe_interval
from llmanac.core.errors import DataError, LlmanacError, SpecError
from llmanac.evaluate.classify import LabelPrompt, classify
from llmanac.evaluate.likelihood import loglikelihood
from llmanac.evaluate.score import score
from llmanac.metrics.statistics.auc import area as metric_area
from llmanac.metrics.statistics.auc import auc
from llmanac.metrics.statistics.intervals import wilson_interval
from llmanac.tokenizers.load import train_tokenizer

TEXTS = ["a great film", "a dull film, and long", "naïve 日本 🙂", "x"]
LABELS = {"positive": "good", "negative": "bad"}


@pytest.fixture(scope="module")
def model():
    return transformer(vocab_size=260, max_length=96)


def by_hand(model, ids):
    """Sum of ln p of all ids but the first, from one call of the whole row, in numpy."""
    logits = model(torch.tensor([ids])).logits[0].detach().numpy()
    shifted = logits - logits.max(-1, keepdims=True)
    logprobs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return [logprobs[t, ids[t + 1]] for t in range(len(ids) - 1)]


# ---------------------------------------------------------------- score
def test_a_score_is_the_sum_of_its_tokens_by_hand(model):
    tokenizer = ByteTokenizer()
    for text, one in zip(TEXTS, score(model, TEXTS, tokenizer), strict=True):
        expected = by_hand(model, [tokenizer.bos_id, *text.encode()])
        np.testing.assert_allclose(one.logprobs, expected, rtol=0, atol=1e-10)
        size, total = len(text.encode()), sum(expected)
        assert one.log_likelihood == pytest.approx(total) and one.tokens == size
        assert one.perplexity == pytest.approx(math.exp(-total / size))
        assert one.word_perplexity == pytest.approx(math.exp(-total / len(text.split())))
        assert one.bits_per_byte == pytest.approx(-total / math.log(2) / size)
        assert one.byte_perplexity == pytest.approx(2**one.bits_per_byte)
        alone = loglikelihood(model, tokenizer, [("", text)])[0]
        assert one.log_likelihood == pytest.approx(alone.total, abs=1e-10)
    shuffled = score(model, "film great a", tokenizer)[0]
    assert shuffled.log_likelihood != pytest.approx(score(model, TEXTS[0], tokenizer)[0].log_likelihood)


def test_batches_and_companions_change_nothing(model):
    tokenizer = ByteTokenizer()
    texts = [*TEXTS, "a longer text than the model's context " * 6, ""]
    alone = [score(model, text, tokenizer)[0].log_likelihood for text in texts]
    for batch_tokens in (1, 50, 4096):
        found = [one.log_likelihood for one in score(model, texts, tokenizer, batch_tokens=batch_tokens)]
        assert found == pytest.approx(alone, abs=1e-9)


def test_json_is_valid_for_texts_without_tokens_and_without_a_chance(model):
    empty = score(model, [""], ByteTokenizer())[0].as_json(table=True)
    assert empty["log_likelihood"] == 0 and empty["perplexity"] is None and empty["token_table"] == []

    class Impossible(HistoryModel):
        def nll(self, batch, reduction="none"):
            return torch.full(batch.ids.shape, torch.inf)

    line = score(Impossible(), ["ab"], ByteTokenizer())[0].as_json(table=True)
    assert (
        line["log_likelihood"] is None and line["bits_per_byte"] is None and line["token_table"][0]["logprob"] is None
    )
    table = score(model, ["é!"], ByteTokenizer())[0].as_json(table=True)["token_table"]
    assert [row["text"] for row in table] == ["\ufffd", "\ufffd", "!"]


def test_the_public_name_loads_a_path(tmp_path):
    tokenizer = train_tokenizer("bpe", ["a small text " * 9], vocab_size=270, special_tokens=["<|endoftext|>"])
    own = transformer(vocab_size=tokenizer.vocab_size)
    own.save_pretrained(tmp_path)
    tokenizer.save(tmp_path)
    found = llmanac.score(str(tmp_path), ["a text", "a small text"], dtype="float64")
    again = score(own, ["a text", "a small text"], tokenizer)
    assert [one.log_likelihood for one in found] == pytest.approx([one.log_likelihood for one in again], rel=1e-6)
    assert "".join(found[0].pieces) == "a text"
    with pytest.raises(LlmanacError, match="no such folder"):
        llmanac.score(str(tmp_path / "none"), "a")
    with pytest.raises(DataError, match="item 1 is int"):
        llmanac.score(own, ["a", 3], tokenizer)


def test_arguments_in_another_order_are_refused_in_one_sentence(model, tmp_path):
    tokenizer, texts = ByteTokenizer(), ["a text"]
    named = score(tokenizer=tokenizer, texts=texts, model=model)
    assert named[0].log_likelihood == score(model, texts, tokenizer)[0].log_likelihood
    with pytest.raises(SpecError, match=r"^texts: is a tokenizer; call score\(model, texts, tokenizer\)$"):
        llmanac.score(model, tokenizer, texts)
    with pytest.raises(SpecError, match=r"^tokenizer: str"):
        score(model, texts, "runs/quickstart")
    labels = ["good", "bad"]
    one = classify(labels=labels, texts=texts, tokenizer=tokenizer, model=model)[0]
    assert one == classify(model, tokenizer, texts, labels)[0]
    with pytest.raises(SpecError, match=r"^texts: is a tokenizer; call classify"):
        classify(model, texts, tokenizer, labels)
    with pytest.raises(SpecError, match=r"^tokenizer: NoneType"):
        classify(model, texts=texts, labels=labels)
    with pytest.raises(SpecError, match=r"^labels: missing"):
        classify(model, tokenizer, texts)
    with pytest.raises(SpecError, match=r"is a path; .*load_classifier\(folder\)\.predict"):
        llmanac.classify("classifiers/bow", texts)
    (tmp_path / "classifier.json").touch()
    with pytest.raises(SpecError, match=r"is a trained classifier; use llmanac\.models.*load_classifier\("):
        llmanac.classify(tmp_path, texts)


def test_building_a_tokenizer_says_how_one_is_trained():
    with pytest.raises(SpecError, match=r"^tokenizer/utf8: .*; llmanac.train_tokenizer trains one$"):
        llmanac.build("tokenizer", "utf8")


# ---------------------------------------------------------------- classify
@pytest.mark.parametrize("way", ["direct", "channel"])
@pytest.mark.parametrize("calibrate", [None, "N/A"])
def test_labels_equal_the_computation_by_hand(model, way, calibrate):
    """Every step written out: the prompt's text, the tokens that count, the sum, the calibration, the softmax."""
    tokenizer = ByteTokenizer()
    template = {"direct": "Text: {text}\nIt is {label}!", "channel": "It is {label}: {text}."}[way]
    prior = {"positive": 3.0, "negative": 1.0}

    def by_definition(text, words):
        if way == "direct":
            context, scored = f"Text: {text}\nIt is", f" {words}!"  # the space goes to the continuation
        else:
            context, scored = f"It is {words}:", f" {text}."
        ids = [*context.encode(), *scored.encode()]
        return sum(by_hand(model, ids)[len(context.encode()) - 1 :])

    found = classify(
        model, tokenizer, TEXTS, LABELS, template=template, way=way, calibrate=calibrate, prior=prior, batch_tokens=60
    )
    for text, one in zip(TEXTS, found, strict=True):
        raw = {name: by_definition(text, words) for name, words in LABELS.items()}
        assert one.log_likelihoods == pytest.approx(raw, abs=1e-9)
        scores = {name: raw[name] + math.log(prior[name] / 4) for name in LABELS}
        if calibrate:
            scores = {name: scores[name] - by_definition(calibrate, words) for name, words in LABELS.items()}
        assert one.scores == pytest.approx(scores, abs=1e-9)
        total = sum(math.exp(value) for value in scores.values())
        assert one.probabilities == pytest.approx({n: math.exp(v) / total for n, v in scores.items()}, rel=1e-6)
        assert one.label == max(scores, key=lambda name: scores[name])


def test_the_ways_and_the_choices_do_differ(model):
    tokenizer, texts = ByteTokenizer(), [f"text number {i} of some length" for i in range(20)]
    labels = ["a", "bb", "ccc"]
    answers = {
        how: [one.label for one in classify(model, tokenizer, texts, labels, **dict(how))]
        for how in (
            (),
            (("way", "channel"),),
            (("calibrate", "N/A"),),
            (("per", "token"),),
            (("prior", None), ("template", "{text}: {label}")),
        )
    }
    assert len({tuple(labels) for labels in answers.values()}) >= 4


def test_length_is_divided_out_on_request(model):
    tokenizer, labels = ByteTokenizer(), ["a", "a much longer label"]
    plain = classify(model, tokenizer, TEXTS[:1], labels)[0]
    fair = classify(model, tokenizer, TEXTS[:1], labels, per="byte")[0]
    assert plain.label == "a"
    for label in labels:
        assert fair.scores[label] == pytest.approx(plain.scores[label] / len(label), abs=1e-9)


def test_a_text_cannot_write_fields_or_labels(model):
    """Braces in texts, labels and templates are plain text."""
    template = LabelPrompt.parse("{0} {x} {text} {{}} {label}}", "direct")
    assert template.pair("{label} {text}", "{text}") == ("{0} {x} {label} {text} {{}} ", "{text}}")
    found = classify(model, ByteTokenizer(), ["{label}", "{text}{0}"], ["{text}", "{label}"])
    assert len(found) == 2 and found[0].text == "{label}"


def test_models_that_hold_something_impossible_still_answer():
    class Never(HistoryModel):
        def logits_of(self, ids):
            return torch.full((self.vocab_size,), -torch.inf, dtype=torch.float64).index_fill(
                0, torch.tensor([ord("z")]), 0.0
            )

    one = classify(Never(), ByteTokenizer(), ["x"], ["good", "bad"], calibrate="N/A")[0]
    assert one.label == "good" and all(np.isfinite(p) for p in one.probabilities.values())


def test_refusals_name_what_is_wrong(model):
    tokenizer = ByteTokenizer()
    for message, how in {
        "at least two": {"labels": ["one"]},
        "all different": {"labels": ["a", "a"]},
        "one text 'ab'": {"labels": "ab"},
        "labels: 'b'": {"labels": {"a": "x", "b": " "}},
        "labels: 'x'": {"labels": {"a": "x", "b": "x"}},
        "each once": {"template": "{text} {text} {label}"},
        "must hold": {"template": "nothing"},
        r"\{label\} comes before": {"template": "{text} {label}", "way": "channel"},
        r"\{text\} comes before": {"template": "{label} {text}"},
        "not direct or channel": {"way": "sideways"},
        "must give each": {"prior": {"a": 1.0}},
        "a number above 0": {"prior": {"a": 1.0, "b": 0.0}},
        "per:": {"per": "line"},
    }.items():
        with pytest.raises((SpecError, DataError), match=message):
            classify(model, tokenizer, ["x"], **{"labels": ["a", "b"], **how})
    with pytest.raises(DataError, match="item 0"):
        classify(model, tokenizer, [3], ["a", "b"])
    assert classify(model, tokenizer, [], ["a", "b"]) == []


# ---------------------------------------------------------------- the statistics of the evidence
def test_auc_equals_sklearn_and_its_interval_the_slow_delong():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    for n, m in ((5, 9), (40, 25), (2, 2)):
        x, y = rng.integers(0, 12, n) + 1.0, rng.integers(0, 12, m).astype(float)
        area, low, high = auc(x, y)
        assert area == pytest.approx(metrics.roc_auc_score([1] * n + [0] * m, [*x, *y]), abs=1e-12)
        wins = (x[:, None] > y) + 0.5 * (x[:, None] == y)
        half = 1.959963984540054 * math.sqrt(wins.mean(1).var(ddof=1) / n + wins.mean(0).var(ddof=1) / m)
        assert (low, high) == pytest.approx((max(0, area - half), min(1, area + half)), abs=1e-12)
        assert metric_area(x, y) == area
    with pytest.raises(DataError, match="at least two"):
        auc([1.0], [2.0, 3.0])
    assert metric_area([2.0], [1.0, 2.0]) == 0.75
    for scores in (([], [1.0]), ([1.0], []), ([float("nan")], [1.0])):
        with pytest.raises(DataError, match="both sides"):
            metric_area(*scores)


def test_intervals_of_differences_are_those_of_the_paper():
    """Method 10 of Newcombe 1998, table II: rows a, e and h."""
    for counts, expected in (
        ((56, 70, 48, 80), (0.0524, 0.3339)),
        ((5, 56, 0, 29), (-0.0381, 0.1926)),
        ((10, 10, 0, 10), (0.6075, 1.0)),
    ):
        assert newcombe_interval(*counts)[1:] == pytest.approx(expected, abs=6e-5)


def test_wilson_interval_equals_scipy():
    stats = pytest.importorskip("scipy.stats")
    for hits, total in ((0, 10), (3, 10), (10, 10), (250, 1000)):
        expected = stats.binomtest(hits, total).proportion_ci(method="wilson")
        assert wilson_interval(hits, total)[1:] == pytest.approx((expected.low, expected.high), abs=1e-9)
    with pytest.raises(DataError):
        wilson_interval(1, 0)
