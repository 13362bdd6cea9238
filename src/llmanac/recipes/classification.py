"""Training a classifier by the one training loop."""

import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from llmanac.core.errors import SpecError
from llmanac.core.spec import make_method, patch
from llmanac.data.documents import Document
from llmanac.data.examples import ExampleStream
from llmanac.data.pack import PackedStream
from llmanac.data.tokens import TokenDataset
from llmanac.tokenizers.load import train_tokenizer
from llmanac.train import TrainSpec
from llmanac.train.loop import train

# Above these a Spec's size asks for memory or time without end, whatever the texts are.
LARGEST = {
    "ngrams": 16, "dim": 1 << 14, "hidden": 1 << 14, "length": 1 << 20, "batch": 1 << 24, "epochs": 1_000_000,
    "shots": 1000,
}  # fmt: skip
MOST_LAYERS = 64
MOST_ROWS = 8192  # rows of a step where the classifier leaves it open
DTYPES: dict[torch.dtype, Any] = {torch.float64: "float64", torch.bfloat16: "bfloat16"}


def check_sizes(spec: Any) -> None:
    """Raise SpecError for a choice of a classifier that no machine could follow."""
    for name, most in LARGEST.items():
        values = getattr(spec, name, None)
        if isinstance(values, tuple) and len(values) > MOST_LAYERS:
            raise SpecError(f"{spec.name}.{name}: {len(values)} layers are more than {MOST_LAYERS}; give fewer")
        for value in values if isinstance(values, tuple) else (values,):
            if value is not None and value > most:
                raise SpecError(f"{spec.name}.{name}: {value} is more than {most:,}; set less")


def train_classifier(
    classifier: Any, texts: Sequence[str], labels: Sequence[str], *, seed: int = 0, folder: str | Path | None = None,
    patches: Mapping[str, Any] | None = None, report: Callable[[str], object] | None = None, resume: bool = False,
) -> Any:  # fmt: skip
    """Fit a classifier to checked examples; what `Classifier.fit` calls. Returns the TrainResult, or None.

    Args:
        folder: where metrics and checkpoints go; a temporary one by default, and then Ctrl-C keeps nothing.
        patches: for the TrainSpec that the classifier's own choices make, `{"clip": 0.5}`.
        resume: go on from the folder's last checkpoint; the examples must be the same.

    Raises:
        SpecError, TrainingError, LlmanacError: as `train`.
        KeyboardInterrupt: after Ctrl-C; the step at hand was finished and saved in `folder`, if there is one.
    """
    check_sizes(classifier.spec)
    classifier.prepare(texts, labels, seed)
    network = classifier.network
    if network is None:
        return None
    examples = classifier.examples(texts, labels)
    asked = classifier.training(len(examples))
    rows = min(asked.batch or MOST_ROWS, len(examples))
    steps = max(asked.least_steps, -(-asked.epochs * len(examples) // rows))
    objective = make_method(
        "objective", {"name": "classification", "loss": asked.loss, "l2": asked.l2, "form": asked.form}
    ).build()
    parameters = [p for p in network.parameters() if p.requires_grad]
    if not parameters:
        raise SpecError(f"{classifier.spec.name}: nothing in it is to be trained")
    spec = TrainSpec(
        steps=steps,
        batch_tokens=rows,
        length=1,
        micro_batch=rows,
        clip=0.0,
        dtype=DTYPES.get(parameters[0].dtype, "float32"),
        attention="sdpa",
        compile="never",
        checkpoint_every=steps if folder is None else None,
        schedule=make_method("schedule", dict(asked.schedule)),
        optimizer=make_method(
            "optimizer",
            {"name": "adamw", "lr": asked.lr, "beta2": asked.beta2, "weight_decay": asked.weight_decay, "decay": "all"},
        ),
    )
    spec = patch(spec, patches or {}, "train")
    source = ExampleStream(examples, rows=rows, seed=seed)
    with ExitStack() as stack:
        where = Path(folder) if folder is not None else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        label = f"train {classifier.spec.name}"
        try:
            return train(
                network, source, objective, spec, where, seed=seed, resume=resume, label=label,
                report=report or (lambda text: None),
            )  # fmt: skip
        except KeyboardInterrupt:
            if folder is None:  # the loop has said that it saves, and it has: in a folder that goes now
                print("stopped; nothing is kept of this training, since it has no folder of its own", file=sys.stderr)
            raise


def small_language_model(
    texts: Sequence[str], *, seed: int = 0, vocab_size: int = 4096, dim: int = 128, layers: int = 2, steps: int = 600,
    length: int = 128, batch_tokens: int = 2048, report: Callable[[str], object] | None = None,
) -> tuple[Any, Any]:  # fmt: skip
    """A small Transformer that has read these texts, without their labels; returns `(model, tokenizer)`.

    What fine-tuning and prompting stand on where no pretrained model is at hand. One text is one document.

    Raises:
        DataError: too little text for a tokenizer or a row.
    """
    tokenizer = train_tokenizer("bpe", list(texts), vocab_size=vocab_size, special_tokens=["<|endoftext|>"])
    block = {"name": "pre-norm", "mixer": {"name": "multi-head", "heads": max(1, dim // 32)}, "ffn": "swiglu"}
    lm = make_method(
        "lm", {"name": "transformer", "dim": dim, "layers": layers, "blocks": [block], "max_length": 512}
    ).build(vocab_size=tokenizer.vocab_size)
    lm.initialise(seed)
    spec = TrainSpec(
        steps=steps, batch_tokens=batch_tokens, length=length, dtype="float32", attention="sdpa", compile="never",
        checkpoint_every=steps,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        documents = [Document(id=str(number), text=text, group=str(number)) for number, text in enumerate(texts)]
        dataset = TokenDataset.write(Path(folder) / "data", documents, tokenizer)
        source = PackedStream(dataset, length=length, rows=spec.rows, seed=seed)
        train(
            lm, source, make_method("objective", "autoregressive").build(), spec, Path(folder) / "run", seed=seed,
            label="pretrain", report=report or (lambda text: None),
        )  # fmt: skip
    return lm.eval(), tokenizer
