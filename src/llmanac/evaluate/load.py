"""A benchmark by its name, or from a file: a .toml file, or a task of lm-eval."""

from pathlib import Path

from llmanac.core import registry
from llmanac.core.errors import SpecError, nearest, shown
from llmanac.core.files import read_toml
from llmanac.evaluate.benchmark import Benchmark
from llmanac.evaluate.lm_eval_task import read_task

FOLDER = Path(__file__).parent / "benchmarks"


def files_of() -> dict[str, Path]:
    """The file of each benchmark that comes with llmanac, or with another distribution (see `core/registry.py`)."""
    places = [*(root / "benchmark" for root in registry.packages().values()), FOLDER]
    return {path.stem: path for place in places for path in sorted(place.glob("*.toml"))}


def names() -> list[str]:
    """The benchmarks that are known by name."""
    return sorted(files_of())


def load_benchmark(name: str | Path) -> tuple[str, Benchmark]:
    """`(name, benchmark)` of one that comes with llmanac, or of a .toml file, or of an lm-eval task (.yaml).

    Raises:
        SpecError: no such benchmark, or a key that is not known; it names the file and the key.
        DataError: a file that cannot be read.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return path.stem, read_task(path)
    if path.suffix != ".toml":
        if str(name) not in names():
            raise SpecError(
                f"benchmark: {shown(str(name))} is not known{nearest(str(name), names())} (known: "
                f"{', '.join(names())}; a path to a .toml file names your own)"
            )
        path = files_of()[str(name)]
    try:
        return path.stem, Benchmark.from_data(read_toml(path))
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from None
