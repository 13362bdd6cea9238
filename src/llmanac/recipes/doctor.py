"""What this machine has and how fast it really is, and what is missing for which use."""

import importlib.metadata
import importlib.util
import shutil
from typing import Any

from packaging.requirements import Requirement

from llmanac import __version__
from llmanac.core import device
from llmanac.core.extras import TORCH
from llmanac.core.threads import threads

# what each extra of the distribution is for; those that only tests and benchmarks need are left out
USES = {
    "": "any command",
    "torch": "training, tuning, and models that are no Llama-shaped GGUF files",
    "plots": "charts on pages",
    "images": "pictures",
    "data": "web pages, PDF, office files, Parquet, and the languages of texts",
    "tracking": "trackers of a run: TensorBoard, Weights & Biases, MLflow",
    "guide": "formulas and the schedule of exercises in the guide",
    "yaml": "task files of lm-eval",
    "logs": "compressed logs of Inspect",
    "reasoning-gym": "the reward reasoning-gym",
    "stores": "paths of object stores, such as s3://bucket/place",
    "ray": "llmanac ... --engine ray",
}


def examine() -> dict[str, Any]:
    """Versions, cores, instruction sets, measured matrix-product rates and bandwidth, and what is missing."""
    from llmanac.sandbox.pool import describe

    disk = shutil.disk_usage(".")
    found = {
        "versions": {"llmanac": __version__, **versions()},
        "machine": device.machine(),
        "disk_free_bytes": disk.free,
        "text": text_path(),
        "cxx_compiler": compiler(),
        "sandbox": describe(),
        "missing": missing(),
        "notes": notes(disk.free),
    }
    return found | (rates() if importlib.util.find_spec("torch") else {})


def rates() -> dict[str, Any]:
    """Where and in what dtype models compute, and how fast."""
    import torch

    chosen = device.resolve_device("auto")
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    return {
        "device": str(chosen),
        "dtype": str(device.resolve_dtype("auto", chosen)).removeprefix("torch."),
        "gemm_flops": {name: device.measure_gemm(dtype, chosen) for name, dtype in dtypes.items()},
        "read_bytes_per_second": device.measure_bandwidth(chosen),
    }


def _requirements() -> list[tuple[str, Requirement]]:
    """The packages that the distribution names, each with the extra that needs it (`""`: it always does)."""
    found = []
    for text in importlib.metadata.requires("llmanac") or ():
        needed = Requirement(text)
        for extra in USES:
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                found.append((extra, needed))
                break
    return found


def versions() -> dict[str, str | None]:
    """Of the packages that uses need, those that are installed."""
    return {needed.name: _version(needed.name) for _, needed in _requirements() if needed.name != "llmanac"}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def missing() -> list[dict[str, Any]]:
    """Each use that lacks packages, or has older ones than it needs, and what to type."""
    found: dict[str, list[str]] = {}
    for extra, needed in _requirements():
        has = _version(needed.name)
        if has is None or not needed.specifier.contains(has, prereleases=True):
            found.setdefault(extra, []).append(f"{needed.name}{needed.specifier}" + (f" (is {has})" if has else ""))
    return [
        {"use": USES[extra], "packages": names, "install": TORCH if extra == "torch" else
         f"pip install 'llmanac[{extra}]'" if extra else
         f"pip install {' '.join(repr(name.partition(' ')[0]) for name in names)}"}
        for extra, names in found.items()
    ]  # fmt: skip


def text_path() -> dict[str, Any]:
    """What tokenizers and text kernels use: threads, vectors that code is compiled for, where compiled code is kept."""
    from llvmlite import binding as llvm

    from llmanac.kernels import cache

    has = llvm.get_host_cpu_features()
    widths = ((512, ("avx512bw",)), (256, ("avx2",)), (128, ("sse2", "neon")))
    bits = next((bits for bits, names in widths if any(has.get(name) for name in names)), 64)
    return {"threads": threads(), "vector_bits": bits, "compiled_code": str(cache.folder())}


def compiler() -> str | None:
    """The C++ compiler that torch.compile would use, if there is one."""
    return device.cxx_compiler()


def notes(disk_free: int) -> list[str]:
    """One sentence for each thing that is no package, is missing, and what it costs."""
    out = []
    if compiler() is None:
        out.append("No C++ compiler: torch.compile is off, training runs uncompiled (install g++ or set CXX for it).")
    if disk_free < 2 << 30:
        out.append(f"Only {disk_free / 1e9:.1f} GB of disk are free here; runs keep several checkpoints.")
    return out
