"""Models without memory: each rank draws or reads its part, trains it, and goes on from a checkpoint in parts."""

from __future__ import annotations

import shutil

import pytest
import torch
from _ranks import on_ranks
from test_parallel import CPU, GPT2, built, extended_to, last_checkpoint, spec_of, trained
from torch.distributed import checkpoint as distributed
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter, format_utils

from llmanac.core.errors import SpecError
from llmanac.core.files import file_sha256
from llmanac.core.spec import make_method
from llmanac.models.load import export_model, load_model
from llmanac.models.save import save_model
from llmanac.objectives.autoregressive import Autoregressive
from llmanac.parallel import ParallelSpec
from llmanac.train._worker import TrainingWorker
from llmanac.train.checkpoint import SLICES, Checkpoints
from llmanac.train.ranks import team
from llmanac.train.team import check as refuse

pytestmark = pytest.mark.usefixtures("one_thread")
META = torch.device("meta")
PARTS = {"checkpoints": "parts", "timeout": 60}


def without_memory(**choices):
    with META:
        return built(**choices).initialise(3)


MESHES = [
    {"data": 2},
    pytest.param({"tensor": 2}, marks=pytest.mark.slow),
    pytest.param({"data": 2, "weights": "replicated"}, marks=pytest.mark.slow),
    pytest.param({"data": 2, "tensor": 2}, marks=pytest.mark.slow),
    pytest.param({"pipeline": 2, "schedule": "zero-bubble"}, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("mesh", MESHES)
def test_drawn_and_read_parts_have_the_bits_of_complete_models(tmp_path, mesh):
    """By a seed; from a folder of our own, and one of GPT-2's, whose matrices are transposed and fused."""
    drawn, gpt2 = built().initialise(3), built(torch.float32, **GPT2)
    save_model(drawn.float(), tmp_path / "own")
    export_model(gpt2, tmp_path / "gpt2", "gpt2")
    drawn = built().initialise(3)

    def rank_0():
        cases = {"seed": (without_memory(), drawn)}
        for name in ("own", "gpt2"):
            cases[name] = tuple(load_model(tmp_path / name, dtype="float64", device=d) for d in (META, "cpu"))
        with team(ParallelSpec(**PARTS, **mesh), CPU) as made:
            for name, (model, expected) in cases.items():
                assert all(p.is_meta for p in model.parameters()), name
                stepper = made.stepper(model, Autoregressive(), spec_of(torch.float64), folder=None)
                stepper._begin()
                found = stepper._collect("weights")
                assert found.keys() == dict(expected.named_parameters()).keys()
                assert all(torch.equal(found[key], p) for key, p in expected.named_parameters()), name

    on_ranks(ParallelSpec(**PARTS, **mesh).ranks, rank_0)


def test_numbers_drawn_in_pieces_are_those_of_one_draw():
    for shape in ((3 << 10, 1 << 10), (2, (1 << 20) + 3), (1, (3 << 20) + 17)):
        model = make_method("lm", {"name": "transformer", "dim": 16, "layers": 1}).build(vocab_size=8)
        generator = torch.Generator().manual_seed(1)
        found, expected = torch.empty(shape), torch.empty(shape).normal_(0.0, 0.02, generator=generator)
        model.embedding.init_parameter("weight", found, torch.Generator().manual_seed(1))
        assert torch.equal(found, expected)


@pytest.mark.parametrize(
    "meshes",
    [
        [{"data": 2}, {"tensor": 2}],
        pytest.param([{"data": 2, "tensor": 2}, {"pipeline": 2, "schedule": "zero-bubble"}], marks=pytest.mark.slow),
    ],
)
def test_a_training_that_goes_on_on_another_mesh_equals_one_process(tmp_path, meshes):
    def model(dtype):
        return without_memory()

    trained(tmp_path / "one", {}, steps=4, model=lambda dtype: built().initialise(3))
    for steps, mesh in zip((2, 4), meshes, strict=True):
        if steps > 2:
            extended_to(tmp_path / "several", 2, steps)
        trained(tmp_path / "several", {"checkpoints": "parts", **mesh}, steps=steps, model=model)
    (last, found), (_, expected) = last_checkpoint(tmp_path / "several"), last_checkpoint(tmp_path / "one")
    assert last == 4 and found.keys() == expected.keys() and len(found) > 20
    assert all((found[name] - value).abs().max() < 1e-9 for name, value in expected.items())


@pytest.mark.slow
def test_torchs_tools_read_parts_and_write_ones_that_are_gone_on_from(tmp_path):
    """Parts to a DCP folder and to a file of torch.save, and back to parts, by torch's own converters: the same bits,
    and the training goes on from them."""
    mesh = {"data": 2, "checkpoints": "parts"}
    trained(tmp_path / "ours", mesh, steps=2)
    shutil.copytree(tmp_path / "ours", tmp_path / "theirs")
    checkpoints = Checkpoints(tmp_path / "theirs" / "checkpoints")
    folder = checkpoints.path(2) / SLICES
    known = dict(HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata)
    state = {name: torch.empty(about.size, dtype=about.properties.dtype) for name, about in known.items()}
    distributed.load(state, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)
    torch.save(state, tmp_path / "one.pt")
    format_utils.torch_save_to_dcp(tmp_path / "one.pt", tmp_path / "dcp")
    format_utils.dcp_to_torch_save(tmp_path / "dcp", tmp_path / "two.pt")
    back = torch.load(tmp_path / "two.pt", weights_only=True)
    assert len(back) > 80 and all(torch.equal(back[name], value) for name, value in state.items())

    def by_torch(place):
        distributed.save(back, storage_writer=HuggingFaceStorageWriter(str(place)), no_dist=True)
        return {file.name: file_sha256(file) for file in place.iterdir()}

    found = checkpoints.load(2)
    shutil.rmtree(found.folder)
    assert not checkpoints.steps()
    whole = {part: {name: t for name, t in found.tensors[part].items() if f"{part}.{name}" not in back}
             for part in found.tensors}  # fmt: skip
    checkpoints.save(2, whole, found.state, by_torch)
    for name in ("ours", "theirs"):
        extended_to(tmp_path / name, 2, 4)
        trained(tmp_path / name, {"tensor": 2}, steps=4)
    (step, ours), (_, theirs) = last_checkpoint(tmp_path / "ours"), last_checkpoint(tmp_path / "theirs")
    assert step == 4 and ours.keys() == theirs.keys() and all(torch.equal(theirs[n], t) for n, t in ours.items())


@pytest.mark.parametrize(
    ("mesh", "values_at"), [({"data": 2}, {"seed": 0}), ({"data": 2, "checkpoints": "parts"}, None)]
)
def test_what_is_refused(mesh, values_at):
    model = without_memory()
    model.values_at = values_at
    with pytest.raises(SpecError, match=r"without memory is trained with parallel.checkpoints=parts"):
        refuse(model, Autoregressive(), spec_of(torch.float64), ParallelSpec(**mesh))


def resident(field="VmRSS"):
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(field))


@pytest.mark.slow
@pytest.mark.parametrize("source", ["seed", "folder"])
def test_no_rank_holds_more_than_its_part_and_64_megabytes(tmp_path, monkeypatch, source):
    """A model of 205 MB on four ranks, of which no process ever has all of it: the kernel counts."""
    fields = {"name": "transformer", "dim": 768, "layers": 7, "max_length": 32, "tied": True}
    fields["blocks"] = [{"name": "pre-norm", "mixer": {"name": "softmax", "heads": 12}, "ffn": "gated"}]
    with META:
        model = make_method("lm", fields).build(vocab_size=2048).initialise(3)
    size = 4 * model.parameter_count()
    assert size > 190e6
    if source == "folder":
        build = make_method("lm", fields).build
        # by another process: this one's children would take what it had and gave back
        on_ranks(1, lambda: save_model(build(vocab_size=2048).initialise(3), tmp_path / "model"))
        model = load_model(tmp_path / "model", device=META)
    begin, load = TrainingWorker.__init__, TrainingWorker.load

    def counted(worker, mesh, job):
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # the high-water mark begins anew
        worker.before = resident()
        begin(worker, mesh, job)

    def loaded(worker, tensors):
        load(worker, tensors)
        held = resident("VmHWM") - worker.before
        (tmp_path / f"{worker.number}-{worker.mesh.rank}").write_text(str(held))

    monkeypatch.setattr(TrainingWorker, "__init__", counted)
    monkeypatch.setattr(TrainingWorker, "load", loaded)

    def rank_0():
        with team(ParallelSpec(data=4, **PARTS), CPU) as made:
            for one in (without_memory(), model):  # the first one loads what ranks need of torch
                made.stepper(one, Autoregressive(), spec_of(torch.float32), folder=None)._begin()

    on_ranks(4, rank_0)
    held = [int((tmp_path / f"2-{rank}").read_text()) for rank in range(4)]
    print(source, [f"{value / 2**20:.0f} MiB" for value in held])
    assert all(size / 4 - 2**20 < value < size / 4 + 64 * 2**20 for value in held), held
