"""Adapters, frozen parts and masked completions on several ranks: as on one process."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from _ranks import on_ranks
from test_parallel import CPU, GPT2, ROWS, built, check, extended_to, last_checkpoint, rows_of, spec_of, trained

from llmanac.core.errors import SpecError
from llmanac.core.spec import make_method
from llmanac.models.freeze import freeze
from llmanac.objectives.autoregressive import Autoregressive
from llmanac.parallel import ParallelSpec, traffic
from llmanac.quant import QuantizerSpec
from llmanac.train.ranks import team
from llmanac.train.team import check as refuse
from llmanac.train.team import micro_batches

pytestmark = pytest.mark.usefixtures("one_thread")
RANK = 3  # odd: two ranks have other rows of A


def adapted(dtype, adapter="lora", targets=("all-linear",), **choices):
    """A model with an adapter whose values are random: where B is 0, A has no gradient."""
    return randomised(built(dtype, **choices), adapter, targets)


def randomised(model, adapter="lora", targets=("all-linear",)):
    transform = make_method("adapter", {"name": adapter, "rank": RANK, "targets": list(targets)}).build().apply(model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in transform.parameters().items():
            if "magnitude" not in name:
                p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64) * 0.1)
    return model


def masked(step):
    """Completions of other lengths: the first half of the rows, which are those of rank 0, has few targets or none."""
    random = np.random.default_rng(step)
    rows = []
    for number, ids in enumerate(rows_of(step)):
        mask = np.zeros(len(ids), bool)
        if number >= ROWS // 2 or (number == 0 and step):
            mask[random.integers(1, len(ids)) :] = True
        rows.append((ids, mask))
    return rows


@pytest.mark.parametrize(
    "mesh",
    [
        {"data": 2},
        {"tensor": 2},
        {"pipeline": 2},
        pytest.param({"data": 2, "weights": "replicated"}, marks=pytest.mark.slow),
        pytest.param({"context": 2}, marks=pytest.mark.slow),
        pytest.param({"tensor": 2, "activations": "replicated"}, marks=pytest.mark.slow),
        pytest.param({"pipeline": 2, "schedule": "gpipe"}, marks=pytest.mark.slow),
        pytest.param({"pipeline": 2, "schedule": "interleaved"}, marks=pytest.mark.slow),
        pytest.param({"pipeline": 2, "schedule": "zero-bubble"}, marks=pytest.mark.slow),
        pytest.param({"data": 2, "tensor": 2, "pipeline": 2}, marks=pytest.mark.slow),
    ],
)
def test_lora_on_masked_completions_equals_one_process(mesh):
    layers = 4 if mesh.get("schedule") in ("interleaved", "zero-bubble") else 2
    check(mesh, model=lambda dtype: adapted(dtype, layers=layers), rows=masked)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [{"data": 2}, {"tensor": 2}, {"pipeline": 2}, {"data": 2, "tensor": 2, "pipeline": 2}])
def test_in_float32(mesh):
    check(mesh, model=adapted, rows=masked, dtype=torch.float32, within=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [{"data": 2}, {"tensor": 2}, {"pipeline": 2}])
@pytest.mark.parametrize(
    "choices", [{"adapter": "dora"}, {"adapter": "rslora", **GPT2}], ids=["dora", "rslora on gpt2"]
)
def test_other_low_rank_adapters(mesh, choices):
    check(mesh, model=lambda dtype: adapted(dtype, **choices), rows=masked)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [{"data": 2}, {"pipeline": 2}])
def test_an_adapter_of_the_head(mesh):
    check(mesh, model=lambda dtype: adapted(dtype, targets=("q_proj", "lm_head")), rows=masked)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [{"data": 2}, {"tensor": 2}, {"pipeline": 2}, {"data": 2, "tensor": 2, "pipeline": 2}])
def test_fine_tuning_of_all_and_of_some_weights(mesh):
    check(mesh, rows=masked)
    check(mesh, model=lambda dtype: freeze(built(dtype), trained=("*.mlp.*", "*norm*")), rows=masked)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [{"data": 2, "weights": "replicated"}, {"tensor": 2}])
def test_bytes_that_an_adapter_costs(mesh):
    """Replicated: the trained numbers alone. Tensor: besides, less than without an adapter, since the first layer's
    inputs and the norms need no gradient; the gradients of the matrices that every rank holds are added up."""
    parallel, model, spec = ParallelSpec(**mesh), adapted(torch.float64), spec_of(torch.float64)

    def rank_0():
        with team(parallel, CPU) as made:
            rows = [list(range(13))] * ROWS
            stepper = made.stepper(model, Autoregressive(), spec, folder=None)
            stepper(rows, 1.0, 0)
            with traffic.Recorder() as sent:
                stepper(rows, 1.0, 1)
        shared, times, tokens = 4, ROWS // spec.micro_batch, spec.micro_batch * 12
        if parallel.data > 1:
            expected = sum(p.numel() for p in model.parameters() if p.requires_grad)
        else:
            expected = traffic.tensor_numbers(parallel, 4, tokens, 16, times, 0) - times * tokens * 16
            held = ("q_proj.lora_A", "k_proj.lora_A", "v_proj.lora_A", "gate_proj.lora_A", "up_proj.lora_A",
                    "o_proj.lora_B", "down_proj.lora_B")  # fmt: skip
            expected += sum(
                p.numel() for name, p in model.named_parameters() if name.endswith(tuple(f"{h}.weight" for h in held))
            )
        assert sent.total == 8 * (expected + shared)

    on_ranks(2, rank_0)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [{"data": 2}, {"pipeline": 2}])
def test_a_resumed_training_drops_what_an_uninterrupted_one_does(tmp_path, mesh):
    """An adapter with dropout, bit for bit; with another seed, and without dropout, the weights are others."""

    def last(name, *until, seed=0, dropout=0.5):
        fields = {"name": "lora", "rank": RANK, "dropout": dropout}
        for steps in until:
            if (tmp_path / name).exists():
                extended_to(tmp_path / name, 2, steps)
            trained(tmp_path / name, mesh, steps=steps, seed=seed, model=lambda dtype: with_adapter(fields))
        return last_checkpoint(tmp_path / name)[1]

    expected, resumed, other, without = (
        last("one", 4),
        last("two", 2, 4),
        last("other", 4, seed=1),
        last("without", 4, dropout=0.0),
    )
    assert all(torch.equal(resumed[name], value) for name, value in expected.items())
    for found in (other, without):
        assert any(not torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize(
    ("mesh", "model", "says"),
    [
        ({"tensor": 2}, lambda: adapted(torch.float64, targets=("lm_head",)),
         "parallel.tensor: an adapter of the head"),
        ({"pipeline": 2}, lambda: adapted(torch.float64, targets=("layers.0.*",)),
         "parallel.pipeline: nothing is trained in layers 2 to 3, which are stage 1"),
        ({"tensor": 2}, lambda: quantized(), r"parallel.tensor: quantized weights .*\(model.layers.0"),
        ({"data": 2}, lambda: with_adapter({"name": "prompt", "tokens": 2, "start": "normal"}),
         "parallel: adapters before the text, such as prompt"),
        ({"tensor": 2}, lambda: with_adapter({"name": "lora", "dropout": 0.1}), "parallel.tensor: .*adapter.dropout=0"),
    ],
)  # fmt: skip
def test_what_is_trained_on_one_process_only_is_refused(mesh, model, says):
    parallel = ParallelSpec(**mesh)
    with pytest.raises(SpecError, match=says):
        refuse(model(), Autoregressive(), micro_batches(spec_of(torch.float64), parallel), parallel)


def with_adapter(fields):
    model = built()
    make_method("adapter", fields).build().apply(model)
    return model


def quantized(dtype=torch.float64, quantizer="nf4", *, embedding=False, **choices):
    """Packed frozen weights below an adapter."""
    model = built(dtype, **choices)
    fields = {"name": quantizer, **({"targets": ("all-linear", "embed_tokens")} if embedding else {})}
    made: QuantizerSpec = make_method("quantizer", fields)
    made.build().apply(model)
    return randomised(model)


@pytest.mark.parametrize(
    "mesh",
    [
        {"data": 2},
        pytest.param({"data": 2, "weights": "replicated"}, marks=pytest.mark.slow),
        pytest.param({"pipeline": 2}, marks=pytest.mark.slow),
        pytest.param({"context": 2}, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("quantizer", ["nf4", *(pytest.param(n, marks=pytest.mark.slow) for n in ("int8", "binary"))])
def test_an_adapter_of_packed_weights_equals_one_process(mesh, quantizer):
    """Each rank has all packed matrices, and its part of the others."""
    check(mesh, model=lambda dtype: quantized(dtype, quantizer, layers=2), rows=masked, within=1e-6)


@pytest.mark.slow
def test_a_packed_matrix_that_is_embedding_and_head():
    check({"data": 2}, model=lambda dtype: quantized(dtype, embedding=True, layers=2), rows=masked, within=1e-6)
