"""What every objective has, and the collation that all next-token losses share.

How rows of tuning become tokens and loss masks: a reader needs a tokenizer and no model; losses take its output.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from llmanac.core.errors import CheckpointError, DataError
from llmanac.core.spec import Spec
from llmanac.core.types import IGNORE, BagOfWords, Batch, LossSum, ModelOutput, OutputRequest, State
from llmanac.data.pack import PADDING, PackedRow
from llmanac.objectives._measured import MeasuredObjective, OfText

SUM = OutputRequest(nll="sum")


@dataclass(frozen=True, kw_only=True)
class ObjectiveSpec(Spec):
    """Describes an objective. `build(tokenizer=..., models=...)` gives one."""

    kind = "objective"
    on, on_policy = cast(Any, "assistant"), 0.0  # fields of some
    gives_source: ClassVar[bool] = False  # whether its batches are for an encoder and a decoder
    special_tokens: ClassVar[tuple[str, ...]] = ()  # that its rows are written with; a recipe's tokenizer gets them

    def reader(self, tokenizer: Any) -> Any:
        """What makes tokens and loss masks of rows of tuning for it (`_base.py`), before any model is there."""
        return InstructionRows(tokenizer, self.on)

    def build(self, *, tokenizer: Any = None, models: dict[str, Any] | None = None, **dims: Any) -> Any:
        """The objective.

        Args:
            models: the further models that it needs, by name (reference, teacher, value).
            dims: what only some need, such as the `reader` of its rows where that is built already.
        """
        raise NotImplementedError


class BaseObjective(MeasuredObjective):
    """Base of all objectives; `_measured.py` has what they read and measure.

    An objective takes all that it needs from one forward pass, by `OutputRequest`:
    `OutputRequest(nll="sum")` for a next-token loss, `OutputRequest(hidden=True, nll="none")` for a
    value head on the same states, `OutputRequest(layers=(4, 8))` for a loss on features. It adds
    `ModelOutput.aux`, the losses that layers have of their own.

    Further models go into `models` by name, in one of three roles:

    - frozen (a reference, a teacher): no gradients, in evaluation mode. Call it under `torch.no_grad()`. Its weights
      are in no checkpoint; a resumed run must be given the same ones, which a fingerprint checks.
    - trained along (a value model, a discriminator): its name is in the class's `trainable`. The run's optimizer
      updates it, the trainer sets its mode, checkpoints hold it.
    - following the trained model (a moving average): no optimizer updates it, yet it changes, so it is a part of
      `state_dict` and not of `models`.

    What an objective remembers besides (a running baseline, a coefficient) is in `state_dict`; `load_state_dict({})`
    must be possible where a new objective's `state_dict` is empty. Planning calls `loss`, then restores all of this.

    Attributes:
        adds_aux: whether `loss` adds `ModelOutput.aux`, by `with_aux`.
        axes: of a mesh of ranks: those that its batches may be divided over.
        batch: what `collate` gives.
        add_up: replaces what a loss needs of all rows of a step by its sum over the ranks that have other rows.
        step_units: units of all micro-batches and ranks, where layers' own losses are of all tokens of a step.
        couples_batch: whether a row's loss depends on the other rows (contrastive losses, group advantages). The
            trainer then refuses to cut a step into micro-batches.
        models: further models by name.
        trainable: names of those that are trained along with the model.
        generators: named random generators of the objective; checkpointed.
    """

    couples_batch = adds_aux = False
    axes: tuple[str, ...] = ()
    batch: type[Any] = Batch
    add_up: Callable[[Tensor], object] = staticmethod(lambda total: None)
    step_units: Tensor | None = None
    trainable: tuple[str, ...] = ()

    def __init__(self, models: Mapping[str, nn.Module] | None = None) -> None:
        self.models: dict[str, nn.Module] = dict(models or {})
        self.generators: dict[str, torch.Generator | np.random.Generator] = {}
        for name, model in self.models.items():
            if name not in self.trainable:
                model.requires_grad_(False).eval()

    def collate(self, rows: Sequence[Any]) -> Batch | BagOfWords:
        """Rows of the source -> one batch."""
        raise NotImplementedError

    def collate_parts(self, rows: Sequence[Any], cuts: Sequence[tuple[int, int]]) -> list[Any]:
        """All rows of a step -> a batch for each range of them."""
        return [self.collate(rows[start:end]) for start, end in cuts]

    def loss(self, model: Any, batch: Batch) -> LossSum:
        """`(sum of losses in nats, units it sums over, sums of further metrics over the same units)`.

        Units and metrics are numbers, or tensors () on the batch's device: the trainer adds them up there and fetches
        them once a step, so that no micro-batch waits for the device (`float(tensor)` would).
        """
        raise NotImplementedError

    def losses(self, model: Any, batch: Batch) -> Iterator[LossSum]:
        """`loss` in parts, each of whose gradients the trainer computes before it asks for the next; here in one."""
        yield self.loss(model, batch)

    def with_aux(self, total: Tensor, units: Tensor, output: ModelOutput) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and the layers' own losses, once a unit; and the latter by name."""
        weight = units if self.step_units is None else self.step_units
        for value in output.aux.values():
            total = total + value * weight
        return total, {name: value.detach() * weight for name, value in output.aux.items()}

    def state_dict(self) -> dict[str, Tensor]:
        """What the objective itself learns or remembers (running baselines, a coefficient); empty for most."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state_dict` gave. Raises CheckpointError for what it does not know."""
        if state:
            raise CheckpointError(f"{type(self).__name__} keeps no state, but the checkpoint has {sorted(state)}")


class NextToken(OfText, BaseObjective):
    """Cross-entropy of each next token of a row, where it carries loss."""

    adds_aux = True

    def collate(self, rows: Sequence[Any]) -> Batch:
        """Packed `Row`s, or sequences of token ids, or `(ids, loss mask)` pairs, to one batch.

        Raises:
            DataError: a row with fewer than two tokens: there is nothing to predict.
        """
        if all(isinstance(row, PackedRow) for row in rows):
            return collate_packed(rows)
        return collate_ragged(list(self.encode_all(rows)))

    def encode_all(self, rows: Sequence[Any]) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        return map(self.encode, rows)

    def encode(self, row: Any) -> tuple[np.ndarray, np.ndarray | None]:
        """One row that is not packed, as `(ids, loss mask or None)`."""
        if isinstance(row, tuple) and len(row) == 2 and not np.isscalar(row[0]):
            return np.asarray(row[0], np.int64), None if row[1] is None else np.asarray(row[1], np.bool_)
        try:
            ids = np.asarray(row, np.int64)
        except (TypeError, ValueError):
            ids = np.zeros((0, 0), np.int64)
        if ids.ndim != 1:
            raise DataError(f"a row of token ids was expected, not {type(row).__name__} {str(row)[:60]!r}")
        return ids, None

    def loss(self, model: Any, batch: Batch) -> LossSum:
        """The model's sum of negative log-likelihoods, and its layers' own losses once a unit."""
        return self.sums(model, batch)

    def sums(self, model: Any, batch: Batch, state: State | None = None) -> LossSum:
        """The same, of the tokens that follow a state."""
        assert batch.targets is not None
        output = (model if isinstance(model, nn.Module) else model.forward)(batch, state=state, want=SUM)
        units = (batch.targets != IGNORE).sum()
        total, metrics = self.with_aux(output.nll, units, output)
        return total, units, metrics


def collate_packed(rows: Sequence[PackedRow]) -> Batch:
    """Packed rows of one length n -> a batch of T = n - 1 inputs and their targets.

    No target crosses from one document to the next. When every row is part of one document, `segments` and
    `positions` are left out, which lets attention take its fastest form.
    """
    ids = torch.from_numpy(np.stack([row.ids for row in rows]))
    segments = torch.from_numpy(np.stack([row.segments for row in rows]))
    keep = (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] != PADDING)
    if any(row.loss is not None for row in rows):
        loss = np.stack([np.ones(len(row.ids), np.bool_) if row.loss is None else row.loss for row in rows])
        keep &= torch.from_numpy(loss)[:, 1:]
    targets = ids[:, 1:].masked_fill(~keep, IGNORE)
    inside = segments[:, :-1]
    if bool((inside == inside[:, :1]).all()):
        return Batch(ids=ids[:, :-1].contiguous(), targets=targets)
    positions = torch.from_numpy(np.stack([row.positions for row in rows]))[:, :-1]
    return Batch(
        ids=ids[:, :-1].contiguous(), targets=targets, segments=inside.contiguous(), positions=positions.long()
    )


def collate_ragged(rows: Sequence[tuple[np.ndarray, np.ndarray | None]]) -> Batch:
    """`(ids, loss mask)` of any lengths -> a batch padded on the right."""
    lengths = [len(ids) - 1 for ids, _ in rows]
    if min(lengths) < 1:
        raise DataError(f"row {int(np.argmin(lengths))}: has {min(lengths) + 1} tokens; a loss needs at least two")
    targets = [ids[1:] if loss is None else np.where(loss[1:], ids[1:], IGNORE) for ids, loss in rows]
    return Batch.padded([ids[:-1] for ids, _ in rows], targets)


TOGETHER = 64  # rows encoded together
Encoded = tuple[np.ndarray, np.ndarray]  # ids (n,), and which of them carry loss (n,)
On = Literal["completion", "assistant", "all"]


class RowReader:
    """Base of readers."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def encode(self, row: Any) -> Any:
        """One row. Raises DataError for one that cannot be read."""
        return next(self.encode_all([row]))

    def encode_all(self, rows: Sequence[Any]) -> Iterator[Any]:
        """Each row, with all their conversations rendered together."""
        raise NotImplementedError


class InstructionRows(RowReader):
    """Rows in the four forms of `instruction.py`, as `(ids, loss mask)`; `on` says which tokens carry loss."""

    def __init__(self, tokenizer: Any, on: On) -> None:
        super().__init__(tokenizer)
        self.on = on

    def encode_all(self, rows: Sequence[Any]) -> Iterator[Encoded]:
        """See the base. Raises DataError: columns of none of the four forms, or a row in which nothing carries loss."""
        encoded = self.tokenizer.encode_chats(itertools.chain.from_iterable(map(self._chats, rows)))
        for row in rows:
            ids, mask = self._with_loss(row, [next(encoded) for _ in self._chats(row)])
            if self.on == "all":
                mask = np.ones(len(ids), np.bool_)
            if not mask[1:].any():
                spoken = {str(m.get("role")) for m in row.get("messages") or () if isinstance(m, Mapping)}
                why = f"; no message has the role 'assistant', but {', '.join(sorted(spoken))}" if spoken else ""
                why = "" if "assistant" in spoken else why
                raise DataError(f"nothing in this row carries loss (on = {self.on!r}){why}: {str(dict(row))[:80]}")
            yield ids, mask

    def examples(self, rows: Iterable[Mapping[str, Any]], *, length: int) -> Iterator[Encoded]:
        """Rows for `TokenDataset.write_examples`; one with no loss in its first `length` + 1 tokens is left out."""
        waiting = iter(rows)
        while some := list(itertools.islice(waiting, TOGETHER)):
            for ids, mask in self.encode_all(some):
                if mask[1 : length + 1].any():
                    yield ids[: length + 1], mask[: length + 1]

    def _chats(self, row: Mapping[str, Any]) -> list[tuple[Any, bool]]:
        """The conversations that a row is encoded from: all of it, and what comes before the completion."""
        if isinstance(row.get("text"), str):
            return []
        if "messages" in row:
            messages = row["messages"]
            if not isinstance(messages, (list, tuple)) or not messages:
                raise DataError(f"messages: a list of messages was expected, not {str(messages)[:60]!r}")
            if self.on != "completion":
                return [(messages, False)]
            end = len(messages)
            while end and isinstance(messages[end - 1], Mapping) and messages[end - 1].get("role") != "assistant":
                end -= 1
            if not end:
                raise DataError(
                    f"messages: has no assistant message to learn from (on = 'completion'): {messages!s:.60}"
                )
            prompt, whole = messages[: end - 1], messages[:end]
        elif isinstance(row.get("text"), (int, float, list, tuple, Mapping)):
            raise DataError(f"text: a text was expected, not {type(row['text']).__name__}")
        elif "prompt" not in row or "completion" not in row:
            raise DataError(f"columns {sorted(row)}: expected `messages`, `prompt` and `completion`, or `text`")
        elif isinstance(row["prompt"], str) and isinstance(row["completion"], str):
            return []
        elif isinstance(row["prompt"], str) or isinstance(row["completion"], str):
            raise DataError("prompt and completion: both must be text, or both lists of messages")
        else:
            prompt, whole = row["prompt"], [*row["prompt"], *row["completion"]]
        return [(whole, False), (prompt, True)] if prompt else [(whole, False)]

    def _with_loss(self, row: Mapping[str, Any], chats: Sequence[Any]) -> Encoded:
        """Ids of a row and which of them carry loss, by its encoded conversations."""
        if not chats:
            plain = isinstance(row.get("text"), str)
            return self._text("", row["text"]) if plain else self._text(row["prompt"], row["completion"])
        ids, by_assistant = np.asarray(chats[0][0], np.int64), np.asarray(chats[0][1], np.bool_)
        if "messages" in row and self.on != "completion":
            return ids, by_assistant
        alone = chats[1][0] if len(chats) > 1 else []
        after = np.arange(len(ids)) >= common_prefix(alone, ids)
        return ids, after & by_assistant if self.on == "assistant" else after

    def _text(self, prompt: str, completion: str) -> Encoded:
        tokenizer = self.tokenizer
        before = [tokenizer.bos_id] if tokenizer.adds_bos else []
        after = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
        whole = [*before, *tokenizer.encode(prompt + completion), *after]
        start = common_prefix([*before, *tokenizer.encode(prompt)], whole)
        return np.asarray(whole, np.int64), np.arange(len(whole)) >= start


class AnswerRows(RowReader):
    """Rows of a prompt with answers, texts or lists of messages; an answer with its end carries loss.

    Args:
        columns: the answers of a row, in the order of a batch.
    """

    def __init__(self, tokenizer: Any, columns: tuple[str, ...]) -> None:
        super().__init__(tokenizer)
        self.columns = columns
        self.rows = InstructionRows(tokenizer, "completion")

    def encode_all(self, rows: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
        """`(ids, loss mask)` of each answer, after the prompt that they share, and then what `further` says of the row.

        Raises:
            DataError: columns that are missing, or an answer without a token.
        """
        further = [self.further(row) for row in rows]
        encoded = self.rows.encode_all([pair for row in rows for pair in self.completions(row)])
        for more in further:
            yield (*itertools.islice(encoded, len(self.columns)), *more)

    def further(self, row: Any) -> tuple[Any, ...]:
        """What else the loss reads of a row. Raises DataError where it is missing."""
        return ()

    def sizes(self, encoded: tuple[Any, ...]) -> list[int]:
        """Tokens of each answer of an encoded row."""
        return [len(ids) for ids, _ in encoded[: len(self.columns)]]

    def completions(self, row: Any) -> list[dict[str, Any]]:
        """The row's answers as rows of instruction tuning. A row without `prompt` has it as its answers' start."""
        if not isinstance(row, Mapping) or any(name not in row for name in self.columns):
            has = ", ".join(sorted(map(str, row))) if isinstance(row, Mapping) else type(row).__name__
            raise DataError(f"needs the columns prompt, {', '.join(self.columns)} (has: {has})")
        answers = [row[name] for name in self.columns]
        if len(answers) > 1 and all(answer == answers[0] for answer in answers):
            raise DataError(f"{' and '.join(self.columns)} are the same: {str(answers[0])[:60]!r}")
        if "prompt" in row:
            return [{"prompt": row["prompt"], "completion": answer} for answer in answers]
        if not all(isinstance(answer, (list, tuple)) and len(answer) > 1 for answer in answers):
            raise DataError("without `prompt`, each answer must be a conversation: a list of messages")
        shared = 0
        while shared < min(map(len, answers)) - 1 and all(a[shared] == answers[0][shared] for a in answers):
            shared += 1
        return [{"prompt": list(a[:shared]), "completion": list(a[shared:])} for a in answers]


def common_prefix(a: Any, b: Any) -> int:
    """How many tokens the two sequences share at their start."""
    short = min(len(a), len(b))
    same = np.asarray(a[:short]) == np.asarray(b[:short])
    return short if bool(np.all(same)) else int(np.argmin(same))
