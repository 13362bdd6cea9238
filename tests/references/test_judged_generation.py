"""What models of different objectives write: as their objective taught it, and what the judge says of it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from _small_models import randomise

from llmanac.core.errors import DataError, LlmanacError
from llmanac.core.spec import make_method
from llmanac.core.types import IGNORE, Batch, ModelOutput
from llmanac.lab import generation as generations
from llmanac.lab import probe as probes
from llmanac.lab.generation import LEAST_DISTINCT, JudgedGeneration, fill, make_generation, without_degenerate, write
from llmanac.tokenizers.load import train_tokenizer

SPECIAL = ["<|endoftext|>", "<|mask|>", "<|sop|>", "<|eop|>"]
P, N = 5, 7


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer("utf8", [], special_tokens=SPECIAL)


def model_of(tokenizer: Any, position: str) -> Any:
    given = {"name": "transformer", "dim": 16, "layers": 2, "max_length": 32, "position": position}
    return randomise(make_method("lm", given).build(vocab_size=tokenizer.vocab_size)).double().eval()


@pytest.mark.parametrize(
    ("objective", "position"),
    [("autoregressive", "rope"), ("prefix", "rope"), ("glm", "rope"), ("glm", "learned-2d")],
)
@torch.no_grad()
def test_each_token_is_sampled_from_what_the_objective_trains(tokenizer: Any, objective: str, position: str) -> None:
    """The row that the objective itself makes of prompt and written tokens has the distributions they came from."""
    model = model_of(tokenizer, position)
    prompts = torch.randint(32, 127, (3, P), generator=torch.Generator().manual_seed(1))
    found = write(model, prompts, N, tokenizer, torch.Generator().manual_seed(2), objective)
    rows = torch.cat([prompts, found], 1).numpy()
    made = make_method("objective", objective).build(tokenizer=tokenizer)
    if objective == "glm":
        parts = [made.fill(row, [(P, P + N)]) for row in rows]
        ids, targets, places, within = (torch.tensor(np.stack([part[n] for part in parts])) for n in range(4))
        two = {"positions": places, "within": within} if position == "learned-2d" else {}
        batch = Batch(ids=ids, targets=targets, mask="prefix", prefix=torch.tensor([p[4] for p in parts]), **two)
        first = P + 1
    else:
        batch, first = Batch(ids=torch.tensor(rows)), P - 1
        if objective == "prefix":
            batch = Batch(ids=batch.ids, mask="prefix", prefix=torch.full((3,), P))
    logits = model(batch).logits[:, first : first + N]
    banned = torch.tensor(sorted(tokenizer.special_tokens.values()))
    again = torch.Generator().manual_seed(2)
    for n in range(N):
        p = logits[:, n].index_fill(-1, banned, -torch.inf).softmax(-1)
        assert torch.equal(torch.multinomial(p, 1, generator=again)[:, 0], found[:, n])
    assert not torch.isin(found, banned).any()
    if objective != "autoregressive":  # what the prompt sees makes a difference
        assert not torch.allclose(logits, model(batch.ids).logits[:, first : first + N])


class Recorder:
    """A model with one distribution for every place; keeps what it is given."""

    def __init__(self, p: torch.Tensor) -> None:
        self.logits, self.given = p.log(), []

    def __call__(self, batch: Batch, want: Any = None) -> ModelOutput:
        assert batch.mask == "bidirectional"
        self.given.append(batch.ids.clone())
        return ModelOutput(logits=self.logits.expand(*batch.shape, -1))


def test_masks_are_filled_by_certainty_then_place_by_place(tokenizer: Any) -> None:
    p = torch.zeros(tokenizer.vocab_size)
    p[[65, 66, 67]], p[tokenizer.special_tokens["<|mask|>"]] = torch.tensor([0.1, 0.2, 0.5]), 0.2
    model, count, rows = Recorder(p), 8, 400
    prompts = torch.full((rows, 3), 70)
    found = fill(model, prompts, count, tokenizer, torch.Generator().manual_seed(0))
    mask = tokenizer.special_tokens["<|mask|>"]
    hidden = [(ids[:, 3:] == mask) for ids in model.given]
    assert len(hidden) == count and all(torch.equal(ids[:, :3], prompts) for ids in model.given)
    assert [int(h.sum(1).max()) for h in hidden[:4]] == [int(h.sum(1).min()) for h in hidden[:4]] == [8, 6, 4, 2]
    places = torch.stack([h.all(0) for h in hidden[4:]])
    assert torch.equal(places.sum(0), torch.ones(count, dtype=torch.long))  # each place once
    shares = torch.bincount(found.flatten(), minlength=tokenizer.vocab_size) / found.numel()
    torch.testing.assert_close(shares, torch.where(torch.arange(len(p)) == mask, 0, p) / 0.8, atol=0.035, rtol=0)
    sure = model.given[1][:, 3:]  # after a pass, the likeliest of what was sampled stay
    kept = torch.where(hidden[1], -1, sure)
    assert ((kept == 67) | (kept == -1)).float().mean() > 0.95


def test_the_judge_scores_what_follows_the_prompts(tokenizer: Any, tmp_path: Path) -> None:
    words = np.random.default_rng(0).choice(["cat", "dog", "tree", "runs", "sleeps", "the"], 3000)
    texts = [" ".join(words[at : at + 300]) for at in range(0, 3000, 300)]
    prepared = SimpleNamespace(tokenizer=tokenizer, report=texts, tuning=["the cat sleeps"])
    made = make_generation(prepared, 64, None)
    assert made.prompts.shape == (64, 16) and made.written.shape == (64, 32)
    whole = "|".join(texts)
    for prompt, rest in zip(made.prompts.tolist(), made.written.tolist(), strict=True):
        assert tokenizer.decode(prompt + rest) in whole
    rows = torch.tensor(np.concatenate([made.prompts, made.written], 1))
    start = torch.full((len(rows), 1), tokenizer.eos_id)
    targets = rows.clone()
    targets[:, :16] = IGNORE
    ids = torch.cat([start, rows[:, :-1]], 1)
    nats = float(made.judge.nll(Batch(ids=ids, targets=targets)))
    assert made.of(made.written)["judged"] == pytest.approx(nats / np.log(2) / made.written.size, abs=0.02)
    noise = np.random.default_rng(1).integers(97, 122, made.written.shape)
    assert made.of(noise)["judged"] > 2 * made.of(made.written)["judged"]
    same = np.tile(made.written[:1], (64, 1))
    assert made.of(same)["distinct_2"] < 0.1 < made.of(made.written)["distinct_2"]
    assert make_generation(prepared, 64, None).identity == made.identity
    made.judge.save_pretrained(tmp_path / "judge")
    tokenizer.save(tmp_path / "judge")
    given = make_generation(prepared, 64, str(tmp_path / "judge"))
    assert given.of(made.written) == made.of(made.written) and given.identity != made.identity
    with pytest.raises(LlmanacError, match="nowhere"):
        make_generation(prepared, 64, str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="too few to judge"):
        make_generation(SimpleNamespace(tokenizer=tokenizer, report=["short"], tuning=[]), 64, None)


def test_an_arm_that_repeats_itself_gets_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    made = JudgedGeneration(None, np.zeros((8, 2)), np.zeros((8, 4)), None, None, "a judge")
    monkeypatch.setattr(JudgedGeneration, "of", lambda self, written: {"judged": 2.0, "distinct_2": 0.9})

    def judged(**distinct: float) -> dict[str, Any]:
        verdicts = [{"arm": arm, "verdict": "better"} for arm in distinct if arm != "a"]
        values = {arm: [value] for arm, value in distinct.items()}
        result = {"baseline": "a", "values": {"distinct_2": values}, "comparisons": {"judged": verdicts}}
        without_degenerate(result, made)
        return result

    low = 0.9 * LEAST_DISTINCT - 0.01
    found = judged(a=0.9, b=low, c=0.9)
    assert [c["verdict"] for c in found["comparisons"]["judged"]] == ["none", "better"]
    assert found["generation"]["degenerate"] == ["b"] and "b repeats" in found["comparisons"]["judged"][0]["refused"]
    assert {c["verdict"] for c in judged(a=low, b=0.9)["comparisons"]["judged"]} == {"none"}
    assert generations.JUDGED.better == "lower"


def test_agreement_is_more_than_a_bag_of_words_knows() -> None:
    pairs = probes.agreement_pairs()
    plural = {verb[1] for verb in probes.VERBS}
    numbers = []
    for subject, right, wrong in pairs:
        (a, b) = (text.split() for text in (right, wrong))
        differ = [n for n in range(len(a)) if a[n] != b[n]]
        assert len(differ) == 1 and a[1].removesuffix("s") == subject
        many, others = a[1].endswith("s"), a[4].endswith("s")
        assert (a[differ[0]] in plural) == many and (b[differ[0]] in plural) != many
        numbers.append((many, others))
    assert all(abs(numbers.count(pair) / len(pairs) - 0.25) < 0.07 for pair in set(numbers))
    words = train_tokenizer("word", [text for _, *both in pairs for text in both])
    probe = probes.agreement_probe(words, 64)
    assert set(probe.labels) == {0, 1} and probe.labels.mean() == 0.5 and 0.3 < probe.train.mean() < 0.7
    bag = torch.zeros(len(probe.ids), words.vocab_size, dtype=torch.float64)
    for row, ids in zip(bag, probe.ids, strict=True):
        row += torch.bincount(torch.from_numpy(ids), minlength=words.vocab_size)
    assert probes.accuracy(bag, probe.labels, probe.train) < 0.6
    signs = torch.tensor([[2.0 * many - 1, 2.0 * label - 1] for (many, _), label in zip(
        [number for number in numbers for _ in range(2)], probe.labels.tolist(), strict=True)]).double()  # fmt: skip
    verb = signs[:, :1] * signs[:, 1:]  # plural where the subject is and the sentence is right
    assert probes.accuracy(torch.cat([signs[:, :1], verb], 1), probe.labels, probe.train) < 0.6
    assert probes.accuracy(signs[:, :1] * verb, probe.labels, probe.train) == 1.0  # both together say it
