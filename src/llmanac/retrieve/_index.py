"""An index on disk: `index.json` (format, Spec, vocabulary) and `index.safetensors` (its arrays)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import safetensors
import safetensors.numpy

from llmanac.core import files
from llmanac.core.errors import CheckpointError, DataError
from llmanac.core.spec import Spec, dump, make

VERSION = 1
S = TypeVar("S", bound=Spec)


def save_index(
    folder: str | Path, format: str, spec: Spec, arrays: Mapping[str, np.ndarray], data: Mapping[str, Any]
) -> None:
    """Write an index's two files; the folder is written completely or not at all."""
    content = {"format": format, "format_version": VERSION, "spec": dump(spec), **data}
    with files.atomic_folder(folder) as temporary:
        files.write_json(temporary / "index.json", content, indent=None)
        tensors = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        files.write_bytes(temporary / "index.safetensors", safetensors.numpy.save(tensors))


def load_index(folder: str | Path, format: str, spec: type[S]) -> tuple[S, dict[str, np.ndarray], dict[str, Any]]:
    """`(spec, arrays, other data)` of a saved index.

    Raises:
        CheckpointError: a file is missing or damaged, or the index is of another kind or a later version.
    """
    folder = Path(folder)
    try:
        data = files.read_table(folder / "index.json")
        files.open_regular(folder / "index.safetensors").close()
        arrays = safetensors.numpy.load_file(folder / "index.safetensors")
    except DataError as error:
        raise CheckpointError(f"{error}; build the index again") from None
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{folder / 'index.safetensors'}: damaged ({error}); build the index again") from None
    if data.get("format") != format:
        raise CheckpointError(
            f"{folder / 'index.json'}: an index of format {data.get('format')!r}, expected {format!r}"
        )
    if data.get("format_version", 0) > VERSION:
        raise CheckpointError(
            f"{folder / 'index.json'}: written by a later version of llmanac; update llmanac to read it"
        )
    return make(spec, data["spec"], "spec"), arrays, data
