"""`llmanac compare` where the arms are not trained: tokenizers over documents, decoding methods on one artefact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _studies import ask

from llmanac.core import registry
from llmanac.core.errors import SpecError
from llmanac.data.split import fraction
from llmanac.lab.arms import parse_arms
from llmanac.lab.axis import find_axis, resolve
from llmanac.recipes.spec import load_recipe

pytestmark = pytest.mark.usefixtures("one_thread")


def test_tokenizers_over_the_same_documents(recipe: dict[str, Any], store: Path, tmp_path: Path) -> None:
    found = ask("tokenizer", "bpe{vocab_size=300},bpe{vocab_size=500}", recipe, tmp_path, store)
    small, large = "bpe{vocab_size=300}", "bpe{vocab_size=500}"
    assert found.data["replicate"] == "document" and found.data["hold"] is None
    values = found.values("bytes_per_token")
    assert len(values[small]) == found.data["data"]["held_out_documents"] >= 2
    assert all(b > a for a, b in zip(values[small], values[large], strict=True))
    spec = load_recipe(recipe, {"tokenizer.vocab_size": 500}).spec
    from llmanac.data.collect import collect

    corpus = collect(spec.data.source, held_out=0.3, seed=0)
    tokenizer = spec.tokenizer.train(corpus.train.texts())
    wanted = [len(t.encode()) / len(tokenizer.encode(t)) for t in corpus.held_out.texts()]
    assert values[large] == pytest.approx(wanted)
    assert found.data["costs"][large]["lossless"] == 1.0
    assert "Untuned" not in found.page.read_text()


@pytest.mark.slow
def test_every_tokenizer_by_name(recipe: dict[str, Any], store: Path, tmp_path: Path) -> None:
    folders = {"one": "the cat sat on the mat, thinking of fish ", "two": "def f(x):\n    return x[0] + 1\n"}
    for name, text in folders.items():
        (tmp_path / "text" / name).mkdir(parents=True)
        for i in range(12):
            (tmp_path / "text" / name / f"{i}.txt").write_text(f"{text * (20 + i)} {name}{i}", "utf-8")
    chosen = {**recipe, "data": {"source": {"name": "files", "paths": [str(tmp_path / "text")]}, "held_out": 0.3}}
    names = sorted(registry.methods("tokenizer"))
    for vocabulary in (None, {"weights": ["one=1", "two=0"]}):
        chosen["data"] = {**chosen["data"], **({"vocabulary": vocabulary} if vocabulary else {})}
        found = ask("tokenizer", ",".join(names), chosen, tmp_path / str(vocabulary), store)
        assert set(found.values("bytes_per_token")) == set(names)
        costs = found.data["costs"]
        assert set(found.values("bytes_per_token")["utf8"]) == {1.0}
        assert costs["word"]["unknown"] > 0 and costs["word"]["lossless"] < 1 and costs["bpe"]["lossless"] == 1
        assert costs["utf8"]["bytes_per_token of one"] == costs["utf8"]["bytes_per_token of two"] == 1.0
        if vocabulary is None:
            assert all(1 < value < 8 for value in found.values("bits_per_byte")["utf8"])
            plain = costs["bpe"]
    assert costs["bpe"]["bytes_per_token of two"] < plain["bytes_per_token of two"]  # trained on the other one alone
    assert costs["bpe"]["bytes_per_token of one"] > costs["bpe"]["bytes_per_token of two"]


@pytest.fixture(scope="module")
def artefact(recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model trained for a few dozen steps, saved as a run saves it."""
    from llmanac.lab.cache import StudyCache
    from llmanac.lab.prepare import prepare
    from llmanac.lab.runner import with_steps
    from llmanac.lab.trials.training import TrainingTrial
    from llmanac.train.loop import train

    folder = tmp_path_factory.mktemp("artefact")
    spec = load_recipe(recipe, {"model.max_length": 128, "train.steps": 40}).spec
    prepared = prepare(spec, StudyCache(folder).root / "data")
    (arm, _) = resolve(spec, find_axis("position"), parse_arms("rope,none"))
    trial = TrainingTrial(prepared, "cpu")
    model, source, objective = trial.build(with_steps(arm, 40), 0)
    train(model, source, objective, spec.train, folder / "train", seed=0)
    model.save_pretrained(folder / "model")
    prepared.tokenizer.save(folder / "model")
    return folder / "model"


def test_decoding_methods_on_one_artefact(artefact: Path, recipe: dict[str, Any], store: Path, tmp_path: Path) -> None:
    from llmanac.generate.engine import Engine
    from llmanac.lab.trials.decoding import DecodedModel, distinct

    arms = "greedy,temperature{temperature=1.0}"
    found = ask("decoding", arms, recipe, tmp_path, store, artefact=artefact, seeds=2)
    loaded = DecodedModel.load(artefact)
    assert loaded.sha256 in found.data["artefact"]
    rep = found.values("rep_4")
    assert np.mean(rep["greedy"]) > np.mean(rep["temperature{temperature=1.0}"]) + 0.2  # a barely trained model loops
    assert found.comparison("temperature{temperature=1.0}", "rep_4")["verdict"] == "better"
    assert (
        found.data["costs"]["greedy"]["mean_logprob"]
        > found.data["costs"]["temperature{temperature=1.0}"]["mean_logprob"]
    )
    # greedy draws nothing: its second seed is the first one's run
    assert [r["cached"] for r in found.data["runs"] if r["arm"] == "greedy"] == [False, True]
    assert [r["cached"] for r in found.data["runs"] if r["arm"] != "greedy"] == [False, False]
    # one passage by hand
    from llmanac.core.files import read_json
    from llmanac.data.collect import collect
    from llmanac.data.split import fraction
    from llmanac.lab.trials.decoding import passages

    spec = load_recipe(recipe).spec
    held_out = collect(spec.data.source, held_out=0.3, seed=0).held_out
    documents = sorted(((d.id, d.text) for d in held_out), key=lambda d: fraction(d[0], seed=1))
    taken = passages(loaded, documents, 512)[: read_json(tmp_path / "plan.json")["items"]]
    first = Engine(loaded.model, loaded.tokenizer).generate(
        [p.prompt for p in taken], max_new_tokens=len(taken[0].reference), temperature=0.0, stop_ids=()
    )
    assert rep["greedy"] == pytest.approx([1 - distinct(c.ids, 4) for c in first])
    assert found.data["replicate"] == "prompt"  # two held-out documents: the page must warn
    assert "not independent" in found.page.read_text()


@pytest.mark.slow
def test_another_artefact_is_another_run(artefact: Path, recipe: dict[str, Any], store: Path, tmp_path: Path) -> None:
    import shutil

    from _small_models import replaced
    from safetensors.torch import load_file, save_file

    from llmanac.lab.trials.decoding import DecodedModel

    other = tmp_path / "model"
    shutil.copytree(artefact, other)
    tensors = load_file(other / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * 1.5
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    replaced(other)
    assert DecodedModel.load(other).sha256 != DecodedModel.load(artefact).sha256
    found = ask("decoding", "greedy,top-k{k=5}", recipe, tmp_path / "s", store, artefact=other, seeds=1)
    assert not any(run["cached"] for run in found.data["runs"])


@pytest.mark.slow
def test_the_text_of_a_run_is_the_one_it_was_trained_on(recipe: dict[str, Any], store: Path, tmp_path: Path) -> None:
    import llmanac
    from llmanac.core.errors import DataError
    from llmanac.core.files import read_json, write_json

    asked = {**recipe, "name": "kept"}
    done = llmanac.run(
        asked, {"train.steps": 2, "model.max_length": 128, "evaluate.held_out_bytes": 90_000}, folder=tmp_path / "run"
    )
    arms, lines = "greedy,top-k{k=5}", []
    options = {"base": None, "artefact": done.folder, "seeds": 1}
    found = ask("decoding", arms, recipe, tmp_path / "a", store, **options, report=lines.append).data
    assert found["runs"] and "notes" not in found
    assert any(line.startswith("text: 3 held-out documents of files (paths = [") for line in lines)
    # -s changes the run's own text, and nothing that is not used
    with pytest.raises(DataError, match=r"run was trained on \d of the \d documents that are held out here"):
        ask("decoding", arms, recipe, tmp_path / "d", store, **options, patches=["seed=3"])
    with pytest.raises(SpecError, match=r"-s model\.dim: has no effect, because nothing is trained"):
        ask("decoding", arms, recipe, tmp_path / "d", store, **options, patches=["model.dim=999"])
    for artefact in (done.folder, done.folder / "model"):  # another split has documents that were trained on
        with pytest.raises(DataError, match=r"was trained on \d of the"):
            other = {**recipe, "seed": 3}
            ask("decoding", arms, other, tmp_path / "d", store, artefact=artefact, seeds=1)
    manifest = read_json(done.folder / "manifest.json")
    write_json(done.folder / "manifest.json", {**manifest, "held_out": {**manifest["held_out"], "sha256": "0"}})
    with pytest.raises(DataError, match=r"run: its text or its split is not what the model was trained on.*--base"):
        ask("decoding", arms, recipe, tmp_path / "b", store, **options)
    write_json(done.folder / "manifest.json", {**manifest, "train": {**manifest["train"], "sha256": "0"}})
    found = ask("decoding", arms, recipe, tmp_path / "c", store, **{**options, "base": recipe})
    assert "has changed since its training" in found.page.read_text()


def test_a_tuning_has_no_text_to_decode(recipe: dict[str, Any], store: Path, tmp_path: Path) -> None:
    (tmp_path / "taught").mkdir()
    stored = 'model = "small"\ntrained = ["*"]\n[rows]\nfile = "rows.jsonl"\n'
    (tmp_path / "taught" / "recipe.toml").write_text(stored)
    for options in ({"artefact": tmp_path / "taught", "base": None}, {"base": str(tmp_path / "taught")}):
        with pytest.raises(SpecError, match="taught: is a tuning, which has rows and no text to hold out; name a"):
            ask("decoding", "greedy,top-k{k=5}", recipe, tmp_path / "a", store, **options)


def test_what_is_trained_takes_no_artefact(recipe: dict[str, Any], store: Path, tmp_path: Path) -> None:
    with pytest.raises(
        SpecError, match=r"--artefact: is not used when .*quantizer, retriever, classifier, start take it"
    ):
        ask("position", "rope,none", recipe, tmp_path / "a", store, artefact="/nonexistent")


def test_distinct_counts_n_grams() -> None:
    from llmanac.lab.trials.decoding import distinct

    assert distinct([1, 2, 1, 2, 1, 2], 2) == 2 / 5
    assert distinct([1, 2, 3], 4) == 1.0 and distinct([1] * 8, 4) == 1 / 5


def test_quantizers_on_one_model_by_document(
    recipe: dict[str, Any], store: Path, tmp_path: Path, artefact: Path
) -> None:
    """Losses and KL are those of `divergence` by hand; the model as it is differs from itself in nothing."""
    import copy

    from llmanac.core.spec import make_method
    from llmanac.evaluate.divergence import divergence
    from llmanac.lab.trials.decoding import DecodedModel
    from llmanac.lab.trials.quantizing import texts_of
    from llmanac.models.load import load_model

    arms = "none,int8,ternary,gguf{type=q8_0},gguf{type=q4_0}"
    found = ask("quantizer", arms, recipe, tmp_path, store, artefact=artefact, budget="2m")
    assert found.data["replicate"] == "document" and found.data["hold"] is None
    kl, loss = found.values("kl"), found.values("loss")
    assert set(kl["none"]) == {0.0} and len(kl["int8"]) == found.data["data"]["items"] >= 2
    means = {arm: sum(some) / len(some) for arm, some in kl.items()}
    assert 0 < means["int8"] < means["gguf{type=q4_0}"] < means["ternary"]
    assert means["gguf{type=q8_0}"] < means["gguf{type=q4_0}"]
    costs = found.data["costs"]
    assert costs["none"]["bits"] == 32 and costs["gguf{type=q4_0}"]["bits"] < costs["gguf{type=q8_0}"]["bits"] < 32
    assert all(costs[arm]["decode_ratio_8"] > 0 for arm in kl)
    corpus = load_recipe(recipe, {}).spec.data.collect(0)
    subject = DecodedModel.load(artefact)
    texts = [d.text for d in sorted(corpus.held_out, key=lambda d: fraction(d.id, seed=1))]
    _, documents = texts_of(subject, list(corpus.train.texts()), texts, len(kl["int8"]))
    changed = copy.deepcopy(load_model(artefact, device="cpu"))
    make_method("quantizer", "int8").build().apply(changed)
    by_hand = [divergence(subject.model, changed, one) for one in documents]
    assert kl["int8"] == pytest.approx([one.kl for one in by_hand]) and loss["int8"] == pytest.approx(
        [one.after for one in by_hand]
    )
    page = found.page.read_text()
    assert f"of up to {max(one.ids.shape[1] for one in documents)} tokens" in page and "tokens a CPU second" in page
    assert "name: none → int8" in page and "targets: unset" not in page  # the axis' own fields are no differences


def test_quantizers_that_cannot_be_tried_are_refused_first(
    recipe: dict[str, Any], store: Path, tmp_path: Path, artefact: Path
) -> None:
    for arms, more, said in (
        ("none,int9", {"artefact": artefact}, "no quantizer named 'int9'; did you mean 'int8'?"),
        ("none,gguf{type=q5_0}", {"artefact": artefact}, "type"),
        ("none,int8{targets=[nothing]}", {"artefact": artefact}, "arm 'int8{targets=[nothing]}'"),
        ("none,int8", {}, "--artefact: a comparison of quantizers needs a finished model"),
    ):
        with pytest.raises(SpecError) as caught:
            ask("quantizer", arms, recipe, tmp_path, store, **more)
        assert said in str(caught.value)
