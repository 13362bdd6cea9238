"""Vectors of texts: what a model makes of each token, pooled to one vector a text.

    embed("all-MiniLM-L6-v2", ["A cat sat.", "A kitten was sitting."])

    mean: sum_t h_t / T          cls: h_1          last: h_T          then v / |v| where the model asks for it

h_t (D,) is the final hidden state of a text's t-th token, special tokens included. A folder of sentence-transformers
says how (`modules.json`, config.json of its Pooling module, `sentence_bert_config.json`); for any other model the mean
is taken. The dot product of two vectors of length 1 is their cosine. Reimers & Gurevych 2019, arXiv:1908.10084.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from llmanac.core import files
from llmanac.core.errors import CheckpointError, DataError, SpecError, shown
from llmanac.core.types import HIDDEN, Batch, OutputRequest, capabilities
from llmanac.models.layers import upcast
from llmanac.models.lm.encoder import Encoder

Pooling = Literal["mean", "cls", "last"]
OnLong = Literal["cut", "refuse"]
MODULES, LENGTH = "modules.json", "sentence_bert_config.json"
PROMPTS = "config_sentence_transformers.json"
KINDS = {"query": ("query",), "passage": ("passage", "document", "corpus")}  # what a text is, and their names of it
MODES = {"cls_token": "cls", "mean_tokens": "mean", "lasttoken": "last"}  # sentence-transformers' names
BATCH_TOKENS = 1 << 13  # places of a batch, padding included
BATCH_HIDDEN = 1 << 10  # where every state is kept


@dataclass(frozen=True)
class Settings:
    """How a folder pools.

    Attributes:
        folder: of the model and the tokenizer.
        normalize: whether vectors have length 1; lower: whether texts are lowered first.
        most: tokens of a text, special ones included; None for what the model takes.
        prompts: what comes before texts, by name; prompt: the name of the one that is used by default, or "".
    """

    folder: Path
    pooling: Pooling = "mean"
    normalize: bool = False
    most: int | None = None
    lower: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    prompt: str = ""

    def before(self, name: str | None = None) -> str:
        """What comes before a text: `query` and `passage` are "" where the folder has none of that kind.

        Args:
            name: query, passage, or a name of the folder's own; "" for nothing, None for the folder's default.

        Raises:
            SpecError: another name.
        """
        name = self.prompt if name is None else name
        kinds = KINDS.get(name, (name,))
        if name and name not in KINDS and name not in self.prompts:
            raise SpecError(f"prompt: {shown(name)} is not one of {', '.join(dict.fromkeys([*KINDS, *self.prompts]))}")
        return next((self.prompts[kind] for kind in kinds if kind in self.prompts), "")


@dataclass(frozen=True, eq=False)
class Embedded:
    """vectors: (N, D) float32, a row a text; tokens: how many each has; cut: the numbers of those too long."""

    vectors: np.ndarray
    tokens: list[int]
    cut: list[int]


class Embedder:
    """A model that gives vectors of texts.

    Args:
        model, tokenizer: a decoder is read from left to right, an encoder both ways; of an encoder-decoder the encoder
            is used.
        pooling: mean, cls or last; normalize: whether vectors have length 1.
        most: tokens of a text, special ones included, by default what the model takes; lower: lower texts first.
        settings: of the folder, for its prompts.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        pooling: Pooling = "mean",
        normalize: bool = False,
        most: int | None = None,
        lower: bool = False,
        settings: Settings | None = None,
    ) -> None:
        if pooling not in get_args(Pooling):
            raise SpecError(f"pooling: {shown(pooling)} is not one of {', '.join(get_args(Pooling))}")
        self.model, self.tokenizer, self.pooling, self.normalize, self.lower = (
            model,
            tokenizer,
            pooling,
            normalize,
            lower,
        )
        self.settings = settings or Settings(Path())
        limit = getattr(getattr(getattr(model, "model", None), "position", None), "limit", None) or model.max_length
        self.most = most if limit is None else limit if most is None else min(most, limit)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        pooling: Pooling | None = None,
        normalize: bool | None = None,
        dtype: str | torch.dtype | None = None,
        device: str = "auto",
    ) -> Self:
        """From a run's folder, a model's, or a hub model's name; pooling and normalize as the folder says, by default.

        Raises:
            CheckpointError: a file that is missing or damaged, or a module that is not supported; it names which.
        """
        from llmanac.models.load import load_model
        from llmanac.models.locate import locate, model_folder
        from llmanac.tokenizers.load import load_tokenizer

        if (Path(path) / MODULES).is_file():
            found = read_settings(Path(path))
            place: str | Path = found.folder
        else:
            found, place = read_settings(model_folder(path)), locate(path)[1]
            place = place if Path(place).is_dir() else found.folder
        return cls(
            load_model(found.folder, dtype=dtype, device=device), load_tokenizer(place),
            pooling=pooling or found.pooling, normalize=found.normalize if normalize is None else normalize,
            most=found.most, lower=found.lower, settings=found,
        )  # fmt: skip

    def texts(self, texts: Sequence[str], *, on_long: OnLong = "cut", prompt: str | None = None) -> Embedded:
        """The vectors of texts.

        Args:
            prompt: which of the folder's prompts comes before each; see `Settings.before`.
            on_long: `cut` embeds the beginning of a text that is longer than what the model reads, as
                sentence-transformers does.

        Raises:
            DataError: a text without a token, or one that is too long and to be refused, by its number.
        """
        rows, cut = self.rows(texts, on_long, prompt)
        return Embedded(self.vectors(rows), [len(row) for row in rows], cut)

    def rows(self, texts: Sequence[str], on_long: OnLong, prompt: str | None) -> tuple[list[list[int]], list[int]]:
        """As `tokens`, with the prompt before each text. Raises DataError as `texts`."""
        before = self.settings.before(prompt)
        rows, cut = self.tokens([before + text for text in texts])
        if cut and on_long == "refuse":
            raise DataError(
                f"text {cut[0] + 1}: is longer than the {self.most} tokens that the model reads; shorten or divide it"
            )
        for number, row in enumerate(rows):
            if not row:
                raise DataError(
                    f"text {number + 1}: is empty, and this model puts no token around a text; leave it out"
                )
        return rows, cut

    def prepared(self, *given: Any) -> tuple[list[list[int]], list[int], Pooling, int | None]:
        """What `rows` gives, how the model pools, and how many tokens it reads."""
        return *self.rows(*given), self.pooling, self.most

    def related(self, query: str, texts: Sequence[str]) -> tuple[np.ndarray, int]:
        """(N,) how near each text is to a question, from -1 to 1 (cosines), and how many tokens were read."""
        parts = [self.texts([query], prompt="query"), self.texts(texts, prompt="passage")]
        one, many = (
            part.vectors / np.maximum(np.linalg.norm(part.vectors, axis=1, keepdims=True), 1e-12) for part in parts
        )
        return many @ one[0], sum(count for part in parts for count in part.tokens)

    def tokens(self, texts: Sequence[str]) -> tuple[list[list[int]], list[int]]:
        """The ids of each text, special tokens included, and the numbers of those that were cut."""
        tokenizer, rows, cut = self.tokenizer, [], []
        template, bos = tokenizer.template, tokenizer.bos_id if tokenizer.adds_bos else None
        given = [text.lower() if self.lower else text for text in texts]
        for number, found in enumerate(tokenizer.encode_batch(given)):
            ids = found.tolist()
            around, _ = template.apply([])
            begins = bos is not None and around[:1] != [bos]
            room = None if self.most is None else max(0, self.most - len(around) - begins)
            if room is not None and len(ids) > room:
                ids = ids[:room]
                cut.append(number)
            rows.append([bos] * begins + template.apply(ids)[0])
        return rows, cut

    @property
    def special(self) -> frozenset[int]:
        """The ids that are put around every text."""
        return frozenset(self.tokens([""])[0][0])

    @torch.inference_mode()
    def hidden(self, rows: Sequence[Sequence[int]], layer: int | None = None) -> list[Tensor]:
        """The hidden state of each token, (T, D) a row of ids, after `layer` blocks (by default after all).

        Raises:
            SpecError: a layer that the model does not have. RequestError: an id or a length that it cannot take.
        """
        blocks = len(self.model.model.layers)
        if layer is not None and not 0 <= layer <= blocks:
            raise SpecError(f"layer: {layer} is not between 0 and the {blocks} blocks of the model")
        want = OutputRequest(layers=(blocks if layer is None else layer,))
        out: list[Tensor | None] = [None] * len(rows)
        for chosen in batches([len(row) for row in rows], BATCH_HIDDEN):
            found = self.model(self._padded([list(rows[i]) for i in chosen]), want=want).layers[0]
            states = self.model.model.norm(found)
            for i, row in zip(chosen, states, strict=True):
                out[i] = row[: len(rows[i])]
        return out  # type: ignore[return-value]

    @torch.inference_mode()
    def vectors(self, rows: Sequence[Sequence[int]]) -> np.ndarray:
        """(N, D) float32: the vectors of rows of ids, which are read as they are; rows of like lengths go together.

        Raises:
            RequestError: an id or a length that the model cannot take.
        """
        out: np.ndarray | None = None
        for chosen in batches([len(row) for row in rows], BATCH_TOKENS):
            found = self._batch([list(rows[i]) for i in chosen]).float().cpu().numpy()
            out = np.empty((len(rows), found.shape[1]), np.float32) if out is None else out
            out[chosen] = found
        return np.empty((0, 0), np.float32) if out is None else out

    def _batch(self, rows: list[list[int]]) -> Tensor:
        model, batch = self.model, self._padded(rows)
        if capabilities(model).reads_source:
            hidden = model.encode(batch)[0].hidden
        else:
            hidden = model(batch, want=HIDDEN).hidden
        lengths = torch.tensor([len(row) for row in rows], device=hidden.device)
        pooled = pool(upcast(hidden), lengths, self.pooling)
        return F.normalize(pooled, dim=-1) if self.normalize else pooled

    def _padded(self, rows: list[list[int]]) -> Batch:
        batch = Batch.padded(rows, device=self.model.device)
        if isinstance(self.model, Encoder):
            batch = Batch(ids=batch.ids, lengths=batch.lengths, mask="bidirectional")
        return batch


def batches(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Numbers of rows that go together: of like lengths, `most` places in all, padding included."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    start = 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and lengths[order[stop]] * (stop + 1 - start) <= most:
            stop += 1
        yield order[start:stop]
        start = stop


def pool(hidden: Tensor, lengths: Tensor, pooling: Pooling) -> Tensor:
    """(B, T, D) and (B,) -> (B, D): the mean of a row's first `lengths` places, the first of them, or the last."""
    if pooling == "cls":
        return hidden[:, 0]
    if pooling == "last":
        return hidden[torch.arange(len(hidden), device=hidden.device), lengths - 1]
    real = torch.arange(hidden.shape[1], device=hidden.device) < lengths[:, None]
    return torch.where(real[..., None], hidden, 0).sum(1) / lengths[:, None]


def read_settings(folder: Path) -> Settings:
    """What the files of sentence-transformers in a folder say, the mean where there are none.

    Raises:
        CheckpointError: a module or a pooling that is not supported; the message names the file.
    """
    path = folder / MODULES
    if not path.is_file():
        return Settings(folder)
    listed = files.read_json(path, most=files.MOST_SETTINGS, error=CheckpointError)
    if not isinstance(listed, list) or not all(isinstance(module, dict) for module in listed):
        raise CheckpointError(f"{path}: expected a list of modules")
    kinds = [str(module.get("type")).rpartition(".")[2] for module in listed]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise CheckpointError(
            f"{path}: modules {shown(kinds)} are not supported, only Transformer, Pooling and, after them, Normalize"
        )
    model, pooling = (_inside(folder, module.get("path", ""), path) for module in listed[:2])
    most, lower = None, False
    if (model / LENGTH).is_file():
        table = files.read_table(model / LENGTH, most=files.MOST_SETTINGS, error=CheckpointError)
        most, lower = table.get("max_seq_length"), table.get("do_lower_case", False)
        if most is not None and (type(most) is not int or most < 1):
            raise CheckpointError(f"{model / LENGTH}: max_seq_length is {shown(most)}, expected a number above 0")
        if not isinstance(lower, bool):
            raise CheckpointError(f"{model / LENGTH}: do_lower_case is {shown(lower)}, expected true or false")
    prompts, prompt = _prompts(folder / PROMPTS)
    return Settings(model, _pooling(pooling / "config.json"), "Normalize" in kinds, most, lower, prompts, prompt)


def copy_settings(source: str | Path, target: Path) -> None:
    """Copy the files of sentence-transformers, where a model's folder has them, to that of what was made of it.

    Raises:
        CheckpointError: a file that cannot be read.
    """
    folder = Path(source)
    for path in (folder / MODULES, folder / LENGTH, folder / PROMPTS, *folder.glob("[0-9]_*/config.json")):
        if path.is_file():
            place = target / path.relative_to(folder)
            place.parent.mkdir(exist_ok=True)
            files.write_bytes(place, files.read_bytes(path, most=files.MOST_SETTINGS, error=CheckpointError))


def _prompts(path: Path) -> tuple[dict[str, str], str]:
    """`(prompts by name, the default's name)` of a folder. Raises CheckpointError."""
    table = files.read_table(path, most=files.MOST_SETTINGS, error=CheckpointError) if path.is_file() else {}
    prompts, default = table.get("prompts") or {}, table.get("default_prompt_name") or ""
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
        raise CheckpointError(f"{path}: prompts is {shown(prompts)}, expected a table of texts")
    if default and (not isinstance(default, str) or default not in prompts):
        raise CheckpointError(f"{path}: default_prompt_name is {shown(default)}, which is none of its prompts")
    return prompts, default


def _inside(folder: Path, name: Any, path: Path) -> Path:
    if not isinstance(name, str) or "\0" in name or (name and Path(name).name != name):
        raise CheckpointError(f"{path}: path is {shown(name)}, which is no folder beside it")
    return folder / name


def _pooling(path: Path) -> Pooling:
    table = files.read_table(path, most=files.MOST_SETTINGS, error=CheckpointError)
    if table.get("include_prompt") is False:
        raise CheckpointError(f"{path}: include_prompt = False is not supported; only vectors of whole texts are")
    on = [
        key.removeprefix("pooling_mode_") for key, value in table.items() if key.startswith("pooling_mode_") and value
    ]
    named = table.get("pooling_mode")
    found = {"lasttoken": "last"}.get(named, named) if isinstance(named, str) else MODES.get(on[0]) if on else None
    if len(on) > 1 or found not in get_args(Pooling):
        raise CheckpointError(
            f"{path}: pools by {', '.join(on) or shown(named)}; only one of mean, cls and last is supported"
        )
    return found  # type: ignore[return-value]


def embed(
    path: str | Path | Embedder, texts: Sequence[str], *, pooling: Pooling | None = None,
    normalize: bool | None = None, prompt: str | None = None,
) -> np.ndarray:  # fmt: skip
    """(N, D) float32: a vector a text; see the module. Texts that are too long are cut.

    Args:
        path: a run's folder, a model's, a hub model's name, or an `Embedder`, which is loaded already.
        pooling, normalize: by default as the folder says.
        prompt: what texts are, `query` or `passage`, for models that were trained with a prompt before each kind.

    Raises:
        CheckpointError: as `Embedder.load`. DataError: a text without a token.
    """
    if isinstance(path, Embedder):
        if pooling is not None or normalize is not None:
            raise SpecError("pooling, normalize: are the Embedder's; leave them out")
        return path.texts(texts, prompt=prompt).vectors
    return Embedder.load(path, pooling=pooling, normalize=normalize).texts(texts, prompt=prompt).vectors


def nearest(vectors: np.ndarray, count: int, *, rows: int = 1024) -> list[tuple[float, int, int]]:
    """`(cosine, i, j)` of the `count` nearest pairs of rows, i < j, the nearest first."""
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    best: list[tuple[float, int, int]] = []
    for start in range(0, len(unit), rows):
        cosines = unit[start : start + rows] @ unit.T
        cosines[np.arange(len(unit)) <= np.arange(start, start + len(cosines))[:, None]] = -np.inf
        flat = cosines.ravel()
        chosen = np.argpartition(-flat, min(count, len(flat) - 1))[:count]
        found = [(float(flat[k]), start + int(k) // len(unit), int(k) % len(unit)) for k in chosen.tolist()]
        best = sorted([*best, *(one for one in found if one[0] > -2)], key=lambda one: (-one[0], one[1:]))[:count]
    return best
