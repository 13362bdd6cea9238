"""The notebooks of docs/notebooks run from their first cell to their last; what they keep of it is small."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[2] / "docs" / "notebooks"
SLOW = {"compare", "specialize", "attention"}  # which train, or load a model
NAMES = [
    pytest.param(path.stem, marks=[pytest.mark.slow] if path.stem in SLOW else []) for path in NOTEBOOKS.glob("*.ipynb")
]


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs(name: str, tmp_path: Path) -> None:
    book = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    NotebookClient(book, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()


def test_kept_outputs_are_small_and_of_one_run() -> None:
    paths = list(NOTEBOOKS.glob("*.ipynb"))
    assert len(paths) == 5
    for path in paths:
        assert path.stat().st_size < 60_000, path
        cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
        assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), path
        assert not [out for cell in cells for out in cell.outputs if out.output_type == "error"], path
