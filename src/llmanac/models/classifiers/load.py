"""Classifiers from disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from llmanac.core import files
from llmanac.core.errors import CheckpointError, DataError, LlmanacError, SpecError
from llmanac.core.spec import make_method
from llmanac.models.classifiers._base import FILE, FORMAT_VERSION


def load_classifier(folder: str | Path) -> Any:
    """The classifier that was saved in a folder.

    Raises:
        CheckpointError: no such folder, or files that are missing, damaged or of another format.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder; give one that `llmanac classify train` wrote")
    path = folder / FILE
    try:
        record = files.read_json(path)
    except DataError as error:
        raise CheckpointError(str(error)) from error
    if not isinstance(record, dict):
        raise CheckpointError(f"{path}: expected a table, got {type(record).__name__}")
    if record.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: format_version is {record.get('format_version')!r}, this llmanac reads {FORMAT_VERSION}"
        )
    labels = record.get("labels")
    if not isinstance(labels, list) or len(labels) < 2 or not all(isinstance(name, str) for name in labels):
        raise CheckpointError(f"{path}: labels is not a list of two or more names")
    try:
        classifier = make_method("classifier", record["spec"], "spec").build()
        classifier.labels = tuple(labels)
        classifier.read(folder, record)
    except KeyError as error:
        raise CheckpointError(f"{path}: {error.args[0]} is missing") from None
    except CheckpointError:
        raise
    except (SpecError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    except LlmanacError as error:
        raise CheckpointError(str(error)) from error
    return classifier


def read_tensors(path: Path) -> dict[str, Tensor]:
    """A safetensors file. Raises CheckpointError that names it."""
    try:
        return load_file(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a whole safetensors file ({error})") from error
