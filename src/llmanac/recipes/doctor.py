"""`llmanac doctor`: what this machine has and how fast it really is, and what would be missing for which command."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from typing import Any

import torch

from llmanac import __version__
from llmanac.core import device

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
        "cxx_compiler": compiler(),
        "notes": notes(versions, disk.free),
    }


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


def doctor_command(*, as_json: bool = False) -> None:
    """Print the report, as a table or as one JSON document."""
    found = examine()
    if as_json:
        print(json.dumps(found, indent=1))
        return
    machine = found["machine"]
    lines = {
        "llmanac": f"{found['versions']['llmanac']} on Python {machine['python']}, {machine['system']}",
        "packages": ", ".join(f"{k} {v}" for k, v in found["versions"].items() if v and k != "llmanac"),
        "processor": f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads, {machine['isa']}",
        "gpu": machine["gpu"] or "none",
        "will use": f"{found['device']}, {found['dtype']}",
        "matrix products": ", ".join(f"{k} {v / 1e9:.0f} GFLOP/s" for k, v in found["gemm_flops"].items()),
        "memory reads": f"{found['read_bytes_per_second'] / 1e9:.1f} GB/s",
        "compiler": found["cxx_compiler"] or "none",
        "disk free": f"{found['disk_free_bytes'] / 1e9:.1f} GB",
    }
    width = max(map(len, lines))
    for name, value in lines.items():
        print(f"{name:<{width}}  {value}")
    for note in found["notes"]:
        print(f"note: {note}")
    print("Next: llmanac run quickstart --budget 60s")
