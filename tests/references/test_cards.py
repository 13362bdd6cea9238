"""The README.md of a model's folder against the hub's own reader, and models from the hub's cache by name."""

from __future__ import annotations

import pytest
import torch
from _small_models import transformer
from huggingface_hub import ModelCard

from llmanac import load_model, load_tokenizer
from llmanac.adapters.load import save_adapter
from llmanac.core.errors import CheckpointError
from llmanac.core.registry import build
from llmanac.core.spec import make_method
from llmanac.models.card import metadata, write_card
from llmanac.models.locate import fetched
from llmanac.models.save import export_model, save_model
from llmanac.tokenizers.load import train_tokenizer


def read(folder):
    card = ModelCard.load(folder / "README.md")
    assert card.text.strip().startswith("# ")
    return card.data


def test_the_block_is_read_by_the_hub_with_what_the_model_is(tmp_path):
    own = transformer(blocks=[{"name": "pre-norm", "mixer": "min-gru", "ffn": "none"}], position="none")
    save_model(own, tmp_path / "own")
    export_model(transformer(), tmp_path / "llama", "llama")
    assert read(tmp_path / "own").to_dict() == {
        "library_name": "llmanac", "pipeline_tag": "text-generation", "tags": ["llmanac"],
    }  # fmt: skip
    found = read(tmp_path / "llama")
    assert (found.library_name, found.tags, found.base_model) == ("transformers", ["llmanac", "llama"], None)


def test_scores_are_evaluation_results_and_what_was_there_stays(tmp_path):
    save_model(transformer(), tmp_path / "model")
    before = read(tmp_path / "model")
    write_card(tmp_path / "model", "# better", [("held-out rows", "accuracy", 0.75)], license="mit")
    found = read(tmp_path / "model")
    (result,) = found.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_name) == ("accuracy", 0.75, "held-out rows")
    assert found.license == "mit" and found.tags == before.tags and found.library_name == before.library_name
    save_model(transformer(), tmp_path / "model")  # over itself: its licence stays
    after = read(tmp_path / "model")  # and what was measured of the other weights does not
    assert after.license == "mit" and after.eval_results is None


def test_a_readme_of_somebody_else_is_left_alone(tmp_path):
    for text in ("# mine\n", "---\nlicense: mit\n---\n# mine\n", "---\n", "\xff\n---\n"):
        (tmp_path / "README.md").write_text(text)
        save_model(transformer(), tmp_path)
        assert (tmp_path / "README.md").read_text() == text
    assert metadata(tmp_path) == {}


def test_adapters_and_classifiers_say_what_they_are(tmp_path):
    save_model(transformer(), tmp_path / "base")
    write_card(tmp_path / "base", "# base", license="mit", base_model="owner/name")
    model = load_model(tmp_path / "base", device="cpu")
    save_adapter(make_method("adapter", "lora").build(seed=0).apply(model), tmp_path / "adapter")
    found = read(tmp_path / "adapter")
    assert (found.library_name, found.tags, found.license) == ("peft", ["llmanac", "lora"], "mit")
    assert found.base_model == "owner/name"
    save_adapter(make_method("adapter", "lora").build(seed=0).apply(transformer()), tmp_path / "base")
    assert read(tmp_path / "base").library_name != "peft"  # a model's folder keeps its own card
    texts, labels = ["good film", "bad film"] * 4, ["yes", "no"] * 4
    build("classifier", "bow").fit(texts, labels).save(tmp_path / "classifier")
    assert read(tmp_path / "classifier").pipeline_tag == "text-classification"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A hub's cache made by hand: two revisions of owner/name, the second one `main`."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    place = tmp_path / "hub" / "models--owner--name"
    (place / "refs").mkdir(parents=True)
    models = {}
    for number, (commit, ref) in enumerate((("a" * 40, "v1"), ("b" * 40, "main"))):
        folder = place / "snapshots" / commit
        model = transformer()
        with torch.no_grad():
            model.lm_head.weight.add_(number)
        export_model(model, folder, "llama")
        train_tokenizer("utf8", []).save(folder)
        (folder / "README.md").write_text("---\nlicense: apache-2.0\nlanguage:\n- en\n---\n# theirs\n")
        (place / "refs" / ref).write_text(commit)
        models[ref] = model
    return models


def test_a_model_is_loaded_by_name_and_revision_from_the_cache(cache, tmp_path):
    for name, ref in (("owner/name", "main"), ("owner/name@v1", "v1"), ("owner/name@" + "b" * 40, "main")):
        model = load_model(name, dtype="float64", device="cpu")
        assert torch.equal(model.lm_head.weight, cache[ref].lm_head.weight), name
        assert load_tokenizer(fetched(name)[1]).encode("a") == train_tokenizer("utf8", []).encode("a")
        save_model(model, tmp_path / ref)
        found = read(tmp_path / ref)
        assert found.base_model == "owner/name" and found.license == "apache-2.0"
    assert not torch.equal(cache["main"].lm_head.weight, cache["v1"].lm_head.weight)


def test_what_was_made_of_a_cached_folder_names_it(cache, tmp_path):
    folder = tmp_path / "hub" / "models--owner--name" / "snapshots" / ("a" * 40)
    save_model(load_model(folder, device="cpu"), tmp_path / "one")
    save_model(load_model(tmp_path / "one", device="cpu"), tmp_path / "two")
    for place in ("one", "two"):
        assert (read(tmp_path / place).base_model, read(tmp_path / place).license) == ("owner/name", "apache-2.0")


@pytest.mark.parametrize("name", ["owner/other", "owner/name@v2"])
def test_a_model_that_is_not_in_the_cache_is_refused_with_what_to_do(name, cache):
    with pytest.raises(CheckpointError, match=rf"^{name}: .*HF_HUB_OFFLINE is set; unset it, or `hf download owner/"):
        load_model(name)
