"""Fast paths; tests compare each with its plain form."""

from importlib.metadata import version

from llmanac.core.errors import LlmanacError

OLDEST = "0.60"  # numba's first release that compiles all kernels, as pyproject.toml asks for it

if [int(part) for part in version("numba").split(".")[:2]] < [int(part) for part in OLDEST.split(".")]:
    raise LlmanacError(f"numba {version('numba')} is too old to compile the kernels: pip install 'numba>={OLDEST}'")
