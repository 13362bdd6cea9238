"""The classifier of beginnings that FUDGE needs, trained on labelled texts (`generate/constrain/fudge.py`)."""

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from llmanac.core.errors import DataError
from llmanac.core.spec import make_method
from llmanac.data.examples import Examples, ExampleStream
from llmanac.generate.constrain.fudge import GRUClassifier
from llmanac.train import TrainSpec
from llmanac.train.loop import train


def train_prefix_classifier(
    texts: Sequence[str | Sequence[int]],
    labels: Sequence[bool],
    tokenizer: Any = None,
    *,
    vocab_size: int | None = None,
    dim: int = 64,
    hidden: int = 128,
    epochs: int = 10,
    rows: int = 32,
    lr: float = 3e-3,
    seed: int = 0,
    folder: str | Path | None = None,
    report: Callable[[str], object] | None = None,
) -> GRUClassifier:
    """A GRU that has learned, from labelled texts, how probable the label is after each token.

    Args:
        texts: as the model would write them: texts, to which the end-of-text token is added, or lists of token ids.
        labels: whether each has the attribute.
        tokenizer: the language model's; not needed for ids, where `vocab_size` is given.
        rows: texts of one step.
        folder: where metrics and checkpoints go; a temporary one by default.

    Raises:
        DataError: no text, one without tokens, labels that do not fit, or that are all the same.
        TrainingError, LlmanacError: as `train`.
    """
    if not texts or len(texts) != len(labels):
        raise DataError(f"labels: {len(labels)} for {len(texts)} texts; every text needs one")
    if len({bool(label) for label in labels}) < 2:
        raise DataError(f"labels: all are {bool(labels[0])}; a classifier needs texts with the attribute and without")
    if tokenizer is None and (vocab_size is None or any(isinstance(text, str) for text in texts)):
        raise DataError("tokenizer: is needed for texts; for token ids give vocab_size")
    ends = [] if tokenizer is None or tokenizer.eos_id is None else [tokenizer.eos_id]
    lists = [[*tokenizer.encode(text), *ends] if isinstance(text, str) else list(text) for text in texts]
    if empty := [at for at, ids in enumerate(lists) if not ids]:
        raise DataError(f"texts: number {empty[0]} has no tokens; drop it")
    network = GRUClassifier(vocab_size or tokenizer.vocab_size, dim=dim, hidden=hidden).initialise(seed)
    rows = min(rows, len(lists))
    steps = max(1, -(-epochs * len(lists) // rows))
    spec = TrainSpec(
        steps=steps, batch_tokens=rows, length=1, micro_batch=rows, dtype="float32", attention="sdpa", compile="never",
        checkpoint_every=steps if folder is None else None,
        schedule=make_method("schedule", {"name": "cosine", "warmup": 0.1, "floor": 0.0}),
        optimizer=make_method("optimizer", {"name": "adamw", "lr": lr}),
    )  # fmt: skip
    source = ExampleStream(Examples.of(lists, [int(bool(label)) for label in labels]), rows=rows, seed=seed)
    objective = make_method("objective", "prefix-classification").build()
    with ExitStack() as stack:
        where = Path(folder) if folder is not None else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        train(
            network,
            source,
            objective,
            spec,
            where,
            seed=seed,
            label="train prefixes",
            report=report or (lambda _: None),
        )
    return network.eval()
