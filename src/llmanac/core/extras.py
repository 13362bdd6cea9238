"""Packages that a light installation lacks, and what to say where one is needed."""

import contextlib
from collections.abc import Iterator

from llmanac.core.errors import LlmanacError

TORCH = "uv pip install --torch-backend cpu 'llmanac[torch]'"
EXTRAS = {  # modules that a light one lacks
    "torch": "torch", "matplotlib": "plots", "PIL": "images", "pyarrow": "data",
    "tensorboard": "tracking", "wandb": "tracking", "mlflow": "tracking",
}  # fmt: skip


def needs(what: str, module: str) -> LlmanacError:
    """What to say where `what` needs a module of EXTRAS and it is not installed."""
    if module == "torch":
        return LlmanacError(f"`{what}` needs torch: `{TORCH}`, or see PyTorch's installation page")
    return LlmanacError(f"`{what}` needs {module}: pip install 'llmanac[{EXTRAS[module]}]'")


@contextlib.contextmanager
def naming(what: str) -> Iterator[None]:
    """Inside, a module of EXTRAS that cannot be imported is an error that says what to install for `what`."""
    try:
        yield
    except ImportError as error:
        module = (error.name or "").partition(".")[0]
        if module not in EXTRAS:
            raise
        if isinstance(error, ModuleNotFoundError):
            raise needs(what, module) from None
        raise LlmanacError(f"`{what}` needs a newer {module} than is installed ({error})") from error
