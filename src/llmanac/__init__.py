"""llmanac: the almanac of language-model methods that runs.

Public names are imported on first use, so `import llmanac` is fast and listing methods never imports torch.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Waiting threads sleep. By default they spin, and on a busy machine a step then waits until spinning threads give up
# their core. torch reads the variable when it is loaded, so it is set first.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_PUBLIC = {
    "LlmanacError": "llmanac.core.errors",
    "load_model": "llmanac.models.load",
    "save_model": "llmanac.models.save",
    "load_tokenizer": "llmanac.tokenizers.load",
    "train_tokenizer": "llmanac.tokenizers.load",
    "train_classifier": "llmanac.recipes.classification",
    "build": "llmanac.core.registry",
    "Engine": "llmanac.generate.engine",
    "run": "llmanac.recipes.run",
    "compare": "llmanac.lab.compare",
    "score": "llmanac.evaluate.score",
    "classify": "llmanac.evaluate.classify",
    "Corrector": "llmanac.evaluate.correct",
    "embed": "llmanac.evaluate.embed",
    "verdict": "llmanac.evaluate.verdict.judged",
    **dict.fromkeys(("align", "ask", "distill", "index", "merge", "quantize", "specialize", "tune"), "llmanac.api"),
}
_CALLED = ("evaluate", "generate")  # packages that are called like the functions of these names in `api`

if TYPE_CHECKING:
    from llmanac.api import align, ask, distill, evaluate, generate, index, merge, quantize, specialize, tune
    from llmanac.core.errors import LlmanacError
    from llmanac.core.registry import build
    from llmanac.evaluate.classify import classify
    from llmanac.evaluate.correct import Corrector
    from llmanac.evaluate.embed import embed
    from llmanac.evaluate.score import score
    from llmanac.evaluate.verdict.judged import verdict
    from llmanac.generate.engine import Engine
    from llmanac.lab.compare import compare
    from llmanac.models.load import load_model
    from llmanac.models.save import save_model
    from llmanac.recipes.classification import train_classifier
    from llmanac.recipes.run import run
    from llmanac.tokenizers.load import load_tokenizer, train_tokenizer

__all__ = [
    "Corrector", "Engine", "LlmanacError", "align", "ask", "build", "classify", "compare", "distill", "embed",
    "evaluate", "generate", "index", "load_model", "load_tokenizer", "merge", "quantize", "run", "save_model",
    "score", "specialize", "train_classifier", "train_tokenizer", "tune", "verdict",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        from llmanac.core.extras import naming

        with naming(f"llmanac.{name}"):
            return getattr(importlib.import_module(_PUBLIC[name]), name)
    if name in _CALLED:
        return importlib.import_module(f"llmanac.{name}")
    raise AttributeError(f"module 'llmanac' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC, *_CALLED])
