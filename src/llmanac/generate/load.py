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
from llmanac.models.locate import ASSISTANT, locate


def load_engine(
    path: str | Path,
    *,
    dtype: str | torch.dtype | None = None,
    device: str = "auto",
    rows: int = 32,
    runner: str = "torch",
) -> Engine:
    """Load model and tokenizer and make an engine. Raises CheckpointError or TokenizerError that names the file.

    Args:
        runner: see `Engine`; RequestError where it cannot run the model.
    """
    from llmanac.models.load import load_model
    from llmanac.tokenizers.load import load_tokenizer

    model, tokenizer = locate(path)
    loaded = cast(LanguageModel, load_model(model, dtype=dtype, device=device))
    return Engine(loaded, load_tokenizer(tokenizer), rows=rows, runner=runner)


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
