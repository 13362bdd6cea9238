"""Training over several machines, each a network namespace with its own disk: torchrun, as docs/parallel.md has it."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import time
from pathlib import Path

import pytest
import torch
from _builds import small_recipe, text
from _machine_kills import faults, kills, partitions
from _machines import Machine, machines, said_by, until
from _small_models import randomise

from llmanac.core.spec import make_method
from llmanac.generate.engine import Engine
from llmanac.tokenizers.load import train_tokenizer
from llmanac.train.checkpoint import Checkpoints
from llmanac.train.metrics import read_metrics

TESTS = Path(__file__).resolve().parent.parent
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def torchrun(each: list[Machine], *program: str, ranks: int = 1, restarts: int = 0, nodes: int = 0, **variables: str):
    """The same command on every machine; c10d's rendezvous is on the first of all."""
    command = ["-m", "torch.distributed.run", "--nnodes", str(nodes or len(each)), "--nproc-per-node", str(ranks)]
    command += ["--max-restarts", str(restarts), "--rdzv-backend", "c10d", "--rdzv-endpoint", "node0:29500"]
    return [machine.python(*command, *program, **variables) for machine in each]


def ranks(*arguments: str) -> tuple[str, ...]:
    return (str(TESTS / "_machine_ranks.py"), *arguments)


PATHS = os.pathsep.join([str(TESTS), str(TESTS / "references"), os.environ.get("PYTHONPATH", "")])
PAIRS = ("data", "replicated", "tensor", "pipeline", "context", "lora", "lora-tensor", "dpo", "dpo-tensor")


@pytest.mark.parametrize(
    ("count", "each", "names"), [(2, 1, PAIRS), (4, 2, ("mixed", "mixed-lora"))], ids=["two", "four"]
)
def test_losses_norms_and_weights_equal_one_process(tmp_path, count, each, names):
    """In float64 to 1e-9: two machines of one rank, and four of two that are a mesh of 2 x 2 x 2."""
    with machines(count, tmp_path) as made:
        started = torchrun(made.each, *ranks("parity", *names), ranks=each, PYTHONPATH=PATHS)
        texts = said_by(*started, seconds=300)
        assert not any(program.returncode for program in started), "\n".join(texts)
        for name in names:
            assert sum(text.count(f": {name} is equal") for text in texts) == count * each, texts


def test_bytes_on_the_cable_equal_the_closed_forms(tmp_path):
    """Of 50 MB and more, less headers. gloo sends a reduce-scatter as an all-reduce: what a ring sends for it twice."""
    names = ("data", "replicated", "context", "tensor", "pipeline")
    with machines(2, tmp_path) as made:
        started = torchrun(made.each, *ranks("bytes", *names), PYTHONPATH=PATHS)
        texts = said_by(*started, seconds=400)
        assert not any(program.returncode for program in started), "\n".join(texts)
        lines = [line.split() for line in texts[0].splitlines() if line.split()[:1] in [[name] for name in names]]
        assert [name for name, *_ in lines] == list(names)
        for name, *numbers in lines:
            sent, received, expected, scattered = map(float, numbers)
            assert sent == pytest.approx(expected + scattered, rel=0.05), name
            assert received == pytest.approx(expected + scattered, rel=0.05), name
            assert 7 * expected > 50e6 and (scattered > 0) == (name not in ("replicated", "pipeline")), name


STEPS, TIMEOUT = 60, 8
RECIPE = small_recipe(STEPS, 10, "micro_batch = 4")


def prepared(machine: Machine) -> Path:
    """The recipe and its text on one machine's disk; where it logs the steps of its run."""
    rng = random.Random(0)
    (machine.folder / "text").mkdir()
    for n in range(12):
        (machine.folder / "text" / f"{n}.txt").write_text("\n\n".join(f"{text(rng, 60)}." for _ in range(12)))
    (machine.folder / "small.toml").write_text(RECIPE)
    return machine.folder / "run" / "pretrain"


def run(timeout: int = TIMEOUT) -> tuple[str, ...]:
    """What each machine runs; only rank 0 reads the recipe."""
    given = ("-s", "parallel.data=2", "-s", f"parallel.timeout={timeout}")
    return ("-m", "llmanac", "run", "small.toml", "--folder", "run", *given)


def logged(folder: Path) -> int:
    return max((line["step"] for line in read_metrics(folder) if "loss" in line), default=0)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found = Checkpoints(folder / "checkpoints").latest()
    assert found is not None and found.step == STEPS
    return {f"{part}.{name}": t for part, tensors in found.tensors.items() for name, t in tensors.items()}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The last checkpoint of a run on two machines that nothing disturbs, and its losses."""
    with machines(2, tmp_path_factory.mktemp("plain")) as made:
        folder = prepared(made.each[0])
        started = torchrun(made.each, *run())
        texts = said_by(*started, seconds=200)
        assert not any(program.returncode for program in started), "\n".join(texts)
        assert not (made.each[1].folder / "run").exists()  # rank 0 writes, on its own disk
        return weights(folder), [line["loss"] for line in read_metrics(folder) if "loss" in line]


def assert_undisturbed(folder: Path, plain) -> None:
    """Bit for bit the weights and the optimizer's state of the other run."""
    found, (expected, _) = weights(folder), plain
    assert found.keys() == expected.keys() and all(torch.equal(found[name], t) for name, t in expected.items())


def test_a_recipe_on_two_machines_equals_one_process(tmp_path, plain):
    with machines(1, tmp_path) as made:
        (node,) = made.each
        folder = prepared(node)
        (said,) = said_by(node.python("-m", "llmanac", "run", "small.toml", "--folder", "run"), seconds=100)
        losses = [line["loss"] for line in read_metrics(folder) if "loss" in line]
        assert losses == pytest.approx(plain[1], rel=1e-4) and len(losses) == STEPS, said
        found, (expected, _) = weights(folder), plain
        assert all((found[name].double() - t.double()).abs().max() < 1e-3 for name, t in expected.items())


def test_a_partition_of_ten_seconds_changes_nothing(tmp_path, plain):
    """Shorter than parallel.timeout: the network sends again what was lost."""
    with machines(2, tmp_path) as made:
        folder = prepared(made.each[0])
        started = torchrun(made.each, *run(timeout=60))
        until(lambda: logged(folder) >= 20, 100)
        made.cut(made.each[1])
        time.sleep(1)
        before = logged(folder)
        time.sleep(9)
        assert logged(folder) == before < STEPS
        made.heal(made.each[1])
        texts = said_by(*started, seconds=100)
        assert not any(program.returncode for program in started), "\n".join(texts)
        assert_undisturbed(folder, plain)


def test_a_slow_cable_that_loses_frames_changes_nothing(tmp_path, plain):
    """One machine's frames wait and are lost in both directions, the other sends 50 Mbit/s at most."""
    with machines(2, tmp_path) as made:
        folder = prepared(made.each[0])
        made.lossy(made.each[1], delay=0.002, loss=0.01)
        made.each[0].rate(50_000_000)
        started = torchrun(made.each, *run(timeout=60))
        texts = said_by(*started, seconds=300)
        assert not any(program.returncode for program in started), "\n".join(texts)
        assert_undisturbed(folder, plain)


@pytest.mark.parametrize("fault", ["dead", "cut off", "first dead", "first cut off", "hangs"])
def test_a_lost_machine_is_named_and_no_rank_waits_for_it(tmp_path, fault):
    """Every rank ends within the timeout and a few seconds more; torchrun's agents by their own timeouts."""
    with machines(2, tmp_path) as made:
        first, second = made.each
        folder = prepared(first)
        agents = torchrun(made.each, *run())
        until(lambda: logged(folder) >= 20, 100)
        lost = first if fault.startswith("first") else second
        left = second if lost is first else first
        if fault == "hangs":
            os.kill(*second.processes("RANK=1"), signal.SIGSTOP)
        else:
            made.cut(lost)
        if fault.endswith("dead"):
            lost.kill()
        until(lambda: not left.processes(f"RANK={made.each.index(left)}"), 3 * TIMEOUT + 15)
        if fault.endswith("cut off"):
            until(lambda: not lost.processes(f"RANK={made.each.index(lost)}"), 3 * TIMEOUT + 15)
        made.close()
        said = agents[made.each.index(left)].communicate()[0]
        number = made.each.index(lost)
        named = rf"rank {number} \({lost.name}\) (stopped or (hangs|cannot be reached) in |gave no sign for )"
        assert re.search(named, said), said


def test_a_machine_that_joins_takes_the_place_of_a_dead_one(tmp_path, plain):
    """torchrun's agents keep the first round's store, whose address a newcomer never learns, unless told not to."""
    own = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    with machines(3, tmp_path) as made:
        first, second, third = made.each
        folder = prepared(first)
        agents = torchrun([first, second], *run(), restarts=3, **own)
        until(lambda: logged(folder) >= 20, 100)
        made.cut(second)
        second.kill()
        agents += torchrun([third], *run(), restarts=3, nodes=2, **own)
        texts = said_by(agents[0], agents[2], seconds=200)
        assert not agents[0].returncode and not agents[2].returncode, "\n".join(texts)
        assert "rank 1 (node1) stopped or hangs" in texts[0] and texts[0].count("resuming") == 1, texts[0]
        assert_undisturbed(folder, plain)


ASK = """
import httpx, sys, time
for _ in range(600):
    try:
        body = dict(model="m", prompt="abc", max_tokens=12, temperature=0)
        answer = httpx.post("http://node0:8000/v1/completions", json=body)
        if answer.status_code != 503:  # loading
            break
    except httpx.TransportError:
        pass
    time.sleep(0.2)
print(answer.text)
"""


@pytest.mark.parametrize("mesh", ["--tensor", "--pipeline"])
def test_a_model_is_served_by_two_machines(tmp_path, mesh):
    """Each has the model's files; the answer that a machine gets is that of one process. A machine that is lost is
    named."""
    tokenizer = train_tokenizer("bpe", ["abc abd abe " * 50], vocab_size=280, special_tokens=["<|endoftext|>"])
    model = make_method("lm", {"name": "transformer", "dim": 32, "layers": 2, "max_length": 64}).build(vocab_size=280)
    randomise(model)
    (expected,) = Engine(model, tokenizer).generate(["abc"], max_new_tokens=12)
    with machines(2, tmp_path) as made:
        for machine in made.each:
            model.save_pretrained(machine.folder / "m")
            tokenizer.save(machine.folder / "m")
        served = ("-m", "llmanac", "serve", "m", mesh, "2", "--host", "0.0.0.0")
        started = torchrun(made.each, *served)
        (text,) = said_by(made.each[1].python("-c", ASK), seconds=200)
        assert "choices" in text, text
        assert json.loads(text)["choices"][0]["text"] == expected.text, text
        made.each[1].kill()
        (text,) = said_by(made.each[0].python("-c", ASK), seconds=100)
        assert re.search(r"rank 1 \(node1\) stopped or hangs in a forward pass", text), text
        made.close()
        said_by(*started, seconds=20)


@pytest.mark.parametrize(("kind", "count"), [(kills, 2), (partitions, 1)], ids=["kills", "partitions"])
def test_faults_again_and_again_are_named_and_change_no_bit(tmp_path, kind, count):
    """A few of what `_machine_kills.py` does for its record."""
    *found, run = faults(tmp_path / "0", count, kind, 5)
    assert [fault["good"] for fault in found] == [True] * count, found
    assert run["equal bit for bit"]


def test_a_slow_machine_is_named(tmp_path):
    """Rank 1 computes a step for longer than the timeout, and gives signs of life."""
    with machines(2, tmp_path) as made:
        started = torchrun(made.each, *ranks("slow", "data"), PYTHONPATH=PATHS)
        said, _ = said_by(*started, seconds=100)
        assert re.search(r"no rank died, rank 1 \(node1\) is too slow in step 2 .*, after [345] s", said), said
