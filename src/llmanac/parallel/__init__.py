"""Training on several processes: data, context, tensor and pipeline parallelism by torch.distributed, over one mesh.

    data        each rank computes its rows of the step; weights replicated (DDP) or sharded (FSDP2)
    context     each rank computes some tokens of each row, and reads the keys and values of all
    tensor      each rank has some heads and some columns of each layer (Megatron's division, DTensor)
    pipeline    each rank has some of the layers (torch.distributed.pipelining)

Rank 0 runs the one training loop and sends each step's rows; the other ranks compute (`train/team.py`).
"""

from dataclasses import dataclass
from typing import Literal

from llmanac.core.errors import SpecError
from llmanac.core.ranges import COUNT, within
from llmanac.core.spec import Spec

Schedule = Literal["gpipe", "1f1b", "interleaved", "zero-bubble"]


@dataclass(frozen=True, kw_only=True)
class ParallelSpec(Spec):
    """The mesh, data x context x tensor x pipeline ranks. The result is that of one process with the same rows.

    Attributes:
        data: how many ranks share the rows of a step.
        context: how many share the tokens of a row.
        tensor: how many share each layer's heads and columns.
        pipeline: how many share the layers.
        weights: under `data` and `context`, whether each rank holds all weights (DDP) or a part of each (FSDP2); with
            tensor or pipeline they are sharded.
        activations: under `tensor`, whether what is between attention and feed-forward layers is split along the
            sequence (sequence parallelism) or held by every rank.
        schedule: the order of micro-batches in a pipeline; interleaved and zero-bubble give each rank two stages.
        checkpoints: whether rank 0 collects and writes all weights and moments, or does so while the next steps are
            computed (asynchronous), or each rank writes its parts of them to a disk that all ranks see. Any opens on
            any mesh.
        timeout: seconds that a rank may keep the others waiting before the run ends with an error that names it.
    """

    data: int = 1
    context: int = 1
    tensor: int = 1
    pipeline: int = 1
    weights: Literal["sharded", "replicated"] = "sharded"
    activations: Literal["split", "replicated"] = "split"
    schedule: Schedule = "1f1b"
    checkpoints: Literal["collected", "asynchronous", "parts"] = "collected"
    timeout: int = 120

    ranges = within(COUNT, "data context tensor pipeline timeout")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights == "replicated" and self.tensor * self.pipeline > 1:
            raise SpecError("weights: replicated goes with data and context; use sharded with tensor or pipeline")
        if self.context * self.pipeline > max(self.context, self.pipeline):
            raise SpecError("context: stages of a pipeline take rows of all tokens; use context with data and tensor")

    def micro_batch(self, rows: int, most: int | None) -> int:
        """Rows that each rank computes at a time, of a step of `rows`; no more than `most`.

        A pipeline gets several micro-batches for each of its stages, where there are rows enough.

        Raises:
            SpecError: fewer rows than ranks, or than a pipeline has stages.
        """
        if rows % self.data:
            raise SpecError(
                f"parallel.data: {self.data} does not divide the {rows} rows of a step (train.batch_tokens / "
                "train.length); change one of them"
            )
        share = rows // self.data
        micro = min(most or share, share)
        if self.pipeline == 1:
            return micro
        fit = [n for n in range(1, share + 1) if not share % n and not (share // n) % self.pipeline]
        fit = [n for n in fit if share // n >= self.stages]
        if not fit:
            raise SpecError(
                f"parallel.pipeline: the {share} rows of a step are no multiple of {self.pipeline}, or fewer than "
                f"the {self.stages} stages; raise train.batch_tokens"
            )
        return max([n for n in fit if n <= min(micro, max(1, share // (4 * self.pipeline)))] or fit[:1])

    @property
    def ranks(self) -> int:
        """How many processes the mesh has."""
        return self.replicas * self.tensor * self.pipeline

    @property
    def replicas(self) -> int:
        """How many ranks compute with the same weights."""
        return self.data * self.context

    @property
    def stages(self) -> int:
        """How many parts the layers are cut into."""
        return self.pipeline * (2 if self.pipeline > 1 and self.schedule in ("interleaved", "zero-bubble") else 1)
