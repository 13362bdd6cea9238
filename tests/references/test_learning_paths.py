"""Learning paths and areas: every row is in the catalogue, and what is wrong in the file is named."""

from __future__ import annotations

import pytest

from llmanac.core import catalogue
from llmanac.core.errors import SpecError
from llmanac.guide import paths

ENTRIES = {entry.id for entry in catalogue.entries()}


def test_paths_and_areas():
    assert [p.name for p in paths.load()] == ["transformer", "attention", "objectives", "scaling", "evaluation"]
    for path in paths.load():
        assert len(path.steps) >= 10 and path.title and path.text.endswith(".")
        assert {step.row for step in path.steps} <= ENTRIES
        assert all(step.why.endswith(".") and len(step.why) >= 20 for step in path.steps)
        assert len({step.why for step in path.steps}) == len(path.steps)
    assert len(paths.areas()) == 5
    for area in paths.areas():
        assert len(area.rows) >= 10 and set(area.rows) <= ENTRIES and len(set(area.rows)) == len(area.rows)


@pytest.mark.parametrize(
    "text, message",
    [
        ('[paths.a]\ntitle = "A"\ntext = "B"\nsteps = [["position/rop", "x"]]', "step 1.*position/rop.*position/rope"),
        ('[paths.a]\ntitle = "A"\ntext = "B"\nsteps = ["position/rope"]', r"expected \[row, why\]"),
        ('[paths.a]\ntitle = "A"\ntext = "B"', "needs title, text and steps"),
        ('[paths.a]\ntitle = "A"\ntext = "B"\nsteps = []', "may not be empty"),
        ('[paths.a]\ntitle = "A"\ntext = "B"\nsteps = [["norm/rmsnorm", "x"], ["norm/rmsnorm", "y"]]', "twice"),
    ],
)
def test_what_is_wrong_in_a_path_is_named(text, message, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "FILE", tmp_path / "paths.toml")
    paths.FILE.write_text(text)
    with pytest.raises(SpecError, match=message):
        paths.load.__wrapped__()


def test_a_pattern_that_fits_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "FILE", tmp_path / "paths.toml")
    paths.FILE.write_text('[areas.a]\ntitle = "A"\ntext = "B"\nrows = ["nothing/*"]')
    with pytest.raises(SpecError, match=r"areas\.a\.rows.*nothing"):
        paths.areas.__wrapped__()
