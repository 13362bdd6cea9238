"""An engine from a path: a run's folder, a model's folder, or the name of a hub model."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch

from llmanac.core.types import LanguageModel
from llmanac.generate.engine import Engine
from llmanac.models.locate import locate


def load_engine(
    path: str | Path, *, dtype: str | torch.dtype | None = None, device: str = "auto", rows: int = 32
) -> Engine:
    """Load model and tokenizer and make an engine. Raises CheckpointError or TokenizerError that names the file."""
    from llmanac.models.load import load_model
    from llmanac.tokenizers.load import load_tokenizer

    model, tokenizer = locate(path)
    loaded = cast(LanguageModel, load_model(model, dtype=dtype, device=device))
    return Engine(loaded, load_tokenizer(tokenizer), rows=rows)
