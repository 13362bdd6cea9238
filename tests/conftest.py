"""Fixtures that every test may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from _children import hear_interrupts

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test never reaches for the network
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # small tensors: two threads on a busy machine wait for each other
hear_interrupts()


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real benchmark data: LLMANAC_SHARED_DATA, or `../shared/data`; without it such a test is skipped."""
    path = Path(os.environ.get("LLMANAC_SHARED_DATA") or ROOT.parent / "shared" / "data")
    if not path.is_dir():
        pytest.skip(f"needs benchmark data; there is none at {path} (set LLMANAC_SHARED_DATA to its folder)")
    return path


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Tiny models gain nothing from two, and results are bit-identical only for one number of threads."""
    import torch  # only now: the environment above must be set before

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Pages run for minutes by their own budgets: they begin first, so that both workers end together."""
    items.sort(key=lambda item: item.path.name != "test_readme.py")
