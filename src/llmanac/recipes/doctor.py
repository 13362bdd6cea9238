"""What this machine has and how fast it really is, and what would be missing for which command."""

from __future__ import annotations

import importlib.metadata
import shutil
from typing import Any

import torch

from llmanac import __version__
from llmanac.core import device
from llmanac.core.threads import threads
from llmanac.sandbox.pool import describe

PACKAGES = ("torch", "numpy", "numba", "safetensors", "huggingface_hub", "pyarrow", "fastapi", "transformers")


def examine() -> dict[str, Any]:
    """Versions, cores, instruction sets, measured matrix-product rates and bandwidth, and notes on what is missing."""
    versions: dict[str, str | None] = {"llmanac": __version__}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    chosen = device.resolve_device("auto")
    rates = {
        name: device.measure_gemm(dtype, chosen)
        for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16))
    }
    disk = shutil.disk_usage(".")
    return {
        "versions": versions,
        "machine": device.machine(),
        "device": str(chosen),
        "dtype": str(device.resolve_dtype("auto", chosen)).removeprefix("torch."),
        "gemm_flops": rates,
        "read_bytes_per_second": device.measure_bandwidth(chosen),
        "disk_free_bytes": disk.free,
        "text": text_path(),
        "cxx_compiler": compiler(),
        "sandbox": describe(),
        "notes": notes(versions, disk.free),
    }


def text_path() -> dict[str, Any]:
    """What tokenizers and text kernels use: threads, vectors that code is compiled for, where compiled code is kept."""
    from llvmlite import binding as llvm

    from llmanac.kernels import _cache

    has = llvm.get_host_cpu_features()
    widths = ((512, ("avx512bw",)), (256, ("avx2",)), (128, ("sse2", "neon")))
    bits = next((bits for bits, names in widths if any(has.get(name) for name in names)), 64)
    return {"threads": threads(), "vector_bits": bits, "compiled_code": str(_cache.folder())}


def compiler() -> str | None:
    """The C++ compiler that torch.compile would use, if there is one."""
    return device.cxx_compiler()


def notes(versions: dict[str, str | None], disk_free: int) -> list[str]:
    """One sentence for each thing that is missing and what it costs."""
    out = []
    if compiler() is None:
        out.append("No C++ compiler: torch.compile is off, training runs uncompiled (install g++ or set CXX for it).")
    if versions["transformers"] is None:
        out.append(
            "transformers is not installed: only the tests and benchmarks need it (pip install 'llmanac[bench]')."
        )
    if disk_free < 2 << 30:
        out.append(f"Only {disk_free / 1e9:.1f} GB of disk are free here; runs keep several checkpoints.")
    return out
