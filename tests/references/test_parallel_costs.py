"""Bytes that ranks send and time that they wait, against closed forms; the planner."""

from __future__ import annotations

import pytest
import torch
from _ranks import on_ranks
from test_parallel import CPU, built, spec_of

from llmanac.objectives.autoregressive import Autoregressive
from llmanac.parallel import ParallelSpec, pipeline, plan, traffic
from llmanac.train.team import team

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
            expected += traffic.muon_numbers(parallel, sum(matrices))
        assert sent.total == 8 * expected
        part = plan.Part(built(), parallel, 0, pipeline.cut_model(built(), parallel.stages, 12))
        held = sum(p.numel() for p in stepper.worker.parameters.values())
        assert part.numbers(shared=parallel.weights == "sharded") == held

    on_ranks(parallel.ranks, rank_0)


@pytest.mark.parametrize("schedule", sorted(pipeline.CLASSES))
def test_time_that_ranks_wait_equals_the_formula(schedule):
    """From a number of micro-batches too small for the schedule to one that is large."""
    few = 1 if schedule in ("interleaved", "zero-bubble") else 8
    for ranks, counts in ((2, (2, 4)), (4, range(min(few, 4), 9)), (4, (16,)), (8, (8, 12, 16, 32))):
        for micro_batches in counts:
            share = pipeline.bubble(schedule, ranks, micro_batches)
            assert share == pytest.approx(pipeline.formula(schedule, ranks, micro_batches), abs=1e-12) and share > 0


@pytest.mark.parametrize("schedule", sorted(pipeline.CLASSES))
def test_passes_that_the_planner_counts_are_those_of_the_order(schedule):
    model = built(layers=8)
    for ranks, micro_batches in ((2, 4), (4, 8)):
        parallel = ParallelSpec(pipeline=ranks, schedule=schedule)
        parts = pipeline.cut_model(model, parallel.stages, 12)
        found = [plan.Part(model, parallel, rank, parts).passes(micro_batches) for rank in range(ranks)]
        assert found == pipeline.most_kept(schedule, ranks, micro_batches)


def test_zero_bubble_waits_longer_with_few_micro_batches():
    assert pipeline.formula("zero-bubble", 4, 4) == pytest.approx(6 / 30)
    assert pipeline.formula("zero-bubble", 4, 6) == pytest.approx(3 / 39)
    assert pipeline.formula("interleaved", 4, 2) == pytest.approx(5 / 9)


def test_layers_are_cut_by_cost():
    assert [len(part) for part in pipeline.cut([1] * 8, 2, 2)] == [5, 3]
    assert [len(part) for part in pipeline.cut([4, 1, 1, 1, 1], 0, 2)] == [1, 4]
    assert all(len(part) for part in pipeline.cut([1] * 4, 100, 4))
