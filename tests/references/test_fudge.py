"""Row constrain/fudge: exact Bayes with an exact classifier, by enumeration; the GRU against torch.nn.GRU."""

import itertools
import math
import re

import pytest
import torch
from _engine_models import ByteTokenizer, HistoryModel
from _small_models import randomise

from llmanac.core.errors import DataError, RequestError, SpecError
from llmanac.core.spec import make_method
from llmanac.data.examples import Examples
from llmanac.generate.constrain.fudge import Fudge, GRUClassifier
from llmanac.generate.decoding import greedy
from llmanac.generate.engine import Engine
from llmanac.recipes.prefix_classifier import train_prefix_classifier

SIZE, END, LENGTH = 5, 4, 4
PROMPT = [1, 2, 3]


class Row:
    """A text so far, as decoding methods see it."""

    def __init__(self, ids, prompt=PROMPT):
        self.ids, self.prompt_ids = list(ids), prompt


class Exact:
    """The exact p(a | beginning) of a model and of p(a | text) for every text, by enumeration."""

    def __init__(self, model, seed=0):
        self.model = model
        self.texts = [
            ids for n in range(LENGTH + 1) for ids in itertools.product(range(SIZE), repeat=n) if complete(ids)
        ]
        chances = torch.rand(len(self.texts), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        self.attribute = dict(zip(self.texts, chances.tolist(), strict=True))
        self.beginnings = {}
        for ids in self.texts:
            p = self.p(ids)
            for n in range(len(ids) + 1):
                total, with_it = self.beginnings.get(ids[:n], (0.0, 0.0))
                self.beginnings[ids[:n]] = total + p, with_it + p * self.attribute[ids]

    def p(self, ids):
        logs = [self.model.logits_of([*PROMPT, *ids[:n]]).log_softmax(-1)[i].item() for n, i in enumerate(ids)]
        return math.exp(sum(logs))

    def conditional(self, ids):
        """log p(x | a)."""
        return math.log(self.p(ids) * self.attribute[ids] / self.beginnings[()][1])

    def start(self, rows):
        return torch.full((rows, LENGTH), -1)

    def step(self, state, ids):
        after = torch.cat([state, ids[:, None]], 1)
        after = torch.stack([torch.cat([row[row >= 0], row[row < 0]])[:LENGTH] for row in after])
        odds = []
        for row in after.tolist():
            ids = tuple(i for i in row if i >= 0)
            total, with_it = self.beginnings.get(ids, (1.0, 0.5))  # beginnings that no text has are never asked for
            odds.append(math.log(with_it / (total - with_it)))
        return after, torch.tensor(odds, dtype=torch.float64)


def complete(ids):
    return END not in ids[:-1] and (len(ids) == LENGTH or ids[-1:] == (END,))


@pytest.fixture(scope="module")
def exact():
    return Exact(HistoryModel(vocab_size=SIZE, scale=1.0))


def steered(exact, fudge, ids):
    """log-probability of a text, token by token."""
    row, steer, total = Row([]), fudge.build(), 0.0
    for token in ids:
        logits = exact.model.logits_of([*PROMPT, *row.ids])[None]
        total += torch.from_numpy(steer(logits.numpy(), [row])).log_softmax(-1)[0, token].item()
        row.ids.append(token)
    return total


def test_equals_exact_bayes(exact):
    fudge, plain = Fudge(classifier=exact, k=SIZE), 0.0
    for ids in exact.texts:
        assert steered(exact, fudge, ids) == pytest.approx(exact.conditional(ids), abs=1e-9)
        plain = max(plain, abs(exact.conditional(ids) - math.log(exact.p(ids))))
    assert plain > 0.2  # it differs from the model's own distribution
    assert sum(math.exp(exact.conditional(ids)) for ids in exact.texts) == pytest.approx(1)
    few = [steered(exact, Fudge(classifier=exact, k=2), ids) for ids in exact.texts]
    assert -math.inf in few and max(abs(a - exact.conditional(b)) for a, b in zip(few, exact.texts, strict=True)) > 0.1
    none = Fudge(classifier=exact, k=SIZE, weight=0)
    twice = Fudge(classifier=exact, k=SIZE, weight=2.0)
    for ids in exact.texts[::40]:
        assert steered(exact, none, ids) == pytest.approx(math.log(exact.p(ids)), abs=1e-9)
        assert abs(steered(exact, twice, ids) - exact.conditional(ids)) > 1e-6


def test_in_a_batch_of_the_engine(exact):
    """Sampled log-probabilities are those of the conditional, whatever else is in the batch; the cost is counted."""
    fudge = Fudge(classifier=exact, k=SIZE)
    engine = Engine(exact.model, rows=4)
    asked = {"decoding": [fudge], "stop_ids": [END], "max_new_tokens": LENGTH, "n": 6, "seed": 3}
    found = engine.generate([PROMPT, [2, 2]], **asked)
    for done in found[:6]:
        assert float(done.arrays.sampled_logprobs.sum()) == pytest.approx(exact.conditional(tuple(done.ids)), abs=1e-9)
    tokens = sum(len(done.ids) for done in found)
    # a token: its candidates, and it is read itself unless the text has ended with it
    assert fudge.cost.tokens == tokens * SIZE + tokens - len(found) and fudge.cost.calls < 2 * tokens
    alone = engine.generate(PROMPT, **{**asked, "decoding": [Fudge(classifier=exact, k=SIZE)]})
    assert [a.ids for a in alone] == [a.ids for a in found[:6]]
    best, cut = (
        engine.generate(PROMPT, decoding=[fudge, then], stop_ids=[END], max_new_tokens=LENGTH)[0].ids
        for then in (greedy.Spec(), make_method("decoding", {"name": "top-k", "k": 1}))
    )
    assert best == cut
    drafted = Engine(exact.model, drafter="prompt-lookup")
    drafted.speculation.always = True
    assert [a.ids for a in drafted.generate(PROMPT, **asked)] == [a.ids for a in alone]


def test_the_classifier_may_read_the_prompt_too():
    network = randomise(GRUClassifier(9, dim=6, hidden=5)).double()
    logits, row = torch.randn(1, 9, dtype=torch.float64), Row([4], prompt=[3, 7])
    for reads, text in (("answer", [4]), ("text", [3, 7, 4])):
        found = Fudge(classifier=network, k=9, reads=reads).build()(logits.numpy(), [row])
        odds = torch.stack([network(batch([[*text, i]]))[0, -1] for i in range(9)])
        torch.testing.assert_close(torch.from_numpy(found[0]), logits[0] + odds.sigmoid().log())
    with pytest.raises(RequestError, match="texts so far"):
        Fudge(classifier=network).build()(logits.numpy())
    for wrong in ({"k": 0}, {"weight": -1.0}):
        with pytest.raises(SpecError, match=next(iter(wrong))):
            Fudge(classifier=network, **wrong)


def test_under_a_constraint_only_what_it_allows_is_a_candidate():
    network = randomise(GRUClassifier(260, dim=6, hidden=5)).double()
    engine = Engine(HistoryModel(), ByteTokenizer())
    for k in (1, 2, 260):
        found = engine.generate("x", regex="[ab]{4}", decoding=[Fudge(classifier=network, k=k)], max_new_tokens=9, n=3)
        assert all(re.fullmatch("[ab]{4}", done.text) for done in found)


def batch(lists, classes=None):
    made = make_method("objective", "prefix-classification").build()
    return made.collate(Examples.of(lists, classes or [0] * len(lists)))


def test_scores_equal_torch_and_steps_equal_the_text_at_once():
    network = randomise(GRUClassifier(9, dim=6, hidden=5)).double()
    theirs = torch.nn.GRU(6, 5, batch_first=True, dtype=torch.float64)
    pairs = [("weight_ih_l0", network.gru.input_proj.weight), ("bias_ih_l0", network.gru.input_proj.bias)]
    pairs += [("weight_hh_l0", network.gru.hidden_proj.weight), ("bias_hh_l0", network.gru.hidden_proj.bias)]
    for name, value in pairs:
        getattr(theirs, name).data.copy_(value.data)
    ids = batch([[1, 2, 3, 8], [5, 0, 5, 5]])
    hidden, _ = theirs(network.embed.weight[ids.ids])
    expected = hidden @ network.gru.o_proj.weight[0] + network.gru.o_proj.bias
    torch.testing.assert_close(network(ids), expected)
    state = network.start(2)
    for t in range(4):
        state, odds = network.step(state, ids.ids[:, t])
        torch.testing.assert_close(odds, expected[:, t])


def test_the_loss_is_that_of_every_beginning():
    network = randomise(GRUClassifier(9, dim=6, hidden=5)).double()
    objective = make_method("objective", "prefix-classification").build()
    lists, classes = [[1, 2, 3], [4], [5, 6]], [1, 0, 1]
    loss, units, more = objective.loss(network, batch(lists, classes))
    found = torch.autograd.grad(loss, list(network.parameters()))
    total, right = 0.0, 0
    for ids, kind in zip(lists, classes, strict=True):
        for n in range(1, len(ids) + 1):
            score = network(batch([ids[:n]]))[0, -1]
            total = total + torch.nn.functional.binary_cross_entropy_with_logits(score, score.new_tensor(float(kind)))
            right += int((score > 0) == bool(kind))
    torch.testing.assert_close(loss, total)
    assert units == 6 and more["accuracy"] == right
    for a, b in zip(found, torch.autograd.grad(total, list(network.parameters())), strict=True):
        torch.testing.assert_close(a, b)
        assert a.abs().max() > 0
    for rows, why in [([1], "rows are list"), (Examples.of([[1]], [2]), "0 and 1")]:
        with pytest.raises(DataError, match=why):
            objective.collate(rows)


def test_trained_on_samples_it_steers_to_the_attribute():
    """Texts with many twos among the model's own samples; then far more of them are written."""
    model = HistoryModel(vocab_size=SIZE, scale=0.5)
    engine = Engine(model)
    asked = {"temperature": 1.0, "stop_ids": [], "max_new_tokens": 6, "n": 250}
    texts = [done.ids for done in engine.generate([1], **asked)]
    network = train_prefix_classifier(texts, [has(ids) for ids in texts], vocab_size=SIZE, dim=8, hidden=16, epochs=12)
    before = sum(has(done.ids) for done in engine.generate([1], **{**asked, "seed": 1})) / 250
    fudge = Fudge(classifier=network, k=SIZE)
    options = {name: value for name, value in asked.items() if name != "temperature"}
    after = sum(has(done.ids) for done in engine.generate([1], decoding=[fudge], **{**options, "seed": 1})) / 250
    assert before < 0.35 and after > 2 * before
    for texts, labels, why in [
        ([], [], "labels: 0"), ([[1]], [True], "all are True"), ([[1], []], [True, False], "number 1")
    ]:  # fmt: skip
        with pytest.raises(DataError, match=why):
            train_prefix_classifier(texts, labels, vocab_size=SIZE)
    with pytest.raises(DataError, match="tokenizer: is needed"):
        train_prefix_classifier(["a", "b"], [True, False])


def has(ids):
    return ids.count(2) >= 3
