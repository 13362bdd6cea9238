"""The small files of a model's folder, read within bounds: config.json, llmanac.json, generation_config.json."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from llmanac import __version__
from llmanac.core import files
from llmanac.core.errors import CheckpointError, SpecError, shown
from llmanac.core.spec import dump, make_method

FORMAT_VERSION = 1
CONFIG, RECORD, GENERATION = "config.json", "llmanac.json", "generation_config.json"
SUMS = "sha256"  # the field of llmanac.json with the checksum of each file of weights
TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")
FORCED = ("forced_bos_token_id", "forced_eos_token_id")  # of an encoder-decoder's answers
MOST = (1 << 31) - 1  # of a size or an id: no tensor that a file could hold has more rows
LEAST, LARGEST = 1.2e-38, 3.4e38  # what float32 holds in full
TRAINED = "original_max_position_embeddings"  # of a scaling of rotary positions


def read_table(path: Path) -> dict[str, Any]:
    """A JSON object of settings. Raises CheckpointError that names the file."""
    return files.read_table(path, most=files.MOST_SETTINGS, error=CheckpointError)


def record_of(model: Any, sums: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What llmanac.json says of a model; `sums`: the checksums of its files."""
    record = {"format_version": FORMAT_VERSION, "llmanac_version": __version__, "vocab_size": model.vocab_size}
    return {**record, "spec": dump(model.spec), **({} if sums is None else {SUMS: dict(sums)})}


def read_record(folder: Path, most_blocks: int | None = None, *, kind: str = "lm") -> tuple[Any, int]:
    """`(Spec, vocabulary size)` of llmanac.json.

    Args:
        most_blocks: how many blocks it may list; each of them has a tensor in the file.
        kind: of the model. One of images may have no vocabulary.

    Raises:
        CheckpointError: it is missing or damaged, or of another version; the message names the field.
    """
    path = folder / RECORD
    record = read_table(path)
    version = record.get("format_version")
    if version != FORMAT_VERSION:
        raise CheckpointError(f"{path}: format_version is {shown(version)}, this llmanac reads {FORMAT_VERSION}")
    for key in ("spec", "vocab_size"):
        if key not in record:
            raise CheckpointError(f"{path}: {key} is missing")
    spec, size = record["spec"], record["vocab_size"]
    if not isinstance(spec, (dict, str)):
        raise CheckpointError(f"{path}: spec is {shown(spec)}, expected a table")
    least = 1 if kind == "lm" else 0
    if type(size) is not int or not least <= size <= MOST:
        raise CheckpointError(f"{path}: vocab_size is {shown(size)}, expected a whole number from {least} to {MOST:,}")
    blocks = spec.get("blocks") if isinstance(spec, dict) else None
    if most_blocks is not None and isinstance(blocks, list) and len(blocks) > most_blocks:
        raise CheckpointError(
            f"{path}: spec.blocks lists {len(blocks):,} blocks, the files hold {most_blocks:,} tensors"
        )
    try:
        return make_method(kind, spec, "spec"), size
    except SpecError as error:
        raise CheckpointError(f"{path}: {error}") from error


def sums_of(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """`{file: SHA-256}` of these files of a folder."""
    return {name: files.file_sha256(folder / name) for name in names}


def read_sums(folder: Path) -> dict[str, Any]:
    """`{file: SHA-256}` of llmanac.json, empty where there is none. Raises CheckpointError where it is damaged."""
    path = folder / RECORD
    sums = read_table(path).get(SUMS, {}) if path.exists() else {}
    if not isinstance(sums, dict):
        raise CheckpointError(f"{path}: {SUMS} is {shown(sums)}, expected a table; remove the field")
    return sums


def read_generation(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """generation_config.json, with the special ids that only config.json may have; without it, with the forced ones.

    Raises:
        CheckpointError: ids that are none, or a value that could not be written again.
    """
    path = folder / GENERATION
    own = read_table(path) if path.exists() else {key: config.get(key) for key in FORCED}
    found: dict[str, Any] = {}
    for file, table in ((folder / CONFIG, {key: config.get(key) for key in TOKENS}), (path, own)):
        for key, value in table.items():
            if value is None:
                continue
            if key in (*TOKENS, *FORCED) and not all(map(_is_id, value if isinstance(value, list) else [value])):
                raise CheckpointError(f"{file}: {key} is {shown(value)}, expected the id of a token")
            found[key] = value
    for key, value in found.items():
        try:
            json.dumps(value, allow_nan=False)
        except ValueError:
            raise CheckpointError(f"{path}: {shown(key)} holds NaN or infinity, which are no JSON; remove it") from None
    return found


def _is_id(value: Any) -> bool:
    return type(value) is int and -1 <= value <= MOST  # some files have -1 for none
