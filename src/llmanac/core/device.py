"""Where and in what precision to compute, and what this machine really does: measured, never from a table.

What decides how a training computes is measured once and kept in `calibration()`, so that the same command gives
the same numbers again. Delete that file to have it measured anew.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import math
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from llmanac.core import files
from llmanac.core.errors import LlmanacError, SpecError
from llmanac.core.lock import locked
from llmanac.core.threads import cores, threads

if TYPE_CHECKING:
    import torch

OWN_SHARE = 0.8  # of the threads' time that a measurement uses itself where it has the processor for itself
Value = TypeVar("Value", bool, float)
DTYPES = ("float64", "float32", "bfloat16", "float16")


def system_memory() -> tuple[int, int]:
    """Bytes of memory: available, and in all, by the system's own figures where it has them."""
    with contextlib.suppress(OSError, KeyError, ValueError):
        lines = (line.split() for line in Path("/proc/meminfo").read_text("ascii").splitlines())
        found = {words[0]: 1024 * int(words[1]) for words in lines}
        return found["MemAvailable:"], found["MemTotal:"]
    total = 8 << 30 if sys.platform == "win32" else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return total // 2, total


def torch_is_there() -> bool:
    """Whether torch can be imported; it is not."""
    if "torch" in sys.modules:
        return sys.modules["torch"] is not None
    return importlib.util.find_spec("torch") is not None


def may_have_gpu() -> bool:
    """Whether `auto` may be another device than the CPU: torch has to be asked."""
    return sys.platform == "darwin" or Path("/dev/nvidiactl").exists()


def resolve_device(name: str = "auto") -> torch.device:
    """`auto` takes cuda, then mps, then cpu. Raises SpecError where the named device is not there."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise SpecError("device: cuda asked for, but this torch sees no CUDA device; use device=auto or cpu")
    if name == "mps" and not torch.backends.mps.is_available():
        raise SpecError("device: mps asked for, but this torch has no Metal device; use device=auto or cpu")
    try:
        return torch.device(name)
    except RuntimeError:
        raise SpecError(f"device: {name!r} is not one of auto, cpu, cuda, mps") from None


def resolve_dtype(name: str | torch.dtype | None, device: torch.device | None = None) -> torch.dtype:
    """`auto` takes bfloat16 where it was measured to be at least 1.2 times float32 here, else float32."""
    import torch

    if isinstance(name, torch.dtype):
        return name
    if name in (None, "float32"):
        return torch.float32
    if name == "auto":
        return torch.bfloat16 if bfloat16_is_faster(str(device or torch.device("cpu"))) else torch.float32
    if name not in DTYPES:
        raise SpecError(f"dtype: {name!r} is not one of auto, {', '.join(DTYPES)}")
    found: torch.dtype = getattr(torch, str(name))
    return found


def _synchronize(device: torch.device) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


@functools.cache
def onednn() -> Callable[..., torch.Tensor] | None:
    """oneDNN's x W^T + b of float32 numbers on the CPU; None without AVX-512, or where this torch lacks it.

    torch gives such products to MKL, which computes with half the width of AVX-512 on processors of other makers than
    Intel: 107 GFLOP/s of a core of an EPYC 9005, where oneDNN, which is a part of torch too, computes 230. Sums are
    taken in another order: results differ by rounding.
    """
    import torch

    if not torch.backends.mkldnn.is_available() or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return None
    try:
        found: Any = torch.ops.mkldnn._linear_pointwise
        found(torch.ones(1, 2), torch.ones(1, 2), None, "none", [], "")
    except (AttributeError, RuntimeError):  # no promise of torch's
        return None
    return lambda x, weight, bias=None: found(x, weight, bias, "none", [], "")


def measure_gemm(
    dtype: torch.dtype,
    device: torch.device | None = None,
    *,
    size: int = 1024,
    seconds: float = 0.3,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """The best matrix-multiplication rate seen, in FLOP/s: (size x size) @ (size x size), 2 size^3 FLOPs each.

    With one thread, `clock=time.process_time` leaves out what other processes take away.
    """
    import torch

    device = device or torch.device("cpu")
    own_product = onednn() if dtype == torch.float32 and device.type == "cpu" else None
    linear = own_product or torch.nn.functional.linear
    own = torch.Generator(device="cpu").manual_seed(0)  # measuring must not move the run's random numbers
    a, b = (torch.randn(size, size, generator=own).to(device, dtype) for _ in range(2))
    linear(a, b)
    best, stop = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < stop:
        _synchronize(device)
        start = clock()
        linear(a, b)
        _synchronize(device)
        best = max(best, 2 * size**3 / max(clock() - start, 1e-9))
    return best


def measure_bandwidth(device: torch.device | None = None, *, megabytes: int = 256) -> float:
    """The best read rate seen, in bytes/s, over a buffer that no cache holds."""
    import torch

    device = device or torch.device("cpu")
    x = torch.ones(megabytes * 250_000, device=device)
    best = 0.0
    for _ in range(5):
        _synchronize(device)
        start = time.perf_counter()
        x.sum()
        _synchronize(device)
        best = max(best, x.numel() * 4 / (time.perf_counter() - start))
    return best


def measure_host(*, megabytes: int = 256, rounds: int = 5) -> tuple[float, float]:
    """The best rates seen on the CPU without torch: bytes/s read by all threads together, and float32 FLOP/s."""
    parts = np.array_split(np.ones(megabytes * 250_000, np.float32), threads())
    a = np.random.default_rng(0).standard_normal((1024, 1024), np.float32)

    def best(work: Callable[[], object]) -> float:
        seconds = []
        for _ in range(rounds):
            start = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - start)
        return min(seconds)

    with ThreadPoolExecutor(len(parts)) as pool:
        reading = best(lambda: list(pool.map(np.sum, parts)))
    return megabytes * 1e6 / reading, 2 * 1024**3 / best(lambda: a @ a)


def calibration() -> Path:
    """The file of what was measured of this machine; it may not exist."""
    return files.cache_folder() / "calibration.json"


def calibrated(what: str, measure: Callable[[], Value], kind: type[Value]) -> Value:
    """What was measured before on this machine, with this torch and as many threads; else measured now, and kept.

    A value is of a `kind`: bool, or float, above 0. Where the file cannot be written or is damaged, or the value is
    of another kind, it is measured as if there were none.
    """
    known = machine()
    name = ", ".join(f"{known[key]}" for key in ("cpu", "gpu", "threads", "torch")) + f": {what}"
    path = calibration()

    def read() -> dict[str, Any]:
        with contextlib.suppress(LlmanacError):
            return files.read_table(path)
        return {}

    def sound(value: object) -> bool:
        return isinstance(value, bool) or (isinstance(value, float) and 0 < value < math.inf)

    if isinstance(found := read().get(name), kind) and sound(found):
        return found
    found = measure()
    with contextlib.suppress(LlmanacError, OSError), locked(path.with_suffix(".lock")):
        kept = {key: one for key, one in read().items() if sound(one)}
        if isinstance(first := kept.get(name), kind):  # of two processes that measure at once the first decides
            found = first
        else:
            files.write_json(path, kept | {name: found})
    return found


def gemm_rate(dtype: torch.dtype, device: torch.device) -> float:
    """`measure_gemm`, once for this machine and number of threads: plans are made from it."""
    import torch

    return _kept_rate(dtype, device, torch.get_num_threads())


@functools.cache
def _kept_rate(dtype: torch.dtype, device: torch.device, threads: int) -> float:
    return calibrated(f"FLOP/s of linear maps of {dtype} on {device}", lambda: _gemm_rate(dtype, device), float)


def _gemm_rate(dtype: torch.dtype, device: torch.device) -> float:
    """Of all threads; where others use the processor, that of one thread in its own time, times the threads."""
    import torch

    began, used, threads = time.perf_counter(), time.process_time(), torch.get_num_threads()
    rate = measure_gemm(dtype, device)
    share = (time.process_time() - used) / (threads * max(time.perf_counter() - began, 1e-9))
    if device.type != "cpu" or share > OWN_SHARE:
        return rate
    torch.set_num_threads(1)
    try:
        return max(rate, min(threads, cores()) * measure_gemm(dtype, device, clock=time.process_time))
    finally:
        torch.set_num_threads(threads)


def bfloat16_is_faster(device: str = "cpu") -> bool:
    """Whether a bfloat16 product is at least 1.2 times the float32 one; once for this machine and number of threads."""
    import torch

    return _kept_choice(device, torch.get_num_threads())


@functools.cache
def _kept_choice(device: str, threads: int) -> bool:
    return calibrated(f"bfloat16 is faster than float32 on {device}", lambda: _bfloat16_is_faster(device), bool)


def _bfloat16_is_faster(device: str) -> bool:
    import torch

    target, best = torch.device(device), {torch.bfloat16: 0.0, torch.float32: 0.0}
    for _ in range(6):  # in turns: on a busy machine one long measurement each would compare two moments
        for dtype in best:
            best[dtype] = max(best[dtype], measure_gemm(dtype, target, size=768, seconds=0.03))
    return best[torch.bfloat16] >= 1.2 * best[torch.float32]


def cxx_compiler() -> str | None:
    """The path of the C++ compiler that torch.compile uses on the CPU: the one CXX names, else the first there is."""
    chosen = os.environ.get("CXX")
    names = [chosen] if chosen else ["g++", "clang++", "cl"]
    return next((path for name in names if (path := shutil.which(name))), None)


def has_compiler(device: torch.device) -> bool:
    """Whether torch.compile can build code here: on the CPU it needs a C++ compiler."""
    return device.type != "cpu" or cxx_compiler() is not None


def cpu_name() -> str:
    """The processor's name, as the system gives it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as handle:
            for line in handle:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    """What benchmarks and reports say of the machine; of torch only where it is installed."""
    found = {"cpu": cpu_name(), "cores": cores(), "python": platform.python_version(), "system": platform.system()}
    try:
        import torch
    except ImportError:
        return found | {"threads": threads(), "isa": platform.machine(), "torch": None, "gpu": None}
    return found | {
        "threads": torch.get_num_threads(),
        "isa": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__.partition("+")[0],
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
    }
