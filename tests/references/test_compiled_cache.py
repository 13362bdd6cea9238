"""The folder that compiled code is kept in: used by the next process, rebuilt where damaged, not needed."""

from __future__ import annotations

import importlib.metadata
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest
from numba import config, njit

from llmanac import kernels
from llmanac.core.errors import LlmanacError
from llmanac.core.files import cache_folder
from llmanac.guide.progress import default_path
from llmanac.kernels import cache
from llmanac.kernels.cache import VARIABLE, folder
from llmanac.kernels.infer import machine
from llmanac.kernels.part import inner
from llmanac.kernels.text import cached


def seventh(x):
    return 7 * x + 1


def called():
    """(hits, misses) of the disk after a call of the function, as a process that begins has them."""
    made = cached(seventh)
    assert made(3) == 22
    return sum(made.stats.cache_hits.values()), sum(made.stats.cache_misses.values())


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def seen(**environment):
    paths = [str(Path(__file__).parent), str(Path(__file__).parent.parent), *sys.path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment}


def process(command, **environment):
    done = subprocess.run(
        [sys.executable, "-c", command],
        env=seen(**environment),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_another_process_compiles_nothing(place):
    assert called() == (0, 1) and called() == (1, 0)
    assert folder().parent == place and len(list(folder().rglob("*.nbc"))) == 1
    found = process("import test_compiled_cache; print(test_compiled_cache.called())", **{VARIABLE: str(place)})
    assert found.stdout.strip() == "(1, 0)" and not found.stderr


def test_of_processes_that_begin_together_one_compiles(place, tmp_path):
    code = (
        f"import pathlib, time, test_compiled_cache as t\nwhile not pathlib.Path({str(tmp_path / 'go')!r}).exists():\n"
        "    time.sleep(0.001)\nprint(t.called())"
    )
    started = [subprocess.Popen([sys.executable, "-c", code], env=seen(), stdout=subprocess.PIPE, text=True)
               for _ in range(3)]  # fmt: skip
    time.sleep(2)
    (tmp_path / "go").touch()
    assert sorted(one.communicate(timeout=400)[0].strip() for one in started) == ["(0, 1)", "(1, 0)", "(1, 0)"]


def test_the_folder_is_the_users_and_of_the_processor(monkeypatch, tmp_path):
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(config, "CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    own = folder()
    monkeypatch.setattr(config, "CPU_NAME", "generic")
    assert own.parent == folder().parent and own != folder() and folder().name.endswith("-generic")
    if sys.platform == "linux":
        assert own.parent == tmp_path / "llmanac"


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch):
    def nobody(*given):
        raise KeyError(given)

    pwd = pytest.importorskip("pwd", reason="this system has no users of this kind")
    for variable in ("HOME", VARIABLE, "XDG_CACHE_HOME", "XDG_DATA_HOME", "LLMANAC_PROGRESS"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    for place, variable in ((cache_folder, VARIABLE), (default_path, "LLMANAC_PROGRESS")):
        with pytest.raises(LlmanacError, match=f"no home folder; set HOME or {variable} to a folder"):
            place()


@pytest.mark.parametrize("ending", ["nbi", "nbc"])
@pytest.mark.parametrize("damage", ["cut", "empty", "one bit", "other bytes"])
def test_damaged_files_are_built_again(ending, damage, place, recwarn):
    called()
    (path,) = folder().rglob(f"*.{ending}")
    data = bytearray(path.read_bytes())
    changed = {"cut": data[: len(data) // 2], "empty": b"", "other bytes": b"no pickle" * 20}
    data[len(data) * 3 // 4] ^= 1
    path.write_bytes(changed.get(damage, data))
    assert called() == (0, 1)
    assert called() == (1, 0)
    assert not recwarn.list


@pytest.mark.parametrize("older", ["another type", "other source"])
def test_a_file_that_the_index_does_not_mean_is_not_run(older, place, monkeypatch):
    """As a process leaves it that is killed between the index and the file, over a file that was there."""
    with monkeypatch.context() as before:
        if older == "other source":
            before.setattr(cache, "stamp", lambda: "of an older release")
        made = cached(seventh)
        assert made(3.0 if older == "another type" else 3) == 22
    (path,) = folder().rglob("*.nbc")
    data = path.read_bytes()
    next(folder().rglob("*.nbi")).unlink()
    assert called() == (0, 1)
    path.write_bytes(data)
    assert called() == (0, 1)
    assert called() == (1, 0)


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="this system has no limit of a file's size")
@pytest.mark.parametrize("largest", [0, 1000])
def test_a_full_disk_costs_a_compilation(largest, place):
    code = (
        "import resource, test_compiled_cache as t\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({largest}, resource.RLIM_INFINITY))\nprint(t.called(), t.called())"
    )
    done = process(code, **{VARIABLE: str(place)})
    assert done.stdout.strip() == "(0, 1) (0, 1)" and len(done.stderr.splitlines()) == 1
    assert "compiled code cannot be kept" in done.stderr and "File too large" in done.stderr
    assert not list(place.rglob("*.tmp.*"))
    assert called() == (0, 1) and called() == (1, 0)


def test_a_folder_that_cannot_be_written_to_costs_a_compilation(place, capsys):
    place.write_text("a file where the folder should be")
    assert called() == called() == (0, 1)
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("llmanac: ") and said.endswith(f"set {VARIABLE} to a folder that can be written to")


def test_an_old_numba_is_named(root, monkeypatch):
    wanted = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]
    assert f"numba>={kernels.OLDEST}" in wanted
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.59.1")
    with pytest.raises(LlmanacError, match=r"numba 0.59.1 is too old to compile .*pip install 'numba>=0.60'"):
        importlib.reload(kernels)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_used(place):
    called()
    for path in [*place.rglob("*"), place]:
        path.chmod(0o500 if path.is_dir() else 0o400)
    assert called() == (1, 0)


def test_symbols_of_two_processes_are_not_the_same():
    """numba counts functions from 1 in each process, and the count is in a symbol's name."""
    code = "from llmanac.kernels import cache; from numba import njit; f = njit(lambda x: x); f(1);"
    code += "print(next(iter(f.overloads.values())).fndesc.mangled_name)"
    names = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout for _ in range(2)]
    assert all("B" in name for name in names) and names[0] != names[1]


def test_tuning_loads_no_sharding_and_no_compiler() -> None:
    """72 MB and a second of every `llmanac tune`, for what ranks and compiled models alone need."""
    heavy = "{'torch.distributed.fsdp', 'torch.distributed.tensor', 'torch._dynamo', 'sympy'}"
    process(f"import sys\nimport llmanac.recipes.run, llmanac.recipes.tune\nassert not {heavy} & set(sys.modules)")


def test_listing_methods_imports_neither_numba_nor_torch():
    process("import sys\nimport llmanac.cli.__main__\nassert not {'numba', 'torch'} & set(sys.modules)")


GENERATING = """
import sys
from _small_models import transformer
import llmanac
llmanac.save_model(transformer(), sys.argv[1])
assert len(llmanac.Engine(llmanac.load_model(sys.argv[1])).generate([1, 2], max_new_tokens=2, stop_ids=[])[0].ids) == 2
assert "torch._dynamo" not in sys.modules
"""


def test_loading_and_generating_import_no_compiler_of_torch(tmp_path):
    process(GENERATING.replace("sys.argv[1]", repr(str(tmp_path / "model"))))


def test_forms_are_those_that_numba_compiles_for(monkeypatch):
    for features, wanted in (("", ("plain",)), ("+avx2,+fma,+f16c,-avx512f", ("avx2", "plain"))):
        monkeypatch.setattr(config, "CPU_FEATURES", features)
        assert machine.forms.__wrapped__() == wanted


GENERIC = """
from _small_models import transformer
from llmanac.generate.engine import Engine
import torch
engine = Engine(transformer(dtype=torch.float32), runner="native")
print(engine.native.form, len(engine.generate([1, 2, 3], max_new_tokens=4, stop_ids=[])[0].ids))
"""


@pytest.mark.slow
def test_a_generic_processor_runs_the_plain_form(place):
    assert process(GENERIC, NUMBA_CPU_NAME="generic").stdout.split() == ["plain", "4"]


def test_a_part_has_one_form_for_constants_and_narrow_integers():
    @inner
    def part(x, doubled):
        if x < 0:
            raise ValueError("below zero")
        return 2 * x if doubled else x

    @njit
    def whole(numbers):
        return part(numbers[0], True) + part(5, False) + part(len(numbers), numbers[0] > 2)

    assert whole(np.array([3], np.int32)) == 6 + 5 + 2
    assert len(part.overloads) == 1
    with pytest.raises(ValueError, match="below zero"):
        whole(np.array([-1], np.int32))
