"""Small language models and a byte tokenizer that the engine's and the server's tests run on."""

from __future__ import annotations

import re
import time

import torch
from torch import Tensor

from llmanac.core.types import ALL, LAST, Batch, ModelOutput

EOS, USER, ASSISTANT, BOS = 256, 257, 258, 259
VOCABULARY = 260

torch.set_num_threads(1)  # the models here are tiny: a second thread only waits


class ByteTokenizer:
    """One token a byte, and four special tokens."""

    vocab_size = VOCABULARY
    special_tokens = {"<|end|>": EOS, "<|user|>": USER, "<|assistant|>": ASSISTANT, "<|begin|>": BOS}  # noqa: RUF012
    bos_id, eos_id, pad_id = BOS, EOS, None
    chat_template: str | None = "built in"
    adds_bos, separator, unknown_id = False, b"", None

    def encode(self, text, *, special="never"):
        if special == "all":
            parts = re.split(f"({'|'.join(map(re.escape, self.special_tokens))})", text)
            return [i for p in parts for i in ([self.special_tokens[p]] if p in self.special_tokens else p.encode())]
        return list(text.encode())

    def decode(self, ids, *, skip_special=False):
        return b"".join(self.token_bytes(i) for i in ids if i < 256 or not skip_special).decode("utf-8", "replace")

    def token_bytes(self, id):
        if id < 256:
            return bytes([id])
        return next(text for text, i in self.special_tokens.items() if i == id).encode()

    def encode_chat(self, messages, *, add_generation_prompt=False):
        ids = []
        for message in messages:
            ids += [USER if message["role"] == "user" else ASSISTANT, *message["content"].encode(), EOS]
        return ([*ids, ASSISTANT] if add_generation_prompt else ids), []

    def chat_ids(self, messages, *, add_generation_prompt=False, until=0.0, continues=False):
        ids = self.encode_chat(messages, add_generation_prompt=add_generation_prompt and not continues)[0]
        return ids[:-1] if continues else ids


class HistoryState:
    """Remembers each row's ids."""

    by_length, device = None, "cpu"

    def __init__(self, rows):
        self.rows = rows

    @property
    def lengths(self):
        return torch.tensor([len(r) for r in self.rows])

    nbytes = 0

    @property
    def counts(self):
        return [len(r) for r in self.rows]

    @property
    def batch(self):
        return len(self.rows)

    def reserve(self, tokens): ...

    def close(self): ...

    def select(self, rows):
        return HistoryState([list(self.rows[i]) for i in rows.tolist()])

    def join(self, other):
        return HistoryState(self.rows + other.rows)

    def extend(self, rows=1):
        self.rows += [[] for _ in range(rows)]

    def arrange(self, order):
        self.rows = [list(self.rows[i]) for i in order]

    def view(self, start, stop):
        return HistoryState(self.rows[start:stop])  # the same lists

    def mark(self):
        return self.counts

    def rewind(self, mark, lengths=None):
        for row, n in zip(self.rows, mark if lengths is None else lengths, strict=True):
            del row[int(n) :]


class HistoryModel:
    """Logits that are a fixed random function of a row's ids so far (`logits_of`), exactly the same in every batch.

    `script` maps the number of ids seen to a token that then gets nearly all the mass; `seconds` slows every call;
    `fail_at` raises once a row has seen so many ids.
    """

    def __init__(self, *, max_length=200, script=None, seconds=0.0, fail_at=None, vocab_size=VOCABULARY, scale=2.0):
        self.vocab_size, self.max_length = vocab_size, max_length
        self.script, self.seconds, self.fail_at, self.scale = script, seconds, fail_at, scale
        self.calls = self.tokens_read = 0

    def start(self, batch):
        return HistoryState([[] for _ in range(batch)])

    def logits_of(self, ids):
        if self.fail_at is not None and len(ids) >= self.fail_at:
            raise RuntimeError("the model broke")
        key = 17
        for i in ids:
            key = (key * 1_000_003 + i + 1) % (2**61 - 1)
        logits = torch.randn(self.vocab_size, generator=torch.Generator().manual_seed(key), dtype=torch.float64)
        logits = logits * self.scale
        logits[BOS if self.vocab_size > BOS else 0] = -8
        if self.script is not None:
            token = self.script(ids) if callable(self.script) else self.script.get(len(ids))
            if token is not None:
                logits[token] += 60
        return logits

    def forward(self, batch: Batch | Tensor, state=None, want=ALL) -> ModelOutput:
        self.calls += 1
        time.sleep(self.seconds)
        batch = batch if isinstance(batch, Batch) else Batch(ids=batch)
        rows, width = batch.ids.shape
        lengths = [width] * rows if batch.lengths is None else batch.lengths.tolist()
        state = state or self.start(rows)
        out = torch.zeros(rows, width, self.vocab_size, dtype=torch.float64)
        for row, (ids, length) in enumerate(zip(batch.ids.tolist(), lengths, strict=True)):
            for place in range(length):
                state.rows[row].append(ids[place])
                self.tokens_read += 1
                if want == ALL or place == length - 1:
                    out[row, place] = self.logits_of(state.rows[row])
        if want == LAST:
            out = out[torch.arange(rows), torch.tensor(lengths) - 1][:, None]
        return ModelOutput(logits=out)


def script_of(text: str | list[int], prompt_length: int) -> dict[int, int]:
    """A script that makes a HistoryModel say `text` and then end, after a prompt of that many ids."""
    ids = list(text.encode()) if isinstance(text, str) else list(text)
    return {prompt_length + i: token for i, token in enumerate([*ids, EOS])}
