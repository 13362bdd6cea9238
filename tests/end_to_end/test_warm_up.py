"""`llmanac warm-up` compiles ahead what a command would compile when it is first called."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from numba.core.caching import _CacheLocator

from llmanac import kernels
from llmanac.core.errors import SpecError
from llmanac.kernels.cache import folder
from llmanac.recipes import warm_up

WITHOUT_TORCH = "import sys; sys.modules['torch'] = None; from llmanac import cli; cli.main(sys.argv[1:])"


def called(cache: Path | None, *words: str) -> subprocess.CompletedProcess[str]:
    given = {**os.environ, **({"LLMANAC_CACHE": str(cache)} if cache else {}), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *words], capture_output=True, text=True, timeout=600, env=given
    )


MISSING = ("read_words", "score_stream")


@pytest.fixture(scope="module")
def warmed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A cache folder that lacked two kernels, after `llmanac warm-up ngrams`, and what that printed."""
    cache = tmp_path_factory.mktemp("cache")
    assert called(None, "warm-up", "ngrams").returncode == 0
    sources = Path(kernels.__file__).parent.rglob("*.py")
    for own in {_CacheLocator.get_suitable_cache_subpath(str(path)) for path in sources}:
        if (folder() / own).is_dir():
            missing = shutil.ignore_patterns(*(f"*.{name}-*" for name in MISSING))
            shutil.copytree(folder() / own, cache / folder().name / own, ignore=missing)
    done = called(cache, "warm-up", "ngrams", "--json")
    assert done.returncode == 0, done.stderr
    return cache, done.stdout


def test_kernels_are_listed_once_and_kept(warmed: tuple[Path, str]) -> None:
    cache, first = warmed
    second = called(cache, "warm-up", "ngrams", "--json")
    assert second.returncode == 0, second.stderr
    (one,), (two,) = json.loads(first), json.loads(second.stdout)
    assert one["use"] == two["use"] == "ngrams"
    assert set(MISSING) <= set(one["kernels"]) and two["kernels"] == []


def test_after_it_the_command_compiles_nothing(warmed: tuple[Path, str], tmp_path: Path) -> None:
    text, (cache, _) = tmp_path / "text.txt", warmed
    text.write_text("the queen fears the king .\n" * 20, "utf-8")
    kept = {path.name for path in cache.rglob("*.nbc")}
    done = called(cache, "ngram", "train", str(text), "-o", str(tmp_path / "model.arpa"), "--order", "3")
    assert done.returncode == 0, done.stderr
    assert kept and {path.name for path in cache.rglob("*.nbc")} == kept


def test_a_use_is_named_wrongly_or_needs_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SpecError, match=r"use: 'trainig' is none of .*did you mean 'training'"):
        warm_up.chosen(["trainig"])
    assert "training" in warm_up.chosen([])
    monkeypatch.setattr(warm_up.importlib.util, "find_spec", lambda name: None)
    assert warm_up.chosen([]) == ["text", "generate", "documents", "ngrams"]
    with pytest.raises(SpecError, match="use: models needs torch"):
        warm_up.chosen(["models"])


@pytest.mark.parametrize("kinds", [("Q4_K", "Q6_K", "Q5_0", "Q8_0"), ("IQ4_XS",), ("F16",), ("F32",)])
def test_a_tiny_file_is_read_as_any_other(kinds: tuple[str, ...], tmp_path: Path) -> None:
    from llmanac.models.load import load_model

    model = load_model(warm_up.tiny_file(tmp_path / "tiny.gguf", kinds), dtype="float32")
    assert 300 < model.vocab_size <= 320 and model.max_length == 256
