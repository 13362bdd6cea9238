"""6 N D against counted FLOPs, for every architecture, within the error that it states."""

import pytest

from llmanac.cli import main
from llmanac.core.errors import SpecError
from llmanac.lab.scaling import compute


@pytest.mark.parametrize("name", compute.architectures())
def test_6nd_has_the_error_that_it_states(name):
    found = compute.measure(name)
    if name == "s4":
        assert found.counted > 2 * found.formula  # its filter, which does not grow with the rows
    else:
        within = 0.35 if name in ("longformer", "big-bird") else 0.08 if name in compute.APART else 0.01
        assert found.formula / found.counted == pytest.approx(1, abs=within)
        assert abs(found.error - found.stated) <= within
    assert found.non_embedding < found.parameters


def test_longer_rows_cost_more_than_6n():
    short, long = (compute.measure("transformer", dim=32, length=n, vocabulary=96) for n in (16, 256))
    assert short.counted < long.counted and long.error < short.error < 0.05


def test_the_command_and_what_it_refuses(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["scaling", "compute", "gru", "mamba2", "--dim", "16", "--length", "16", "--vocabulary", "32"])
    said = capsys.readouterr().out
    assert "gru" in said and "mamba2: the formula" in said and "Next:" in said
    with pytest.raises(SpecError, match="no language model"):
        compute.measure("nothing")
    with pytest.raises(SpecError, match="counted, not trained"):
        compute.measure("ngram")
