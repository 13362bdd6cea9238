"""The engine with the package's own tokenizer: text, begin-of-text, chats, special tokens."""

from __future__ import annotations

import pytest
import torch
from _engine_models import HistoryModel

from llmanac.generate.engine import Engine
from llmanac.tokenizers.load import load_tokenizer, train_tokenizer

TEXTS = ["The naïve cat sat on the mat, 日本語 and 🙂 smile. " * 3, "another text with other words, 1234 and more"] * 4


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer("bpe", TEXTS, vocab_size=300, special_tokens=["<|end|>", "<|user|>"])


def test_streamed_text_is_the_decoded_text_for_any_ids(tokenizer):
    generator = torch.Generator().manual_seed(0)
    engine = Engine(HistoryModel(vocab_size=tokenizer.vocab_size + 7), tokenizer)  # a padded vocabulary too
    for _ in range(20):
        prompt = torch.randint(0, tokenizer.vocab_size, (5,), generator=generator).tolist()
        options = {"temperature": 1.0, "max_new_tokens": 40, "seed": 1, "stop_ids": ()}
        done = engine.generate([prompt], **options)[0]
        known = [i for i in done.ids if i < tokenizer.vocab_size]
        assert done.text == tokenizer.decode(known, skip_special=True)
        assert "".join(p.text for p in engine.stream(prompt, **options)) == done.text


def test_text_prompts_are_plain_text_and_begin_as_the_tokenizer_says(tokenizer, tmp_path):
    engine = Engine(HistoryModel(vocab_size=tokenizer.vocab_size), tokenizer)
    done = engine.generate("the <|end|> cat", max_new_tokens=1)[0]
    assert tokenizer.special_tokens["<|end|>"] not in done.prompt_ids
    tokenizer.save(tmp_path)
    other = load_tokenizer(tmp_path)
    other.bos_id, other.adds_bos = other.special_tokens["<|user|>"], True
    begun = Engine(HistoryModel(vocab_size=tokenizer.vocab_size), other).generate("the <|end|> cat", max_new_tokens=1)[
        0
    ]
    assert begun.prompt_ids == (other.bos_id, *done.prompt_ids)
