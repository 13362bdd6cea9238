"""Classifiers from disk."""

from pathlib import Path
from typing import Any

from torch import Tensor

from llmanac.core import files
from llmanac.core.errors import CheckpointError, LlmanacError, SpecError
from llmanac.core.spec import make_method
from llmanac.models.classifiers._explain import explain_by_leaving_out as explain_by_leaving_out
from llmanac.models.weights import Weights, check_finite

FORMAT_VERSION = 1
FILE, WEIGHTS = "classifier.json", "model.safetensors"


def load_classifier(folder: str | Path) -> Any:
    """The classifier that was saved in a folder.

    Raises:
        CheckpointError: no such folder, or files that are missing, damaged or of another format.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder; give one that `llmanac classify train` wrote")
    path = folder / FILE
    record = files.read_table(path, error=CheckpointError)
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
    """The weights in a safetensors file. Raises CheckpointError that names it, and the tensor that is not sound."""
    weights = Weights(path.parent, file=path.name)
    found = {name: weights.take(name).clone() for name in weights.entries}
    for name, tensor in found.items():
        check_finite(tensor, tensor, weights.entries[name], name)
    return found
