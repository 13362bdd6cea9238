"""Count the tokens of a tokenizer: a language model for every command that takes one."""

from typing import Any

import numpy as np

from llmanac.core.progress import progress
from llmanac.data.command_problems import CommandProblems
from llmanac.data.sources.files import Spec as Files
from llmanac.data.texts import documents
from llmanac.models.lm.ngram import Spec
from llmanac.models.pairs import start_token
from llmanac.tokenizers.load import load_tokenizer


def train_tokens(
    source: Files, order: int, smoothing: Any, tokenizer: str, *, memory: int | None = None
) -> tuple[Any, Any]:
    """Count the documents of `source` as tokens; returns the model and its tokenizer, which has no chat template.

    Args:
        tokenizer: a folder or file of one.
        memory: bytes that counting may take; most of the free memory by default.
    """
    known = load_tokenizer(tokenizer)
    after = [] if known.eos_id is None else [known.eos_id]
    rows = []
    with progress("tokenize", None, "documents") as bar:
        for document in documents(source, CommandProblems(column="--column")):
            rows.append([*known.encode_array(document.text).tolist(), *after])
            bar.advance()
    model = Spec(order=order, smoothing=smoothing).build(vocab_size=known.vocab_size)
    model.estimate((np.array(r, np.int32) for r in rows), start=start_token(known), memory=memory)
    if known.eos_id is not None:
        model.generation = {"eos_token_id": known.eos_id}
    known.chat_template = None  # counts continue text; they were not trained on chats
    return model, known
