"""Silent faults of fine-tuning, found in what trainers read and write: rows, models, adapters, checkpoints.

A rule is a function of an artefact (`rows.py`, `weights.py`); `rules.toml` has what it says.
docs/specialize.md lists the published threads behind them.
"""

from pathlib import Path

from llmanac.adapters.load import CONFIG as ADAPTER
from llmanac.core.errors import DataError
from llmanac.models.locate import GGUF, locate
from llmanac.recipes.linting import rows, weights
from llmanac.recipes.linting.weights import TABLE, LintedArtefact, LintFinding, applied
from llmanac.tokenizers.load import load_tokenizer

__all__ = ["CHECKS", "TABLE", "LintFinding", "lint"]

CHECKS = rows.ROWS | rows.TOKENS | weights.MODELS | weights.ADAPTERS | weights.CHECKPOINTS


def lint(
    place: str, *, model: str | None = None, held_out: str | None = None, length: int | None = None
) -> list[LintFinding]:
    """What is wrong with an artefact.

    Args:
        place: a file of rows, a model's folder or .gguf file, an adapter's folder, or a trainer's checkpoint.
        model: of rows: whose tokenizer and chat template read them; of an adapter: its base.
        held_out: of rows: a file of rows that must not be among them.
        length: of rows: the tokens of a row that training keeps; by default what the model reads.

    Raises:
        DataError: no such file or folder, or nothing in it that is known.
    """
    path = Path(place)
    if path.is_file() and path.suffix != GGUF:
        return _rows(path, model, held_out, length)
    if not path.exists():
        raise DataError(f"{place}: no such file or folder")
    if path.is_dir() and not (path / ADAPTER).is_file() and (path / "model" / ADAPTER).is_file():
        path = path / "model"  # of a tuning
    found, trained = list[LintFinding](), (path / weights.STATE).is_file()
    if (path / ADAPTER).is_file():
        found += applied(weights.ADAPTERS, weights.opened_adapter(path, model))
    elif path.is_file() or Path(path if trained else locate(path)[0], "config.json").is_file():
        stored = weights.opened(*locate(path))
        if not stored.places and not trained:
            raise DataError(f"{place}: holds no weights in .safetensors (a .bin file is a pickle, which is not read)")
        found += applied(weights.MODELS, stored)
    elif not trained:
        raise DataError(f"{place}: holds no rows, no config.json, no {ADAPTER} and no {weights.STATE}")
    return found + applied(weights.CHECKPOINTS, LintedArtefact(path)) if trained else found


def _rows(path: Path, model: str | None, held_out: str | None, length: int | None) -> list[LintFinding]:
    tokenizer, size = None, None
    if model is not None:
        where, words = locate(model)
        tokenizer, read = load_tokenizer(words), weights.opened(where, words)
        size, length = read.size, length or read.config.get("max_position_embeddings")
    asked = rows.opened(path, tokenizer, length, held_out)
    if all("input_ids" in values for _, values in asked.rows):
        return applied(rows.TOKENS, rows.TokenizedRows(path, asked.rows, tokenizer, size))
    return applied(rows.ROWS, asked)
