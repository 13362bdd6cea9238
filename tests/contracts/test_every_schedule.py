"""What every schedule keeps to, whatever its name."""

from __future__ import annotations

import pytest

from llmanac.core import registry, spec
from llmanac.core.errors import SpecError
from llmanac.train.pace import Revision, revised

NAMES = list(registry.methods("schedule"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [1, 2, 7, 100, 12345])
def test_is_a_share_at_every_step_and_wastes_none(name, steps):
    share = registry.build("schedule", name, steps=steps)
    values = [share(step) for step in range(steps)]
    assert all(0 < value <= 1 for value in values)
    assert max(values) > 0.8
    assert share(steps) >= 0  # asked for by a run that goes on past its plan


@pytest.mark.parametrize("name", NAMES)
def test_depends_on_the_step_alone(name):
    share = registry.build("schedule", name, steps=50)
    assert [share(s) for s in (40, 3, 40, 0)] == [share(40), share(3), share(40), share(0)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("changes", [[(30, 50)], [(30, 400)], [(10, 60), (40, 45), (41, 300)], [(97, 98)], [(1, 2)]])
def test_revised_it_goes_on_without_a_jump_and_ends_where_it_ends(name, changes):
    """Whatever the number of steps becomes: the rate moves from where it stands to where the schedule ends."""
    share, before, revisions = registry.build("schedule", name, steps=100), 100, []
    for step, steps in changes:
        revisions.append(Revision(step, before, steps, 1.0))
        before = steps
    now = revised(share, 100, revisions)
    assert [now(step) for step in range(changes[0][0])] == [share(step) for step in range(changes[0][0])]
    assert now(before - 1) == share(99)
    values = [now(step) for step in range(before)]
    assert all(0 < value <= 1 for value in values)
    for number, (step, _) in enumerate(changes):
        assert now(step) == revised(share, 100, revisions[:number])(step) or step == before - 1


@pytest.mark.parametrize("name", NAMES)
def test_refuses_shares_that_are_none(name):
    with pytest.raises(SpecError, match=r"warmup: 1\.5"):
        spec.make_method("schedule", {"name": name, "warmup": 1.5})
