"""A model and its tokenizer in a Hugging Face family's own layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmanac.core.errors import CheckpointError, LlmanacError
from llmanac.core.files import atomic_folder
from llmanac.models.load import export_model, load_model
from llmanac.models.locate import locate
from llmanac.tokenizers.load import load_tokenizer


def convert(source: str, target: Path, family: str) -> Any:
    """Load `source` (a run's or model's folder, or a hub model), write the folder `target`; returns the model.

    Raises:
        LlmanacError: the target exists, or the model does not fit the family.
    """
    if target.exists() and any(target.iterdir() if target.is_dir() else [target]):
        raise LlmanacError(f"{target}: is there already; give a folder that does not exist")
    place, tokens = locate(source)
    model = load_model(place)
    tokenizer = load_tokenizer(tokens)
    with atomic_folder(target) as folder:
        try:
            export_model(model, folder, family=family)
        except CheckpointError as error:
            head = getattr(model.spec, "head", None)
            if head is None or head.name != "pointer":
                raise
            raise CheckpointError(
                f"{error}; only llmanac reads a pointer head: train with -s model.head=linear to export the model"
            ) from None
        tokenizer.save(folder)
    return model
