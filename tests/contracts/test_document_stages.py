"""Every stage that looks at documents one by one: nothing lost, nothing shared between them, the same each time."""

from __future__ import annotations

from typing import Any

import pytest
from _texts import made, real, repetitive

from llmanac.core import registry, spec
from llmanac.core.errors import DataError
from llmanac.data.documents import Document
from llmanac.data.quality_model import Features, train_quality
from llmanac.data.stages import Dropped, Stage

PAGE = "<html><body><h1>Head</h1><p>" + "Some words here. " * 20 + "</p></body></html>"


@pytest.fixture(scope="module")
def choices(tmp_path_factory) -> dict[str, dict[str, Any]]:
    """What a stage cannot be built without."""
    folder = tmp_path_factory.mktemp("quality") / "model"
    train_quality(["good text here"] * 3, ["bad bad bad"] * 3, Features(bits=10)).save(folder)
    return {"quality": {"model": str(folder)}}


def built(name: str, choices: dict[str, dict[str, Any]]) -> Stage:
    """The stage, or a skip where it is none of this sort, needs more than defaults, or a library is missing."""
    try:
        stage = registry.build("stage", name, **choices.get(name, {}))
    except (DataError, spec.SpecError) as error:
        pytest.skip(str(error))
    if not isinstance(stage, Stage):
        pytest.skip(f"{name} decides over a whole corpus")
    return stage


def documents() -> list[Document]:
    texts = real(12, longest=4000) + made(40, seed=2, longest=40) + repetitive(8, seed=1) + ["", " ", "\0", "a" * 5000]
    out = [Document(f"t{i}", text, f"g{i}", {"input": "made"}) for i, text in enumerate(texts)]
    return [*out, Document("page", PAGE, "p", {"format": "html"})]


def seen(found: Document | Dropped) -> tuple[Any, ...]:
    if isinstance(found, Dropped):
        return found.document.id, found.reason, found.detail
    return found.id, found.text, dict(found.meta)


@pytest.mark.parametrize("name", registry.methods("stage"))
def test_each_document_comes_out_once_in_order_and_alone(name: str, choices) -> None:
    stage, given = built(name, choices), documents()
    found = list(stage.apply(iter(given)))
    ids = [one.document.id if isinstance(one, Dropped) else one.id for one in found]
    assert ids == [document.id for document in given]
    again = built(name, choices)
    alone = [next(iter(again.apply([document]))) for document in reversed(given)]
    assert [seen(one) for one in reversed(alone)] == [seen(one) for one in found]
    for one, document in zip(found, given, strict=True):
        if isinstance(one, Dropped):
            assert one.reason and " " not in one.reason
            assert one.document.text == document.text
        else:
            assert one.group == document.group


@pytest.mark.parametrize("name", registry.methods("stage"))
def test_the_spec_comes_back_from_plain_data(name: str, choices) -> None:
    own = spec.make_method("stage", {"name": name, **choices.get(name, {})})
    assert spec.make_method("stage", spec.dump(own)) == own
