"""What joining and leaving rows cost, counted in bytes written to the state; and a schedule without tensors."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from _small_models import VOCABULARY, block, randomise
from torch.overrides import TorchFunctionMode

from llmanac.core.spec import make_method
from llmanac.generate.engine import Engine
from llmanac.generate.requests import Request
from llmanac.generate.runner import TorchRunner
from llmanac.generate.schedule import exchanged
from llmanac.generate.scheduler import Scheduler

STATE = str(Path("models") / "state")
READ_TOKENS = 16  # of prompts a step, so that prompts are read in pieces


class Writes(TorchFunctionMode):
    """Counts the bytes that code in `models/state` copies, and the rows that it moves."""

    def __init__(self) -> None:
        super().__init__()
        self.copied = self.zeroed = self.moved = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if STATE in sys._getframe(1).f_code.co_filename:
            if name == "copy_":
                self.copied += args[0].nbytes
            elif name == "index_copy_":
                self.copied += args[3].nbytes
                self.moved = max(self.moved, len(args[2]))
            elif name in ("cat", "concat", "clone", "stack"):
                self.copied += sum(t.nbytes for t in args[0]) if isinstance(args[0], (list, tuple)) else args[0].nbytes
            elif name in ("zero_", "fill_"):
                self.zeroed += args[0].nbytes
        return func(*args, **(kwargs or {}))


class CountingRunner(TorchRunner):
    """Counts what its state copies while rows join (`extend`) and leave or fork (`arrange`)."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.total = Counter[str]()
        self.events: list[tuple[str, int, int, int]] = []  # what, bytes copied, rows moved, bytes of a row

    def _counted(self, what: str, act: Any) -> Any:
        with Writes() as seen:
            found = act()
        state = self._state
        a_row = 0
        if state is not None:
            a_row = sum(t[:1].nbytes for layer in state.layers if layer is not None for t in layer.store.tensors)
        self.events.append((what, seen.copied, seen.moved, a_row))
        self.total[what] += seen.copied
        return found

    def extend(self, prompts: Any, reserve: int, planned: Any = ()) -> list[int]:
        extend = super().extend
        found: list[int] = self._counted("extend", lambda: extend(prompts, reserve, planned))
        return found

    def arrange(self, order: Any) -> None:
        before = len(self._state.rows)
        self._counted("arrange" if len(order) <= before else "fork", lambda: super(CountingRunner, self).arrange(order))


def model(mixer: Any) -> Any:
    spec = make_method("lm", {"name": "transformer", "dim": 16, "layers": 2, "max_length": 64, "blocks": block(mixer)})
    return randomise(spec.build(vocab_size=VOCABULARY)).eval()


@pytest.fixture(scope="module")
def attention() -> Any:
    return model({"name": "multi-head", "heads": 2})


def request(length: int, new: int, seed: int = 0, n: int = 1) -> Request:
    ids = torch.randint(VOCABULARY, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
    options: Any = {"max_new_tokens": new, "n": n, "temperature": 1.0 if n > 1 else 0.0}
    return Request(ids, options, stop_ids=frozenset(), context=64, tokenizer=None)


def drained(scheduler: Scheduler) -> None:
    while scheduler.busy:
        scheduler.step()


@pytest.mark.parametrize("mixer", [{"name": "multi-head", "heads": 2}, "gru"])
def test_rows_that_join_copy_nothing_and_one_that_leaves_moves_at_most_one(mixer: Any) -> None:
    runner = CountingRunner(model(mixer))
    scheduler = Scheduler(runner.model, rows=8, runner=runner)
    first = [request(12, new, new) for new in (30, 3, 9, 30, 30, 5, 30, 30)]
    for one in first:
        scheduler.submit(one)
    scheduler.step()
    scheduler.step()
    runner.events.clear()  # the memory is as large as it gets
    joining = [request(12, new, 50 + new) for new in (4, 20, 7, 11)]
    for number in range(40):
        if number < len(joining):
            scheduler.submit(joining[number])
        scheduler.step()
    joins = [event for event in runner.events if event[0] == "extend"]
    leaves = [event for event in runner.events if event[0] == "arrange"]
    assert len(joins) == 4 and all(copied == 0 for _, copied, _, _ in joins)
    moves = [(moved, copied, a_row) for _, copied, moved, a_row in leaves if copied]
    assert moves and all(moved <= 1 and copied <= a_row for moved, copied, a_row in moves)
    assert not scheduler.busy and all(r.finished for r in first + joining)


def test_one_that_leaves_while_others_wait_for_their_prompts_does_not_move_those(
    attention: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llmanac.generate import schedule

    monkeypatch.setattr(schedule, "READ_TOKENS", READ_TOKENS)
    runner = CountingRunner(attention)
    scheduler = Scheduler(attention, rows=12, runner=runner)
    requests = [request(8, new, new) for new in (2, 20, 3, 20)]
    for one in requests:
        scheduler.submit(one)
    scheduler.step()
    scheduler.step()
    requests += [request(40, 4, 70 + seed) for seed in range(8)]  # read for many steps, 16 tokens each
    for one in requests[4:]:
        scheduler.submit(one)
    drained(scheduler)
    arranged = [(moved, copied, a_row) for what, copied, moved, a_row in runner.events if what == "arrange" and copied]
    # the last that decodes, the prompt that is half read, and an empty row in its place
    assert arranged and all(moved <= 3 for moved, _, _ in arranged)
    alone = Engine(attention)
    for one in requests:
        expected = alone.generate([list(one.prompt)], max_new_tokens=one.max_new_tokens, stop_ids=())[0]
        assert one.sequences[0].ids == expected.ids


def test_memory_that_grows_copies_less_than_twice_what_it_becomes(attention: Any) -> None:
    runner = CountingRunner(attention)
    scheduler = Scheduler(attention, rows=32, runner=runner)
    for number in range(32):  # one by one: each joins a batch that decodes
        scheduler.submit(request(4, 60 - number, number))
        scheduler.step()
    assert 0 < runner.total["extend"] <= 2 * runner._state.nbytes
    drained(scheduler)


def test_samples_fork_their_own_prompt_only(attention: Any) -> None:
    runner = CountingRunner(attention)
    scheduler = Scheduler(attention, rows=8, runner=runner)
    scheduler.submit(request(8, 20, 1))
    scheduler.step()
    scheduler.submit(request(8, 6, 2, n=3))
    scheduler.step()
    forks = [(moved, copied, a_row) for what, copied, moved, a_row in runner.events if what == "fork"]
    grown = runner._state.nbytes  # the store may double on the way
    assert forks and all(moved <= 2 and copied <= 2 * a_row + grown for moved, copied, a_row in forks)
    drained(scheduler)


def test_rows_that_hold_nothing_areexchanged() -> None:
    empty = [False, False, False, True, True, True]
    assert exchanged([0, 2, 3, 4, 5], empty) == [0, 2, 5, 3, 4]
    assert exchanged([0, 2, 3, 4, 5], [False] * 6) == [0, 2, 3, 4, 5]
    assert exchanged([0, 1, 2], empty) == [0, 1, 2]


WITHOUT_TORCH = """
import sys
from collections import deque
from types import SimpleNamespace
sys.modules["torch"] = None
from llmanac.generate.schedule import ScheduledRow as Row, admit, schedule
def asked(length, scored=None):
    return SimpleNamespace(prompt=[1] * length, sequences=[0], prompt_logprobs=scored, rows=1, tokens=length)
waiting = deque([asked(5), asked(3), asked(4000)])
print([len(r.prompt) for r in admit(waiting, 2, 2)], len(waiting))
rows = [Row(asked(2), [1], sequence=1), Row(asked(5), [1] * 5), Row(asked(4000), [1] * 4000), Row(asked(9), [1] * 9)]
print(schedule(rows, 100))
"""


def test_the_schedule_needs_no_torch() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    admitted, calls = done.stdout.splitlines()
    assert admitted == "[3, 5] 1"
    assert calls == (
        "[ReadCall(start=0, stop=1, tokens=1, scored=False), ReadCall(start=1, stop=2, tokens=5, scored=False), "
        "ReadCall(start=2, stop=3, tokens=2043, scored=False)]"
    )
