"""Training on several ranks equals training on one process: losses, gradients, weights, checkpoints."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import signal
import time

import numpy as np
import pytest
import torch
from _ranks import on_ranks
from _small_models import randomise
from safetensors.torch import save_file
from torch.distributed import checkpoint as distributed_checkpoint
from torch.distributed.checkpoint import HuggingFaceStorageReader

from llmanac.cli.options import on_processes
from llmanac.core.errors import SpecError, TrainingError
from llmanac.core.spec import make, make_method
from llmanac.data.pack import ListStream, PackedRow
from llmanac.objectives.autoregressive import Autoregressive
from llmanac.parallel import ParallelSpec, launch
from llmanac.parallel.mesh import Mesh
from llmanac.train import TrainSpec, _parts, checkpoint
from llmanac.train._worker import TrainingWorker
from llmanac.train.checkpoint import Checkpoints
from llmanac.train.loop import train
from llmanac.train.ranks import team
from llmanac.train.step import Stepper
from llmanac.train.team import check as refuse
from llmanac.train.team import micro_batches

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
LENGTH, ROWS, STEPS = 12, 8, 3
LLAMA = {"mixer": {"name": "softmax", "heads": 4, "kv_heads": 2, "head_dim": 8}, "ffn": {"name": "gated", "width": 32}}


def built(dtype=torch.float64, vocab_size=64, layers=4, **choices):
    fields = {"name": "transformer", "dim": 16, "layers": layers, "max_length": 32, "tied": True}
    fields["blocks"] = [{"name": "pre-norm", **LLAMA}]
    model = make_method("lm", {**fields, **choices}).build(vocab_size=vocab_size)
    return randomise(model).to(dtype)


def rows_of(step, below=64):
    """Rows of one step, ragged, so that ranks have different numbers of units."""
    random = np.random.default_rng(step)
    return [random.integers(0, below, size).tolist() for size in random.integers(4, LENGTH + 2, ROWS)]


def spec_of(dtype, optimizer="sgd", **choices):
    name = str(dtype).removeprefix("torch.")
    fields = {"steps": STEPS, "batch_tokens": ROWS * LENGTH, "length": LENGTH, "micro_batch": 2, "clip": 0.9}
    made = {"name": "sgd", "lr": 1.0, "momentum": 0.0, "weight_decay": 0.0} if optimizer == "sgd" else optimizer
    return make(TrainSpec, {**fields, "dtype": name, "attention": "sdpa", "optimizer": made, **choices}, "train")


def packed_of(step):
    """Packed rows of two documents, the second of which begins at another place in each row."""
    rows = []
    for number, ids in enumerate(np.random.default_rng(step).integers(0, 64, (ROWS, LENGTH + 1))):
        first = 2 + number
        places = np.arange(LENGTH + 1)
        segments = (places >= first).astype(np.int32)
        rows.append(PackedRow(ids=ids, segments=segments, positions=np.where(segments, places - first, places)))
    return rows


def alone(model, spec, rows=rows_of, objective=Autoregressive):
    """Losses and norms of the steps on one process; the model is trained in place."""
    optimizer = spec.optimizer.build(model=model)
    dtype = next(model.parameters()).dtype
    stepper = Stepper(
        model, objective(), optimizer, micro_batch=spec.micro_batch, clip=spec.clip, dtype=dtype, folder=None
    )
    return [stepper(rows(step), 1.0, step) for step in range(STEPS)]


def check(
    parallel,
    *,
    dtype=torch.float64,
    within=1e-9,
    optimizer="sgd",
    model=built,
    rows=rows_of,
    micro=None,
    objective=Autoregressive,
    **choices,
):
    """The same steps on the ranks of `parallel`: each loss and norm, and the weights after the last step.

    micro: the micro-batch of the one process; by default that of the ranks.
    """
    parallel = ParallelSpec(timeout=30, **parallel)
    one, several, before = model(dtype), model(dtype), model(dtype)
    spec = spec_of(dtype, optimizer, **choices)
    apart = spec if parallel.pipeline == 1 else micro_batches(spec, parallel)
    expected = alone(one, apart if micro is None else dataclasses.replace(apart, micro_batch=micro), rows, objective)

    def rank_0():
        with team(parallel, CPU) as made:
            stepper = made.stepper(several, objective(), spec, folder=None)
            found = [stepper(rows(step), 1.0, step) for step in range(STEPS)]
            stepper.collect()
        for a, b in zip(found, expected, strict=True):
            assert (a.units, a.tokens >= b.units) == (b.units, True)
            assert a.loss == pytest.approx(b.loss, rel=within)
            assert a.grad_norm == pytest.approx(b.grad_norm, rel=within)
            assert a.metrics == pytest.approx(b.metrics, rel=within, abs=within)
        for (name, p), q, start in zip(several.named_parameters(), one.parameters(), before.parameters(), strict=True):
            moved = (q - start).abs().max()
            assert moved > 0 or q.ndim == 1 or not q.requires_grad, name  # no loss depends on the bias of keys
            assert (p - q).abs().max() <= within * max(1.0, float(moved)), (name, float((p - q).abs().max()))

    on_ranks(parallel.ranks, rank_0)


@pytest.mark.parametrize("weights", ["sharded", "replicated"])
def test_data_parallel_equals_one_process(weights):
    check({"data": 2, "weights": weights})


@pytest.mark.parametrize("activations", ["split", pytest.param("replicated", marks=pytest.mark.slow)])
def test_tensor_parallel_equals_one_process(activations):
    check({"tensor": 2, "activations": activations})


def test_context_parallel_equals_one_process():
    """Rows of one document, then packed ones."""
    check({"context": 2}, rows=lambda step: packed_of(step) if step else rows_of(step))


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["plain", "blocks", "flash"])
def test_context_parallel_in_every_form_of_attention(attention):
    check({"context": 2, "weights": "replicated"}, rows=packed_of, attention=attention)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [{"data": 2}, {"tensor": 2}, {"data": 2, "tensor": 2}])
def test_context_parallel_with_other_axes(mesh):
    check({"context": 2, **mesh})
    check({"context": 2, **mesh}, dtype=torch.float32, within=1e-5)


@pytest.mark.parametrize(
    "schedule",
    [
        "1f1b",
        "zero-bubble",
        pytest.param("gpipe", marks=pytest.mark.slow),
        pytest.param("interleaved", marks=pytest.mark.slow),
    ],
)
def test_pipeline_equals_one_process(schedule):
    check({"pipeline": 2, "schedule": schedule})


GPT2 = {
    "position": "learned", "norm": "layernorm", "tied": True,
    "blocks": [{"name": "pre-norm", "mixer": {"name": "softmax", "heads": 4, "biases": "all"},
                "ffn": {"name": "mlp", "activation": "gelu", "biases": "all"}}],
}  # fmt: skip
QWEN3 = {
    "tied": False, "embedding_scale": 4.0, "head": {"name": "linear", "softcap": 5.0},
    "embedding_norm": "rmsnorm",
    "blocks": [{"name": "sandwich", "mixer": {**LLAMA["mixer"], "qk_norm": "rmsnorm", "window": 5},
                "ffn": LLAMA["ffn"]}],
}  # fmt: skip
FFN = {"name": "experts", "experts": 4}
EXPERTS = {"blocks": [{"name": "pre-norm", **LLAMA, "ffn": FFN}]}
MAMBA = {"position": "none", "blocks": [{"name": "pre-norm", "mixer": "mamba", "ffn": "none"}]}


@pytest.mark.slow
@pytest.mark.parametrize(
    "mesh",
    [{"data": 2}, {"tensor": 2}, {"tensor": 2, "activations": "replicated"}, {"pipeline": 2}, {"context": 2}],
)
@pytest.mark.parametrize("choices", [GPT2, QWEN3, EXPERTS, MAMBA], ids=["gpt2", "qwen3", "experts", "mamba"])
def test_further_models_equal_one_process(mesh, choices):
    refused = (EXPERTS, MAMBA) if {"tensor", "context"} & set(mesh) else (EXPERTS,) if "pipeline" in mesh else ()
    if choices in refused:
        pytest.skip("refused by name, which another test checks")
    check(mesh, model=lambda dtype: built(dtype, **choices))


@pytest.mark.parametrize(
    "mesh",
    [
        {"data": 2},
        pytest.param({"data": 2, "weights": "replicated"}, marks=pytest.mark.slow),
        pytest.param({"tensor": 2}, marks=pytest.mark.slow),
        pytest.param({"pipeline": 2}, marks=pytest.mark.slow),
        pytest.param({"context": 2}, marks=pytest.mark.slow),
        pytest.param({"data": 3, "rows": 9}, marks=pytest.mark.slow),
        pytest.param({"data": 2, "tensor": 2, "pipeline": 2}, marks=pytest.mark.slow),
    ],
)
def test_muon_on_parts_of_matrices(mesh):
    """Over three ranks the rows of a matrix are not divided evenly."""
    mesh = dict(mesh)
    count = mesh.pop("rows", ROWS)
    rows = {} if count == ROWS else {"rows": lambda step: [*rows_of(step), [1, 2, 3]], "batch_tokens": count * LENGTH}
    check(mesh, optimizer={"name": "muon"}, **rows)


@pytest.mark.parametrize(
    "mesh",
    [
        {"data": 2},
        pytest.param({"data": 2, "weights": "replicated"}, marks=pytest.mark.slow),
        pytest.param({"data": 4, "micro_batch": 1}, marks=pytest.mark.slow),
    ],
)
def test_experts_balance_the_load_of_all_ranks_and_micro_batches(mesh):
    """One process computes the step in one forward pass. The first rank's rows have few targets or none."""
    rows, mesh = [rows_of(step) for step in range(STEPS)], dict(mesh)
    several = {"micro_batch": mesh.pop("micro_batch", None)}
    for step in rows:
        step[:3] = [(ids, np.zeros(len(ids), bool)) for ids in step[:3]]
    model = functools.partial(built, blocks=[{**EXPERTS["blocks"][0], "ffn": {**FFN, "balance": 1.0}}])
    check(mesh, model=model, rows=rows.__getitem__, micro=ROWS, **several)


@pytest.mark.slow
def test_adamw_without_clipping_and_a_step_of_several_micro_batches():
    check({"data": 2, "tensor": 1}, optimizer={"name": "adamw", "form": "foreach"}, clip=0.0, micro_batch=1)


def trained(folder, parallel, *, steps, dtype=torch.float64, seed=0, model=built):
    """The loop's own training to `steps`, on ranks; or here, for one. Resumes what is in the folder."""
    optimizer = {"name": "adamw", "form": "foreach"}
    spec = spec_of(dtype, optimizer, steps=steps, checkpoint_every=2, schedule={"name": "constant"}, compile="never")
    rows = [row for step in range(8) for row in rows_of(step)]
    parallel = ParallelSpec(timeout=30, **parallel)

    def rank_0():
        with team(parallel, CPU) as made:
            stream = ListStream(rows, rows=ROWS, seed=0)
            train(model(dtype), stream, Autoregressive(), spec, folder, seed=seed, team=made)

    on_ranks(parallel.ranks, rank_0)


def extended_to(folder, before, steps):
    """Let the ended training of a folder go on."""
    plan = json.loads((folder / "plan.json").read_text())
    assert plan["train"]["steps"] == before
    plan["train"]["steps"], plan["ended"] = steps, False
    (folder / "plan.json").write_text(json.dumps(plan))


def last_checkpoint(folder):
    found = Checkpoints(folder / "checkpoints").latest()
    return found.step, {f"{part}.{name}": t for part, all_ in found.tensors.items() for name, t in all_.items()}


@pytest.mark.parametrize(
    "meshes",
    [
        [{"data": 2, "checkpoints": "parts"}, {"tensor": 2}, {}],
        pytest.param(
            [
                {"context": 3, "checkpoints": "parts"},
                {},
                {"data": 2, "weights": "replicated", "checkpoints": "parts"},
                {"data": 2, "tensor": 2, "pipeline": 2, "checkpoints": "parts"},
                {"context": 2, "tensor": 2, "activations": "replicated", "checkpoints": "parts"},
                {"pipeline": 2, "schedule": "zero-bubble", "checkpoints": "parts"},
            ],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            [{"pipeline": 2}, {}, {"data": 2, "weights": "replicated"}, {"data": 2, "tensor": 2, "pipeline": 2}, {}],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            [{"data": 2, "tensor": 2, "pipeline": 2}, {"data": 2, "context": 2}, {}, {"context": 2}],
            marks=pytest.mark.slow,
        ),
    ],
    ids=["two", "parts", "eight", "eight, four, one"],
)
def test_a_checkpoint_opens_on_every_other_mesh(tmp_path, meshes):
    """Two steps on one mesh, two on the next, and so on: weights and optimizer state as of one process throughout."""
    trained(tmp_path / "one", {}, steps=2 * len(meshes))
    for number, mesh in enumerate(meshes):
        if number:
            extended_to(tmp_path / "many", 2 * number, 2 * number + 2)
        trained(tmp_path / "many", mesh, steps=2 * number + 2)
    (step, found), (other, expected) = last_checkpoint(tmp_path / "many"), last_checkpoint(tmp_path / "one")
    assert step == other == 2 * len(meshes) and found.keys() == expected.keys()
    for name, value in expected.items():
        assert (found[name] - value).abs().max() <= 1e-9, name


@pytest.mark.parametrize(
    ("mesh", "equal"),
    [
        ({"data": 2}, False),
        ({"tensor": 2}, True),
        pytest.param({"context": 2}, False, marks=pytest.mark.slow),
        pytest.param({"pipeline": 2}, False, marks=pytest.mark.slow),
    ],
)
def test_what_ranks_draw_in_a_step(tmp_path, monkeypatch, mesh, equal):
    """Tensor ranks the same numbers, the others different ones; those of a step whatever came before it."""
    gradients = TrainingWorker.gradients

    def drawing(worker, *given):
        with open(tmp_path / f"{worker.mesh.rank}", "a") as file:
            file.write(f"{torch.rand(1, dtype=torch.float64).item()}\n")
        return gradients(worker, *given)

    monkeypatch.setattr(TrainingWorker, "gradients", drawing)

    def rank_0():
        with team(ParallelSpec(**mesh), CPU) as made:
            stepper = made.stepper(built(), Autoregressive(), spec_of(torch.float64), folder=None, seed=5)
            before = torch.get_rng_state()
            for step in (0, 1, 0):
                stepper(rows_of(0), 1.0, step)
            assert torch.equal(torch.get_rng_state(), before)

    on_ranks(2, rank_0)
    first, second = ((tmp_path / rank).read_text().split() for rank in "01")
    assert first[0] == first[2] != first[1] and len(first) == len(second) == 3
    assert all((a == b) == equal for a, b in zip(first, second, strict=True))


def test_a_checkpoint_in_parts_is_whole_or_skipped(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=9, report=(said := []).append)
    given = {"model.a": torch.arange(6.0).view(2, 3), "optimizer.exp_avg.a": torch.ones(2, 3)}

    def write(folder):
        folder.mkdir()
        return _parts.write(given, folder, 1)

    for step in (1, 2, 3, 4):
        made = checkpoints.save(step, {}, {}, write)
        file = made / "parts" / "rank-00001.safetensors"
        if step == 2:
            file.unlink()
        elif step == 3:
            file.write_bytes(file.read_bytes()[:-1] + b"x")
        elif step == 4:
            file.with_name("rank-00002.safetensors").write_bytes(file.read_bytes())
    found = checkpoints.latest()
    assert found.step == 1 and len(said) == 3
    assert all(word in text for word, text in zip(("no part", "damaged", "missing"), said, strict=True)), said
    assert torch.equal(found.tensors["model"]["a"], given["model.a"])
    assert list(found.tensors["optimizer"]) == ["exp_avg.a"]
    with pytest.raises(TrainingError, match=r"rank 1 cannot write .*a disk that all ranks see"):
        _parts.write(given, tmp_path / "elsewhere", 1)


def test_torch_reads_a_checkpoint_of_several_ranks(tmp_path):
    """The reader of safetensors of torch.distributed.checkpoint, each tensor by its name."""
    trained(tmp_path, {"data": 2}, steps=2)
    step, expected = last_checkpoint(tmp_path)
    names = {name.removeprefix("model.").removeprefix("optimizer."): t for name, t in expected.items()}
    assert step == 2 and len(names) == len(expected) > 80
    found = {name: torch.zeros_like(t) for name, t in names.items()}
    folder = Checkpoints(tmp_path / "checkpoints").path(step)
    distributed_checkpoint.load(found, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)
    assert all(torch.equal(found[name], t) for name, t in names.items())


@pytest.mark.parametrize(
    ("patches", "recipe", "expected"),
    [
        ({}, {}, {"parallel.data": 2}),
        ({"parallel.weights": "replicated"}, {"parallel": {"timeout": 9}}, {"parallel.data": 2}),
        ({"parallel.tensor": 2}, {}, {}),
        ({}, {"parallel": {"pipeline": 2}}, {}),
        ({}, {"parallel": "wrong"}, {"parallel.data": 2}),
    ],
)
def test_processes_share_rows_where_no_mesh_is_named(patches, recipe, expected):
    assert on_processes(patches, 2, recipe) == patches | expected and on_processes(patches, None, recipe) == patches


def test_a_rank_that_hangs_is_named():
    parallel = ParallelSpec(data=2, timeout=2)

    def rank_0():
        says = r"rank 1 stopped or hangs in step 2 \(broadcast\), after \d s.*--resume"
        begin = time.monotonic()
        with pytest.raises(TrainingError, match=says), team(parallel, CPU) as made:
            stepper = made.stepper(built(), Autoregressive(), spec_of(torch.float64), folder=None)
            stepper(rows_of(0), 1.0, 0)
            process = int(made.mesh.store.get("process/1"))
            os.kill(process, signal.SIGSTOP)
            try:
                stepper(rows_of(1), 1.0, 1)
            finally:
                assert time.monotonic() - begin < 15  # the timeout, and what it takes to see who lives
                os.kill(process, signal.SIGKILL)

    with pytest.raises(AssertionError, match=r"failed \[1\]"):
        on_ranks(2, rank_0)


def test_a_rank_that_is_lost_before_it_joins_ends_the_run(capfd):
    if not (process := os.fork()):
        with launch.processes(2, "this"):  # a module that ends at once
            Mesh(ParallelSpec(data=2), CPU)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 2
    assert "rank 1 ended with status 0 before the run began" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("mesh", "choices", "says"),
    [
        ({"tensor": 2}, {"blocks": [{"name": "pre-norm", "mixer": {"name": "softmax", "heads": 3, "head_dim": 4}}]},
         "parallel.tensor: 2 does not divide the 3 heads of layer 0"),
        ({"tensor": 2}, {"blocks": [{"name": "pre-norm", "mixer": "mamba", "ffn": "none"}], "position": "none"},
         "parallel.tensor: Mamba of layer 0 cannot be divided"),
        ({"tensor": 2}, {"blocks": [{"name": "pre-norm", "ffn": {"name": "experts", "experts": 2}}]},
         "parallel.tensor: .* of layer 0 cannot be divided"),
        ({"tensor": 2}, {"position": "alibi"}, "parallel.tensor: .* adds to scores of each head"),
        ({"tensor": 2}, {"vocab_size": 63}, "parallel.tensor: 2 does not divide the vocabulary of 63"),
        ({"pipeline": 2}, {"blocks": [{"name": "pre-norm", "ffn": {"name": "experts", "experts": 2}}]},
         "parallel.pipeline: the experts of layer 0"),
        ({"pipeline": 8}, {}, "parallel.pipeline: 4 layers are fewer than the 8 stages"),
        ({"context": 2}, MAMBA, "parallel.context: Mamba of layer 0 needs the tokens in order"),
        ({"context": 2}, EXPERTS, "parallel.context: Experts of layer 0"),
        ({"context": 2}, {"position": "alibi"}, "parallel.context: .* compares or counts places"),
        ({"data": 3}, {}, "parallel.data: 3 does not divide the 8 rows of a step"),
        ({"data": 2, "optimizer": "adamw-8bit"}, {}, "parallel: adamw-8bit has a state that is not divided"),
    ],
)  # fmt: skip
def test_what_cannot_be_divided_is_refused_by_name(mesh, choices, says):
    optimizer = mesh.pop("optimizer", "sgd")
    parallel = ParallelSpec(**mesh)
    with pytest.raises(SpecError, match=says):
        spec = micro_batches(spec_of(torch.float64, "sgd" if optimizer == "sgd" else {"name": optimizer}), parallel)
        refuse(built(**choices), Autoregressive(), spec, parallel)


def test_parts_need_a_torch_that_writes_them(monkeypatch):
    monkeypatch.delattr(torch.distributed.checkpoint, "HuggingFaceStorageWriter")
    spec, parallel = spec_of(torch.float64, "sgd"), ParallelSpec(data=2, checkpoints="parts")
    with pytest.raises(SpecError, match=r"parallel\.checkpoints: torch .* cannot write parts; use collected"):
        refuse(built(), Autoregressive(), spec, parallel)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["1f1b", "interleaved", "zero-bubble"])
def test_three_axes_equal_one_process(schedule):
    check({"data": 2, "tensor": 2, "pipeline": 2, "schedule": schedule})
    check({"data": 2, "tensor": 2, "pipeline": 2, "schedule": schedule}, dtype=torch.float32, within=1e-5)


@pytest.mark.parametrize("weights", ["replicated", pytest.param("sharded", marks=pytest.mark.slow)])
def test_an_asynchronous_checkpoint_holds_its_own_step_and_a_kill_loses_the_newest_only(tmp_path, monkeypatch, weights):
    """Written so slowly that steps are done meanwhile; then rank 0 is killed as the second one is half written."""
    trained(tmp_path / "plain", {"data": 2, "weights": weights}, steps=6)
    expected, written = Checkpoints(tmp_path / "plain" / "checkpoints"), []
    mesh = {"data": 2, "weights": weights, "checkpoints": "asynchronous"}

    def slowly(tensors, file):
        time.sleep(0.1)
        save_file(tensors, file)
        written.append(file)
        if len(written) == 5 and not (tmp_path / "killed").exists():
            (tmp_path / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(checkpoint, "save_file", slowly)
    with pytest.raises(AssertionError, match=r"failed \[\(?0"):
        trained(tmp_path / "broken", mesh, steps=6)
    checkpoints = Checkpoints(tmp_path / "broken" / "checkpoints")
    assert checkpoints.steps() == [2]
    trained(tmp_path / "broken", mesh, steps=6)
    assert checkpoints.steps() == expected.steps() == [4, 6]
    for step in (4, 6):
        found, other = checkpoints.load(step).tensors, expected.load(step).tensors
        assert {part: list(tensors) for part, tensors in found.items()} == {p: list(t) for p, t in other.items()}
        assert all(torch.equal(found[part][name], t) for part in found for name, t in other[part].items())


def test_a_rank_that_does_not_join_is_named():
    """It is connected with the store, and goes no further."""

    def rank_0():
        says, spec = "rank 1 did not join within 1 s", ParallelSpec(data=2, timeout=1)
        with pytest.raises(TrainingError, match=says), team(spec, CPU):
            pass

    def others():
        store = next(torch.distributed.rendezvous("env://"))
        time.sleep(3)
        del store

    on_ranks(2, rank_0, others=others)
