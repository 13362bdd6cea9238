"""Bytes that ranks send and time that they wait, against closed forms; the planner."""

from __future__ import annotations

import dataclasses
import json
from itertools import pairwise

import pytest
import torch
from _ranks import on_ranks
from test_parallel import CPU, built, spec_of

from llmanac.cli import main
from llmanac.core.errors import SpecError
from llmanac.core.spec import make, make_method
from llmanac.models.layers import Linear
from llmanac.objectives.autoregressive import Autoregressive
from llmanac.parallel import ParallelSpec, pipeline, plan, traffic
from llmanac.train import TrainSpec
from llmanac.train.plan import default_micro_batch
from llmanac.train.ranks import team
from llmanac.train.team import micro_batches

pytestmark = pytest.mark.usefixtures("one_thread")
SHARED = 4  # loss, units, tokens and the squared norm: what all ranks add up in the end


@pytest.mark.parametrize(
    "mesh",
    [
        {"data": 2, "weights": "replicated"},
        {"data": 2},
        {"context": 2},
        {"tensor": 2},
        {"data": 2, "optimizer": "muon"},
        pytest.param({"tensor": 2, "optimizer": "muon"}, marks=pytest.mark.slow),
        {"pipeline": 2, "schedule": "zero-bubble"},
        pytest.param({"tensor": 2, "activations": "replicated"}, marks=pytest.mark.slow),
        pytest.param({"pipeline": 2}, marks=pytest.mark.slow),
        pytest.param({"pipeline": 2, "schedule": "interleaved"}, marks=pytest.mark.slow),
        pytest.param({"data": 4}, marks=pytest.mark.slow),
        pytest.param({"data": 2, "context": 2, "weights": "replicated"}, marks=pytest.mark.slow),
    ],
)
def test_bytes_sent_equal_the_closed_form(mesh):
    mesh = dict(mesh)
    optimizer = {"name": mesh.pop("optimizer")} if "optimizer" in mesh else "sgd"
    parallel, spec, model = ParallelSpec(**mesh), spec_of(torch.float64, optimizer), built()
    count = sum(p.numel() for p in model.parameters())
    layers = sum(p.numel() for p in model.model.layers.parameters())

    def rank_0():
        with team(parallel, CPU) as made:
            rows = [list(range(13))] * 8
            stepper = made.stepper(model, Autoregressive(), spec, folder=None)
            stepper(rows, 1.0, 0)
            with traffic.Recorder() as sent:
                stepper(rows, 1.0, 1)
        micro = stepper.spec.micro_batch
        times, tokens = 8 // parallel.data // micro, micro * 12
        expected = 2 * (parallel.ranks - 1) / parallel.ranks * SHARED
        if parallel.replicas > 1:
            expected += traffic.data_numbers(parallel, layers, count - layers, times)
        if parallel.context > 1:
            expected += traffic.context_numbers(parallel, 4, tokens, 2 * 2 * 8, times)
        if parallel.tensor > 1:
            norms = 9 * 16 if parallel.activations == "split" else 0
            expected += traffic.tensor_numbers(parallel, 4, tokens, 16, times, norms)
        if parallel.pipeline > 1:
            expected += traffic.pipeline_numbers(parallel, 0, tokens, 16, times)
            expected += 0 if parallel.schedule == "zero-bubble" else 64 * 16  # the tied matrix's two gradients
        if optimizer != "sgd":
            matrices = [p.numel() for p in model.model.layers.parameters() if p.ndim == 2]
            ranks = max(parallel.replicas if parallel.weights == "sharded" else 1, parallel.tensor)
            expected += (ranks - 1) / ranks * sum(matrices)  # so that each has all of the momentum
        assert sent.total == 8 * expected
        part = plan.RankMemory(built(), parallel, 0, pipeline.cut_model(built(), parallel.stages, 12))
        held = sum(p.numel() for p in stepper.worker.parameters.values())
        assert part.numbers(shared=parallel.weights == "sharded") == held

    on_ranks(parallel.ranks, rank_0)


@pytest.mark.parametrize("schedule", sorted(pipeline.CLASSES))
def test_time_that_ranks_wait_equals_the_formula(schedule):
    """From a number of micro-batches too small for the schedule to one that is large."""
    few = 1 if schedule in ("interleaved", "zero-bubble") else 8
    for ranks, counts in ((2, (2, 4)), (4, range(min(few, 4), 9)), (4, (16,)), (8, (8, 12, 16, 32))):
        for count in counts:
            share = pipeline.bubble(schedule, ranks, count)
            assert share == pytest.approx(pipeline.formula(schedule, ranks, count), abs=1e-12) and share > 0


@pytest.mark.parametrize("schedule", sorted(pipeline.CLASSES))
def test_passes_that_the_planner_counts_are_those_of_the_order(schedule):
    model = built(layers=8)
    for ranks, count in ((2, 4), (4, 8)):
        parallel = ParallelSpec(pipeline=ranks, schedule=schedule)
        parts = pipeline.cut_model(model, parallel.stages, 12)
        found = [plan.RankMemory(model, parallel, rank, parts).passes(count) for rank in range(ranks)]
        assert found == pipeline.most_kept(schedule, ranks, count)


def test_zero_bubble_waits_longer_with_few_micro_batches():
    assert pipeline.formula("zero-bubble", 4, 4) == pytest.approx(6 / 30)
    assert pipeline.formula("zero-bubble", 4, 6) == pytest.approx(3 / 39)
    assert pipeline.formula("interleaved", 4, 2) == pytest.approx(5 / 9)


def test_layers_are_cut_by_cost():
    assert [len(part) for part in pipeline.cut([1] * 8, 2, 2)] == [5, 3]
    assert [len(part) for part in pipeline.cut([4, 1, 1, 1, 1], 0, 2)] == [1, 4]
    assert all(len(part) for part in pipeline.cut([1] * 4, 100, 4))


def test_the_page_compares_the_planner_with_ten_published_runs(root):
    """As it says: A100, activations computed again, one row at a time, weights sent in two bytes."""
    lines = (root / "docs" / "parallel-engineering.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if " x " in line and "b |" in line]
    near = 0
    for name, layers, width, heads, mesh, count, reached, published, planned, ratio in rows:
        dim, rows_, (data, split, stages) = int(width), int(count.replace(",", "")), map(int, mesh.split(" x "))
        mixer, ffn = {"name": "softmax", "heads": int(heads)}, {"name": "mlp", "width": 4 * dim}
        fields = {"name": "transformer", "dim": dim, "layers": int(layers), "max_length": 2048, "tied": True}
        fields |= {"position": "none", "blocks": [{"name": "pre-norm", "mixer": mixer, "ffn": ffn}]}
        with torch.device("meta"):
            model = make_method("lm", fields).build(vocab_size=51200)
        assert model.parameter_count() / 1e9 == pytest.approx(float(name[:-1]), rel=0.04)
        spec = ParallelSpec(data=data, tensor=split, pipeline=stages)
        assert plan.REACHED == 0.5
        rate = plan.REACHED * 312e12 * 3 / 4
        found = plan.estimate(model, spec, 25e9, rate, rows_, 2048, 2, 1, within=300e9, weights=2.0).seconds
        flops = 96 * rows_ * 2048 * int(layers) * dim**2 * (1 + 2048 / 6 / dim + 51200 / 16 / int(layers) / dim)
        seconds = flops / (int(reached) * 1e12 * spec.ranks)
        assert [f"{seconds:.2f}", f"{found:.2f}"] == [published, planned], name
        assert float(ratio) == pytest.approx(found / seconds, abs=0.01)
        near += abs(found / seconds - 1) <= 0.2
    assert (len(rows), near) == (10, 7)


CONFIG = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 4096, "intermediate_size": 11008,
    "num_hidden_layers": 8, "num_attention_heads": 32, "vocab_size": 32000, "rms_norm_eps": 1e-5,
    "max_position_embeddings": 4096, "tie_word_embeddings": False, "hidden_act": "silu",
}  # fmt: skip


@pytest.mark.parametrize(("devices", "more"), [(16, ()), (12, ("--micro-batch", "1"))])
def test_what_the_planner_prints_is_the_run_that_it_planned(tmp_path, capsys, monkeypatch, devices, more):
    """The printed settings make a mesh of as many ranks as torchrun starts, with the planned micro-batches."""
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    given = [str(tmp_path), "--devices", str(devices), "--memory", "141GB", "--rows", "768", *more]
    with pytest.raises(SystemExit, match="0"):
        main(["parallel", "plan", *given])
    *table, said, command = capsys.readouterr().out.strip().splitlines()
    assert "waits ┃ s/step ┃" in "".join(table)
    assert max(map(len, table)) <= 80 and "…" not in "".join(table)  # nothing is cut
    words = command.split()
    assert "on each machine" in said and int(words[words.index("--nnodes") + 1]) > 1
    patches = dict(word.split("=") for before, word in pairwise(words) if before == "-s")
    spec = {name.partition(".")[2]: value for name, value in patches.items() if name.startswith("parallel.")}
    parallel = make(ParallelSpec, {n: int(v) if v.isdigit() else v for n, v in spec.items()}, "parallel")
    count = int(words[words.index("--nnodes") + 1]) * int(words[words.index("--nproc-per-node") + 1])
    assert count == parallel.ranks == devices
    trained = {n.partition(".")[2]: int(v) for n, v in patches.items() if n.startswith("train.")}
    chosen = micro_batches(make(TrainSpec, trained, "train"), parallel)
    assert chosen.rows == 768 and chosen.micro_batch == trained["micro_batch"]
    # without the printed number a training takes as many rows, where none was asked for
    left_open = dataclasses.replace(chosen, micro_batch=int(more[1]) if more else default_micro_batch(768, 2048))
    assert micro_batches(left_open, parallel).micro_batch == trained["micro_batch"]
    with torch.device("meta"):
        planned = plan.estimate(plan.read_model(tmp_path), parallel, 50e9, 400e12, 768, 2048, 2, chosen.micro_batch)
    waits = pipeline.formula(parallel.schedule, parallel.pipeline, chosen.rows // parallel.data // chosen.micro_batch)
    assert planned.bubble == (waits if parallel.pipeline > 1 else 0)


def test_axes_and_adapters_are_planned():
    """Context ranks share activations, and states too; an adapter has few states and gradients."""
    model = built()
    one, rows, parts = (
        plan.estimate(model, ParallelSpec(data=data, context=context), 1.0, 1.0, 64, 12, 4, 64)
        for data, context in ((1, 1), (2, 1), (1, 2))
    )
    assert rows.states == parts.states < one.states and parts.activations < one.activations
    keys = traffic.context_numbers(ParallelSpec(context=2), 4, 64 * 12, 2 * 2 * 8, 1)
    assert parts.sent - rows.sent == 4 * keys > 0
    whole, low = (plan.estimate(model, ParallelSpec(data=2), 1.0, 1.0, 64, 12, 4, 64, adapter=r) for r in (0, 1))
    held = plan.RankMemory(model, ParallelSpec(data=2), 0, [range(4)], 1)
    maps = [part for part in model.model.layers.modules() if isinstance(part, Linear)]
    assert held.trained() == sum((part.in_features + part.out_features) for part in maps)
    assert low.states < 0.6 * whole.states and low.seconds < whole.seconds
    every = held.numbers(shared=False)
    assert whole.sent - low.sent == pytest.approx(4 * (every - held.trained()) / 2)


def test_ranks_of_a_machine_share_its_way_out():
    model = built()
    near, far = (
        plan.estimate(model, ParallelSpec(data=8), 1.0, 1e30, 64, 12, 4, 64, within=within) for within in (1.0, 9.0)
    )
    assert near.seconds == pytest.approx(9 * far.seconds)
    out = plan.estimate(model, ParallelSpec(data=16), 1.0, 1e30, 64, 12, 4, 64, within=9.0)
    assert out.seconds == pytest.approx(out.sent / 8) and 0 < out.use < 1e-6


def test_larger_micro_batches_cost_memory_and_waiting():
    model, parallel = built(), ParallelSpec(pipeline=2, schedule="zero-bubble")
    one, four = (plan.estimate(model, parallel, 1.0, 1.0, 64, 12, 4, micro) for micro in (1, 4))
    assert (one.micro_batch, four.micro_batch) == (1, 4) and four.bubble > 2 * one.bubble
    assert four.activations > 2 * one.activations and four.sent == one.sent


def test_sizes_are_in_bytes_and_bits_are_eight_to_one():
    from llmanac.cli.parallel import number

    found = [number(text, "--memory") for text in ("80GB", "80GiB", "50GB/s", "400Gb/s", "400T", "1.5KiB")]
    assert found == [80e9, 80 * 2**30, 50e9, 50e9, 400e12, 1536]
    for text in ("80Gi", "iB", "0", "80 apples", ""):
        with pytest.raises(SpecError, match=r"--memory: .* is not a size"):
            number(text, "--memory")
