"""Silent faults of fine-tuning, found in what trainers read and write: rows, models, adapters, checkpoints.

A rule is a function of one artefact that yields what it found (`rows.py`, `tokens.py`, `models.py`, `adapters.py`); the
table of all is `RULES`. docs/specialize.md lists the published threads behind them.
"""

from __future__ import annotations

from pathlib import Path

from llmanac.adapters.load import CONFIG as ADAPTER
from llmanac.core.errors import DataError
from llmanac.core.files import read_table
from llmanac.models.locate import GGUF, locate
from llmanac.recipes.linting import adapters, models, rows, tokens
from llmanac.recipes.linting.rules import Found, Rule, applied
from llmanac.tokenizers.load import load_tokenizer

__all__ = ["RULES", "Found", "Rule", "lint"]

RULES: tuple[Rule, ...] = (
    *rows.RULES, *tokens.RULES, *models.RULES, *adapters.RULES, *adapters.OF_CHECKPOINTS,
)  # fmt: skip


def lint(
    place: str, *, model: str | None = None, held_out: str | None = None, length: int | None = None
) -> list[Found]:  # fmt: skip
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
    found: list[Found] = []
    known = path.is_file()
    if (path / ADAPTER).is_file():
        found += applied(adapters.RULES, adapters.opened(path, model))
        known = True
    elif path.is_file() or Path(locate(path)[0], "config.json").is_file():
        found += applied(models.RULES, models.opened(*locate(path)))
        known = True
    if (path / adapters.STATE).is_file():
        found += applied(adapters.OF_CHECKPOINTS, adapters.Checkpoint(path, read_table(path / adapters.STATE)))
        known = True
    if not known:
        raise DataError(f"{place}: holds no rows, no config.json, no {ADAPTER} and no {adapters.STATE}")
    return found


def _rows(path: Path, model: str | None, held_out: str | None, length: int | None) -> list[Found]:
    tokenizer, size, longest = None, None, length
    if model is not None:
        where, words = locate(model)
        tokenizer = load_tokenizer(words)
        read = models.opened(where, words)
        size = read.size
        longest = length or read.config.get("max_position_embeddings")
    asked = rows.opened(path, tokenizer, longest, held_out)
    if asked.rows and all("input_ids" in values for _, values in asked.rows):
        return applied(tokens.RULES, tokens.Tokens(path, asked.rows, tokenizer, size))
    return applied(rows.RULES, asked)
