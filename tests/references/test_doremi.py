"""DoReMi: the paper's algorithm written out in numpy, the proxy's loss and weights beside it, and exact resuming."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llmanac.core.errors import DataError, SpecError
from llmanac.core.spec import make_method, to_toml
from llmanac.core.types import IGNORE
from llmanac.data.documents import Document
from llmanac.data.mixtures import Domain
from llmanac.data.mixtures.doremi import reweighted
from llmanac.data.pack import ListStream, MixedRows
from llmanac.recipes.mixing import Domains, GroupRobust, Setting, _Tagged, doremi, read_domains, train_on

pytestmark = pytest.mark.usefixtures("one_thread")
SETTING = Setting(dim=16, layers=1, heads=2, vocab_size=300, length=16, batch_tokens=64, steps=6, held_out_bytes=2000)


def papers_update(alpha: list[float], excess: list[float], eta: float, c: float) -> list[float]:
    """Algorithm 1, lines 6 to 8."""
    moved = [a * float(np.exp(eta * e)) for a, e in zip(alpha, excess, strict=True)]
    return [(1 - c) * m / sum(moved) + c / len(alpha) for m in moved]


def test_the_update_is_the_papers() -> None:
    rng = np.random.default_rng(0)
    alpha = np.full(5, 0.2)
    written = list(alpha)
    for _ in range(50):
        excess = rng.exponential(0.3, 5)
        alpha = reweighted(alpha, excess, rate=0.7, smoothing=0.01)
        written = papers_update(written, excess.tolist(), 0.7, 0.01)
        assert alpha == pytest.approx(written, rel=1e-12)
        assert alpha.sum() == pytest.approx(1)
    assert reweighted(np.array([0.5, 0.5]), np.array([5000.0, 0.0]))[1] == pytest.approx(5e-4), "it does not overflow"
    assert reweighted(np.array([0.5, 0.5]), np.array([0.2, 0.2])) == pytest.approx([0.5, 0.5])


@pytest.fixture(scope="module")
def domains(tmp_path_factory: pytest.TempPathFactory) -> Domains:
    rng = np.random.default_rng(1)
    texts: dict[str, list[Document]] = {"even": [], "noise": [], "rare": []}
    for n in range(60):
        texts["even"].append(Document(f"e{n}", "one two three four five six. " * 6, f"e{n}"))
        texts["noise"].append(Document(f"n{n}", "".join(map(chr, rng.integers(97, 123, 200))), f"n{n}"))
        if n < 20:
            texts["rare"].append(Document(f"r{n}", " ".join(f"{n * k % 97} goes" for k in range(30)), f"r{n}"))
    return Domains.prepare(texts, tmp_path_factory.mktemp("domains"), SETTING)


def model_of(domains: Domains, seed: int) -> Any:
    model = SETTING.model(domains.tokenizer.vocab_size)
    model.initialise(seed)
    return model


def rows_of(domains: Domains) -> list[Any]:
    names = sorted(domains.data)
    streams = domains.streams(SETTING, 0)
    return [row for place, name in enumerate(names) for row in _Tagged(streams[name], place).take(2 + place)]


def test_the_loss_is_the_weighted_sum_of_the_domains_means(domains: Domains) -> None:
    model, reference = model_of(domains, 1).double(), model_of(domains, 2).double()
    objective = GroupRobust(sorted(domains.data), reference, rate=0.5, smoothing=0.01)
    rows = rows_of(domains)
    batch = objective.collate(rows)
    model.train()
    total, units, _ = objective.loss(model, batch)
    with torch.no_grad():
        own, other = model.nll(batch, "none").numpy(), reference.nll(batch, "none").numpy()
    there = (batch.targets != IGNORE).numpy()
    means, excess = [], []
    for place in range(3):
        chosen = np.array([row[0] == place for row in rows])
        count = there[chosen].sum()
        means.append(own[chosen][there[chosen]].sum() / count)
        excess.append(np.maximum(own - other, 0)[chosen][there[chosen]].sum() / count)
    alpha = papers_update([1 / 3] * 3, excess, 0.5, 0.01)
    assert list(objective.alpha) == pytest.approx(alpha, rel=1e-9)
    assert float(total.detach()) / units == pytest.approx(float(np.dot(alpha, means)), rel=1e-9)
    assert units == there.sum()
    assert list(objective.weights().values()) == pytest.approx(alpha)
    model.eval()
    objective.loss(model, batch)
    assert objective.steps == 1, "looking does not move the weights"
    # the gradient is that of the weighted sum, with the weights held fixed
    total.backward()
    found = torch.cat([p.grad.flatten() for p in model.parameters()])
    model.zero_grad()
    losses = model.nll(batch, "none")
    parts = [losses[[row[0] == place for row in rows]].sum() for place in range(3)]
    counts = [there[[row[0] == place for row in rows]].sum() for place in range(3)]
    (units * sum(a * p / c for a, p, c in zip(alpha, parts, counts, strict=True))).backward()
    assert torch.allclose(found, torch.cat([p.grad.flatten() for p in model.parameters()]), rtol=1e-9, atol=1e-12)


def test_a_stopped_proxy_goes_on_with_the_same_weights(domains: Domains, tmp_path: Path) -> None:
    from llmanac.core.spec import patch
    from llmanac.train.loop import train

    whole = doremi(domains, SETTING, tmp_path / "whole", seed=3)
    assert sum(whole.values()) == pytest.approx(1)
    assert len(set(whole.values())) == 3
    assert doremi(domains, SETTING, tmp_path / "whole", seed=3) == whole, "a finished run gives its weights again"

    def proxy(folder: Path, stop_after: int | None) -> dict[str, float]:
        sizes = {name: float(d.bytes) for name, d in domains.sizes.items()}
        reference = train_on(domains, sizes, SETTING, tmp_path / "whole" / "reference", seed=3)
        names, streams = sorted(domains.data), domains.streams(SETTING, 3)
        tagged = {name: _Tagged(streams[name], place) for place, name in enumerate(names)}
        source = MixedRows(tagged, dict.fromkeys(names, 1), rows=4, draws="exact")
        model, objective = model_of(domains, 3), GroupRobust(names, reference)
        taken = 0

        class Stopping(MixedRows):
            def __next__(self) -> list[Any]:
                nonlocal taken
                taken += 1
                if stop_after is not None and taken > stop_after:
                    raise KeyboardInterrupt
                return super().__next__()

        source.__class__ = Stopping
        spec = patch(SETTING.training(), {"checkpoint_every": 2})
        train(model, source, objective, spec, folder, seed=3, report=lambda text: None)
        return objective.weights()

    straight = proxy(tmp_path / "straight", None)
    assert straight == pytest.approx(whole, rel=1e-12)
    with pytest.raises(KeyboardInterrupt):
        proxy(tmp_path / "stopped", 3)
    assert proxy(tmp_path / "stopped", None) == straight


def test_rows_in_proportion_resume_exactly() -> None:
    def source() -> MixedRows:
        streams = {name: ListStream([f"{name}{n}" for n in range(7)], seed=1, name=name) for name in "abc"}
        return MixedRows(streams, {"a": 5, "b": 3, "c": 2}, rows=4, draws="exact")

    whole = source().take(200)
    for n in range(1, 201):
        for name, share in (("a", 0.5), ("b", 0.3), ("c", 0.2)):
            assert abs(sum(row[0] == name for row in whole[:n]) - n * share) < 1
    first, second = source(), source()
    head = first.take(37)
    second.restore(*json.loads(json.dumps(first.state())))
    assert head + second.take(163) == whole
    with pytest.raises(DataError, match="resume with the same shares"):
        second.restore({"schedule": {}, "drawn": 0, "streams": {}}, {})


def test_the_mixture_reads_learned_weights(tmp_path: Path) -> None:
    file = tmp_path / "weights.json"
    found = {"a": Domain(10, 100), "b": Domain(30, 100)}
    mixture = make_method("mixture", {"name": "doremi", "file": str(file)})
    with pytest.raises(DataError, match="no such file"):
        mixture.shares(found)
    file.write_text(json.dumps({"weights": {"a": 0.2, "b": 0.6, "c": 0.2}}))
    assert mixture.shares(found) == pytest.approx({"a": 0.25, "b": 0.75})
    for text, message in [
        ("[]", "has no weights"),
        ('{"weights": {"a": 1}}', "no weight for the domain 'b'"),
        ('{"weights": {"a": 1, "b": 0}}', "not all positive"),
        ('{"weights": {"a": 1, "b": "x"}}', "not all positive"),
    ]:
        file.write_text(text)
        with pytest.raises(DataError, match=message):
            mixture.shares(found)
    file.write_text(json.dumps({"weights": {"a": 0.25, "b": 0.75}, "unit": "bytes"}))
    assert mixture.targets(found) == pytest.approx({"a": 0.25, "b": 0.75})
    with pytest.raises(SpecError, match=r"mixture\.unit: is 'documents', .* shares of bytes; set unit = \"bytes\""):
        make_method("mixture", {"name": "doremi", "file": str(file), "unit": "documents"}).shares(found)
    with pytest.raises(SpecError, match=r"mixture\.file: not given"):
        make_method("mixture", "doremi").shares(found)


def test_one_domain_is_no_mixture(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no mixture; give the inputs"):
        Domains.prepare({"": [Document("a", "text", "a")]}, tmp_path, SETTING)


def test_the_command_learns_weights_that_a_build_then_uses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from llmanac.cli.data import weights_command
    from llmanac.data.pipeline.build import build
    from llmanac.data.pipeline.recipe import make_recipe, read_recipe

    inputs = []
    for name, text, count in (("a", "one two three four ", 40), ("b", "x y z ", 400)):
        lines = [json.dumps({"text": f"{text}{n} " * 20}) + "\n" for n in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
        inputs.append({"name": "files", "paths": [str(tmp_path / f"{name}.jsonl")], "domain": name})
    build(make_recipe({"inputs": inputs}), tmp_path / "plain", workers=1)
    weights_command(tmp_path / "plain", None, steps=2, seed=0)
    learned = json.loads((tmp_path / "plain-weights" / "weights.json").read_text())
    assert learned["unit"] == "bytes"
    printed = capsys.readouterr().out
    assert "mixture" in printed.partition("[mixture]")[0]  # where the table below goes
    # what it prints stands at the end of a recipe as it is, after whatever table
    table = printed[printed.index("[mixture]") :]
    recipe = tmp_path / "mixed.toml"
    recipe.write_text(f'{to_toml({"inputs": inputs})}\n[output]\nformat = "jsonl"\n{table}')
    build(read_recipe(recipe), tmp_path / "mixed", workers=1)
    sizes = {name: sum(len(d.text) for d in of) for name, of in read_domains(tmp_path / "mixed").items()}
    for name, weight in learned["weights"].items():
        assert sizes[name] / sum(sizes.values()) == pytest.approx(weight, abs=0.02), "what was learned is what is drawn"
