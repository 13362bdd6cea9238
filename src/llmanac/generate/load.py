"""An engine from a path: a run's folder, a model's folder, or the name of a hub model."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch

from llmanac.core import files, registry
from llmanac.core.errors import CheckpointError, DataError, SpecError
from llmanac.core.types import LanguageModel
from llmanac.generate.answers import Assistant
from llmanac.generate.engine import Engine

ASSISTANT = "assistant"  # the folder in a run that holds its assistant


def locate(path: str | Path) -> tuple[str, str]:
    """Where a run or model keeps its model and its tokenizer: `(model, tokenizer)`.

    A run has `model/` (or, while it is not finished, `base/`) and `tokenizer/`; a model's folder holds both. In a run
    with an assistant, `model/` only points at lines of documentation: text is continued by `base/`. A name that is no
    folder is a hub model.

    Raises:
        CheckpointError: a folder with neither.
    """
    folder = Path(path)
    if not folder.is_dir():
        if folder.suffix in (".arpa", ".bin", ".gz") and folder.is_file():
            raise CheckpointError(
                f"{path}: is a file of words; a model that generates counts tokens and is a folder, as "
                "`llmanac ngram train TEXT --tokenizer TOKENIZER -o FOLDER` makes it"
            )
        if folder.exists() or str(path).startswith((".", "/", "~")) or str(path).count("/") > 1:
            raise CheckpointError(f"{path}: no such folder; give a run's folder (runs/NAME), or a model's")
        return str(path), str(path)
    for name in ("base", "model") if (folder / ASSISTANT).is_dir() else ("model", "base"):
        model = folder / name
        if (model / "config.json").exists():
            own = (model / "tokenizer.json").exists()
            return str(model), str(model if own else folder / "tokenizer")
    if not (folder / "config.json").exists():
        raise CheckpointError(f"{path}: neither a finished run (model/config.json) nor a model (config.json)")
    return str(folder), str(folder)


def load_engine(
    path: str | Path, *, dtype: str | torch.dtype | None = None, device: str = "auto", rows: int = 32
) -> Engine:
    """Load model and tokenizer and make an engine. Raises CheckpointError or TokenizerError that names the file."""
    from llmanac.models.load import load_model
    from llmanac.tokenizers.load import load_tokenizer

    model, tokenizer = locate(path)
    loaded = cast(LanguageModel, load_model(model, dtype=dtype, device=device))
    return Engine(loaded, load_tokenizer(tokenizer), rows=rows)


def load_assistant(path: str | Path, engine: Engine) -> Assistant | None:
    """The assistant that a run left in its folder; None where it has none.

    `assistant/assistant.json` names its application; in runs of earlier versions the recipe in `run.json` does.

    Args:
        engine: the run's own, which continues text; its device serves the assistant too.

    Raises:
        CheckpointError: a damaged assistant or model, by its file.
    """
    folder = Path(path)
    place = folder / ASSISTANT / "assistant.json"
    if not place.parent.is_dir():
        return None
    try:
        name = (
            files.read_table(place).get("app") or files.read_table(folder / "run.json")["recipe"]["finetune"]["pairs"]
        )
        application = registry.application(name)
    except (DataError, SpecError, KeyError, TypeError) as error:
        raise CheckpointError(f"{place}: cannot be read ({error}); this run has no assistant") from None
    return cast(Assistant, application.assistant(folder, engine))
