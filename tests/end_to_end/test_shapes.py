"""Four shapes of models (recurrent, state space, encoder-decoder, mixture of experts) in one engine and one loop."""

from __future__ import annotations

import pytest
import torch
from _small_models import VOCABULARY, randomise, tokens

from llmanac.core.spec import make_method
from llmanac.core.types import LAST, Batch, capabilities
from llmanac.generate.engine import Engine
from llmanac.models.families._table import canonical
from llmanac.models.lm.transformer import Spec as Transformer
from llmanac.models.load import load_model
from llmanac.objectives import BaseObjective
from llmanac.objectives.autoregressive import Spec as Autoregressive
from llmanac.train import TrainSpec
from llmanac.train.loop import train
from llmanac.train.optimizers.adamw import Spec as AdamW

BASE = {"name": "transformer", "dim": 32, "layers": 2, "max_length": 96}
SHAPES = {
    "gru": {**BASE, "position": "none", "blocks": [{"name": "pre-norm", "mixer": "gru"}]},
    "mamba": {**BASE, "position": "none", "blocks": [{"name": "pre-norm", "mixer": "mamba", "ffn": "none"}]},
    "lstm": {"name": "lstm", "dim": 32, "layers": 2, "max_length": 96},
    "s4": {"name": "s4", "dim": 32, "layers": 2, "max_length": 96},
    "mamba2": {"name": "mamba2", "dim": 32, "layers": 2, "max_length": 96},
    "hybrid": {**BASE, "blocks": [{"name": "pre-norm", "mixer": "mamba", "ffn": "none"}, {"name": "pre-norm"}]},
    "experts": {**BASE, "blocks": [{"name": "pre-norm", "ffn": {"name": "experts", "experts": 4}}]},
    "window": {**BASE, "blocks": [{"name": "pre-norm", "mixer": {"name": "sliding-window", "window": 5}}]},
    "encoder-decoder": {**BASE, "name": "encoder-decoder"},
}
every = pytest.mark.parametrize("name", SHAPES)


def model_of(name, dtype=torch.float64):
    return randomise(make_method("lm", SHAPES[name]).build(vocab_size=VOCABULARY)).to(dtype).eval()


def by_hand(model, prompt, count):
    """Greedy decoding with one row, one token at a time, and no engine."""
    with torch.inference_mode():
        state, ids = model.start(1), torch.tensor([prompt])
        batch = Batch(ids=ids)
        if capabilities(model).reads_source:
            batch = Batch(ids=torch.tensor([[model.start_id]]), source=Batch(ids=ids))
        out = []
        for _ in range(count):
            out.append(int(model(batch, state, LAST).logits[0, -1].argmax()))
            batch = Batch(ids=torch.tensor([out[-1:]]))
    return out


@every
def test_the_engine_decodes_ragged_batches_whose_rows_join_and_leave(name):
    model = model_of(name)
    prompts = [tokens(1, n, seed=n)[0].tolist() for n in (7, 2, 19, 1, 11, 30)]
    counts = [9, 3, 12, 20, 1, 6]
    expected = [by_hand(model, p, n) for p, n in zip(prompts, counts, strict=True)]
    for rows in (1, 3, 8):
        engine = Engine(model, rows=rows)
        scheduler = Engine(model, rows=rows).scheduler()
        requests = []
        for prompt, count in zip(prompts, counts, strict=True):
            requests.append(engine.request(prompt, max_new_tokens=count, stop_ids=()))
            scheduler.submit(requests[-1])
            scheduler.step()  # each joins while others run
        while scheduler.busy:
            scheduler.step()
        assert [r.sequences[0].ids for r in requests] == expected


@every
def test_samples_fork_and_do_not_depend_on_their_batch(name):
    model = model_of(name)
    prompts = [tokens(1, n, seed=n)[0].tolist() for n in (5, 13)]
    options = {"temperature": 1.0, "n": 3, "seed": 4, "max_new_tokens": 8, "stop_ids": ()}
    together = Engine(model).generate(prompts, **options)
    alone = [c for p in prompts for c in Engine(model, rows=1).generate([p], **options)]
    assert [c.ids for c in together] == [c.ids for c in alone]
    found = together[0].arrays
    assert found.ids.tolist() == together[0].ids
    torch.testing.assert_close(torch.tensor(found.logprobs), torch.tensor(found.sampled_logprobs))  # temperature 1


class Source:
    """The same few rows again and again: what is learned is memorised."""

    def __init__(self, rows):
        self.rows, self.taken = rows, 0

    def __next__(self):
        self.taken += 1
        return self.rows

    def state(self):
        return {"taken": self.taken}, {}

    def restore(self, state, tensors):
        self.taken = state["taken"]


class Pairs(BaseObjective):
    """Targets given their source, for the encoder-decoder."""

    def collate(self, rows):
        ids = torch.tensor([row[1] for row in rows])
        first = torch.zeros(len(rows), 1, dtype=torch.long)
        return Batch(
            ids=torch.cat([first, ids[:, :-1]], 1), targets=ids, source=Batch(ids=torch.tensor([r[0] for r in rows]))
        )

    def loss(self, model, batch):
        return model.nll(batch), batch.units, {}


@every
def test_the_one_loop_trains_it_and_it_is_saved_and_loaded(name, tmp_path):
    model = make_method("lm", SHAPES[name]).build(vocab_size=VOCABULARY)
    rows = tokens(4, 17).tolist()
    objective = Autoregressive().build()
    if name == "encoder-decoder":
        rows, objective = [(row[:8], row[8:]) for row in rows], Pairs()
    settings = {"length": 16, "dtype": "float32", "compile": "never", "attention": "sdpa", "optimizer": AdamW(lr=5e-3)}
    spec = TrainSpec(steps=40, batch_tokens=64, **settings)
    total, units, _ = objective.loss(model, objective.collate(rows))
    result = train(model, Source(rows), objective, spec, tmp_path / "run", seed=0)
    assert result.loss < 0.6 * float(total.detach()) / int(units)
    model.save_pretrained(tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    if isinstance(model.spec, Transformer):  # a family's config has all sizes filled in
        assert canonical(loaded.spec) == canonical(model.spec)
    else:
        assert loaded.spec == model.spec
    for key, value in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[key], value, rtol=0, atol=0)
    prompt = tokens(1, 6)[0].tolist()
    assert by_hand(loaded.eval(), prompt, 5) == by_hand(model.eval(), prompt, 5)
