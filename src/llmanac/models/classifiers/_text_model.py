"""The language model of fine-tuning and prompting, with its tokenizer and its folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmanac.core.errors import CheckpointError, SpecError
from llmanac.models.load import load_model
from llmanac.models.pairs import start_token
from llmanac.tokenizers.load import load_tokenizer

MODEL = "model"  # the folder of a saved classifier that holds its language model and tokenizer


def start_id(tokenizer: Any) -> int:
    """The token before a text: bos, else eos. Raises SpecError for a tokenizer with neither."""
    found = start_token(tokenizer)
    if found is None:
        raise SpecError("tokenizer: has neither a bos nor an eos token to start a text with; give it one of them")
    return found


def open_model(model: Any, tokenizer: Any, path: str | None) -> tuple[Any, Any, str | None]:
    """`(language model, tokenizer, the path they came from)`, given as objects or by the path of a model's folder.

    Raises:
        SpecError: neither or only one of the objects, or vocabularies that do not fit.
    """
    if (model is None) != (tokenizer is None):
        raise SpecError("model: give the language model together with its tokenizer")
    if model is None:
        if path is None:
            return None, None, None
        model, tokenizer = load_model(path, device="cpu"), load_tokenizer(path)
    if tokenizer.vocab_size > model.vocab_size:
        raise SpecError(
            f"tokenizer: has {tokenizer.vocab_size} tokens, the language model only {model.vocab_size}; they do not fit"
        )
    return model, tokenizer, path


def need(model: Any, name: str) -> Any:
    """The model. Raises SpecError where a classifier was built without one."""
    if model is None:
        raise SpecError(
            f"{name}: needs a language model; build it with model= and tokenizer=, or set `path` to its folder"
        )
    return model


def write_model(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write model and tokenizer below a classifier's folder. Raises CheckpointError where it cannot be saved."""
    if not hasattr(model, "save_pretrained"):
        raise CheckpointError(f"{type(model).__name__}: this language model cannot be saved, so the classifier cannot")
    target = folder / MODEL
    target.mkdir()
    model.save_pretrained(target)
    tokenizer.save(target)


def read_model(folder: Path, record: Mapping[str, Any]) -> tuple[Any, Any]:
    """Model and tokenizer of a saved classifier, in float32 or as they were saved in float64."""
    target = folder / MODEL
    return load_model(target, dtype=record.get("dtype"), device="cpu"), load_tokenizer(target)
