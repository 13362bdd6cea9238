"""Row constrain/sample-rank: the best of n by the stated score, its distribution in closed form, n = 1 is sampling."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from _engine_models import EOS, ByteTokenizer, HistoryModel

from llmanac.core.errors import RequestError
from llmanac.generate.constrain.sample_rank import matches, probability, rank, sample_then_rank
from llmanac.generate.constrain.template import Template
from llmanac.generate.engine import Completion, Engine, TokenLogprob

PROMPTS = ["a", "hello"]


def completion(text, logprobs=(-1.0,)):
    tokens = tuple(TokenLogprob(0, value) for value in logprobs)
    return Completion(text=text, token_logprobs=tokens, finish_reason="stop", prompt_ids=(1,))


def closed_form(p, scores, n):
    """P(best = x) for each x."""
    below = [sum(q for q, t in zip(p, scores, strict=True) if t < s) for s in scores]
    equal = [sum(q for q, t in zip(p, scores, strict=True) if t == s) for s in scores]
    return [q / e * ((b + e) ** n - b**n) for q, b, e in zip(p, below, equal, strict=True)]


@pytest.mark.parametrize("n", [1, 2, 4])
def test_the_best_has_the_distribution_of_the_closed_form(n):
    """Every tuple of samples, with its probability."""
    p, scores = [0.4, 0.1, 0.2, 0.05, 0.25], [0.0, 2.0, 1.0, 2.0, -1.0]
    samples = [completion(str(i)) for i in range(5)]
    found = dict.fromkeys("01234", 0.0)
    for chosen in itertools.product(range(5), repeat=n):
        best = rank([samples[i] for i in chosen], lambda texts: [scores[int(text)] for text in texts])
        found[best.completion.text] += math.prod(p[i] for i in chosen)
    assert list(found.values()) == pytest.approx(closed_form(p, scores, n), abs=1e-12)
    assert (list(found.values()) == pytest.approx(p)) == (n == 1)


def test_the_engine_samples_it():
    """Drawn by the engine: one token of ten, whose score is the token itself."""
    model = HistoryModel()
    engine = Engine(model, ByteTokenizer())
    ids = list(range(48, 58))
    p = model.logits_of([97])[ids].softmax(0).tolist()
    asked = {"temperature": 1.0, "max_new_tokens": 1, "allowed_ids": ids}
    done = engine.generate("a", n=3000, **asked)
    groups = [rank(done[at : at + 3], lambda texts: list(map(int, texts))) for at in range(0, 3000, 3)]
    counts = Counter(int(best.completion.text) for best in groups)
    expected = np.array(closed_form(p, list(range(10)), 3)) * 1000
    assert np.abs(np.array([counts[i] for i in range(10)]) - expected).max() < 5 * np.sqrt(expected.max())


def test_one_sample_is_plain_sampling():
    engine = Engine(HistoryModel(), ByteTokenizer())
    asked = {"temperature": 1.0, "max_new_tokens": 8, "seed": 5}
    plain = engine.generate(PROMPTS, **asked)
    for by in ("logprob", len_of, [len_of, "mean-logprob"]):
        found = sample_then_rank(engine, PROMPTS, n=1, by=by, **asked)
        assert [best.completion for best in found] == plain
        assert [best.tokens for best in found] == [len(done.ids) for done in plain]


def len_of(texts):
    return [len(text) for text in texts]


def test_scorers():
    engine = Engine(HistoryModel(script={3: EOS, 5: EOS}), ByteTokenizer())
    asked = {"temperature": 1.0, "max_new_tokens": 6}
    for by, of in [
        ("logprob", lambda done: sum(done.logprobs)), ("mean-logprob", lambda done: np.mean(done.logprobs)),
        (len_of, lambda done: len(done.text)),
    ]:  # fmt: skip
        for best in sample_then_rank(engine, PROMPTS, n=12, by=by, **asked):
            expected = [of(done) for done in best.completions]
            assert best.completion is best.completions[int(np.argmax(expected))]
            assert [score for (score,) in best.scores] == pytest.approx(expected)
            assert best.tokens == sum(len(done.ids) for done in best.completions) and len(best.completions) == 12
    samples = [completion("b", [-3.0]), completion("22", [-2.0]), completion("1", [-1.0])]
    found = rank(samples, [matches(regex="[0-9]+"), "logprob"])
    assert found.completion.text == "1" and found.scores == ((0.0, -3.0), (1.0, -2.0), (1.0, -1.0))
    assert rank([completion("x", [-1.0, None]), completion("y", [-2.0])], "logprob").scores == ((-1.0,), (-2.0,))

    class Score:
        def __init__(self, value):
            self.value = value

    assert rank([completion("a"), completion("bb")], lambda t: [Score(len(x)) for x in t]).completion.text == "bb"


def test_matching():
    texts = ["12", "12a", "", '{"a": 1}', "x=3;"]
    assert matches(regex="[0-9]*")(texts) == [1, 0, 1, 0, 0]
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    assert matches(schema=schema)(texts) == [0, 0, 0, 1, 0]
    assert matches(template=Template("x={n:/[0-9]/};"))(texts) == [0, 0, 0, 0, 1]
    assert matches(grammar='start: "1" start "2" | ')(texts) == [1, 0, 1, 0, 0]


def test_a_classifier_ranks():
    class Rules:
        labels = ("no", "yes")

        def probabilities(self, texts):
            good = np.array([0.5 + 0.4 * ("good" in text) - 0.4 * ("bad" in text) for text in texts])
            return np.stack([1 - good, good], 1)

    rules = Rules()
    best = rank([completion("a bad day"), completion("a good day"), completion("a day")], probability(rules, "yes"))
    assert best.completion.text == "a good day" and 0 < best.scores[0][0] < best.scores[1][0] < 1
    with pytest.raises(RequestError, match="label: 'maybe'"):
        probability(rules, "maybe")


def test_what_is_refused():
    engine, one = Engine(HistoryModel(), ByteTokenizer()), [completion("a")]
    for by, why in [
        ("logprobs", "no scorer 'logprobs'; did you mean 'logprob'"), ([], "nothing to rank by"),
        (lambda texts: [], "0 scores for 1"), (lambda texts: ["x"], "not a number"),
        (lambda texts: [float("nan")], "NaN"), ([3], "no scorer 3"),
    ]:  # fmt: skip
        with pytest.raises(RequestError, match=why):
            rank(one, by)
    with pytest.raises(RequestError, match="n: 0"):
        sample_then_rank(engine, "a", n=0, by="logprob")
    for wrong in ({}, {"regex": "a", "grammar": "b"}, {"regexp": "a"}):
        with pytest.raises(RequestError):
            matches(**wrong)
