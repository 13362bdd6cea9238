"""A vocabulary that goes on learning: the same merges as one training, old ids as they were, and a model's new rows."""

from __future__ import annotations

import random
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch
from _catalogues import messages
from hypothesis import given, settings
from hypothesis import strategies as st

from llmanac.core.errors import DataError, SpecError, TokenizerError
from llmanac.core.spec import make_method
from llmanac.generate._text import TextStream
from llmanac.models.resize import resize_embeddings
from llmanac.tokenizers._added import AddedToken
from llmanac.tokenizers._bpe import BPE
from llmanac.tokenizers.load import extend, load_tokenizer, train_tokenizer

many = settings(max_examples=50, deadline=None)
OLD = ["the theatre there, these others 12 123", "x = 1;\n\n  y it's", "aaaa bbbb abab baba aaab"] * 9
NEW = ["die Straße, dieser Straßen naïve", "abba baab abaabb", "0x7f 0xff\t\tfor x in y:"] * 7


@pytest.fixture(scope="module")
def old() -> BPE:
    return train_tokenizer("bpe", OLD, vocab_size=310, special_tokens=("<s>", "<|pad|>"))


@pytest.fixture(scope="module")
def new(old) -> BPE:
    return extend(old, NEW, 60)


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("pattern", ["gpt2", "gpt4", r"\S+|\s+"])
def test_going_on_with_the_same_text_is_one_training(seed, pattern):
    rng = random.Random(seed)
    letters = rng.choice(["ab ", "aé中 ", "abcdefg  \n", "aA1'-. "])
    texts = ["".join(rng.choice(letters) for _ in range(rng.randint(1, 400))) for _ in range(6)]
    choices = {"pattern": pattern, "special_tokens": ("<s>",)}
    whole = train_tokenizer("bpe", texts, vocab_size=340, **choices)
    for middle in (257, 270, (257 + whole.vocab_size) // 2):
        part = train_tokenizer("bpe", texts, vocab_size=middle, **choices)
        assert extend(part, texts, 340 - part.vocab_size).fingerprint() == whole.fingerprint()


def test_going_on_with_real_sources():
    root = Path(sysconfig.get_paths()["stdlib"])
    texts = [path.read_text("utf-8", errors="replace") for path in sorted(root.glob("*.py"))[:40]]
    part = train_tokenizer("bpe", texts, vocab_size=1000)
    twice = extend(extend(part, texts, 500), texts, 1500)
    assert twice.fingerprint() == train_tokenizer("bpe", texts, vocab_size=3000).fingerprint()


def borders(tokenizer, ids) -> set[int]:
    return set(np.cumsum([len(tokenizer.token_bytes(i)) for i in ids]).tolist())


@many
@given(
    text=st.one_of(
        st.text(max_size=60), st.lists(st.sampled_from(" ".join(OLD[:3] + NEW[:3]).split(" "))).map(" ".join)
    )
)
def test_only_neighbours_are_joined(old, new, text):
    before, after = old.encode(text), new.encode(text)
    assert new.decode(after) == text
    assert borders(new, after) <= borders(old, before)
    if not {i for i in after if i >= old.vocab_size}:
        assert after == before
    kept = iter(before)
    for id in after:  # every new token is a run of the old ones
        if id < old.vocab_size:
            assert id in kept
            continue
        data = b""
        while len(data) < len(new.token_bytes(id)):
            data += old.token_bytes(next(kept))
        assert data == new.token_bytes(id)


def test_old_ids_stay_and_the_new_text_gets_shorter(old, new, tmp_path):
    assert old.vocab_size + 20 < new.vocab_size <= old.vocab_size + 60
    assert [new.token_bytes(i) for i in range(old.vocab_size)] == [old.token_bytes(i) for i in range(old.vocab_size)]
    assert (new.merges[:, : old.merges.shape[1]] == old.merges).all()
    for text in NEW[:3]:
        assert len(new.encode(text)) < len(old.encode(text))
    for text in OLD[:2]:
        assert new.encode(text) == old.encode(text)
    new.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again.fingerprint() == new.fingerprint() and [again.encode(t) for t in NEW] == [new.encode(t) for t in NEW]
    assert again.special_tokens == old.special_tokens


def test_what_it_writes_the_peer_reads(new, tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    new.save(tmp_path)
    peer = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in [*OLD[:3], *NEW[:3], "Straße abba <s>"]:
        assert new.encode(text, special="all") == peer.encode(text, add_special_tokens=False).ids


def test_ids_beyond_added_tokens_and_no_forged_ones():
    """A vocabulary with a control token at its end, and new text that spells it again and again."""
    base = train_tokenizer("bpe", OLD, vocab_size=280, pattern=r"\S+|\s+", special_tokens=())
    end = AddedToken(id=300, text="<|end|>")
    old = BPE(tokens=base.tokens, merges=base.merges, splitter=base.splitter, added=[end], eos="<|end|>")
    new = extend(old, ["<|end|> <|end|> <|end|>x yyy"] * 20, 30)
    assert new.eos_id == 300 and new.vocab_size > 301 and new.token_bytes(300) == b"<|end|>"
    assert all(new._bytes[i] != b"<|end|>" for i in range(301, new.vocab_size))
    ids = new.encode("<|end|> <|end|>x")
    assert 300 not in ids and new.decode(ids) == "<|end|> <|end|>x"
    assert new.encode("<|end|>", special="all") == [300]


def test_a_real_language(tmp_path):
    english, german = list(messages("de")), list(messages("de").values())
    old = train_tokenizer("bpe", english, vocab_size=2000)
    new = extend(old, german[::2], 1000)
    before, after = (sum(map(len, t.encode_batch(german[1::2]))) for t in (old, new))
    assert after < before * 0.75
    mixed = sum(map(len, new.encode_batch(english))) / sum(map(len, old.encode_batch(english)))
    assert 0.9 < mixed <= 1.0


def test_bytes_without_a_token_are_left_out():
    letters = [bytes([byte]) for byte in b"abcdef "]
    old = BPE(tokens=letters, merges=np.empty((3, 0), np.int32), splitter=train_tokenizer("bpe", OLD).splitter)
    new = extend(old, ["abab abab zz ézé abc"] * 3, 5)
    assert new.encode("abab") != old.encode("abab") and new.decode(new.encode("abab abc")) == "abab abc"


def test_errors_say_what_to_do(old):
    for bad in (0, -1):
        with pytest.raises(TokenizerError, match=f"extend: extra is {bad}; ask for one token or more"):
            extend(old, NEW, bad)
    with pytest.raises(TokenizerError, match=r"extend: extra is '3', not a number of tokens"):
        extend(old, NEW, "3")
    with pytest.raises(TokenizerError, match="ids are more than can be numbered"):
        extend(old, NEW, 1 << 31)
    with pytest.raises(DataError, match="extend: the texts to learn from are empty"):
        extend(old, [], 3)
    with pytest.raises(DataError, match="extend: text 0 is bytes, not str"):
        extend(old, [b"a"], 3)


# ------------------------------------------------------------------------------------------------ the model's side
def model(tied: bool, vocab_size: int = 50):
    spec = make_method("lm", {"name": "transformer", "dim": 32, "layers": 1, "tied": tied})
    return spec.build(vocab_size=vocab_size).initialise(3)


@pytest.mark.parametrize("tied", [True, False])
def test_new_rows_are_the_mean_of_the_old(tied, tmp_path):
    made = model(tied)
    ids = torch.randint(0, 50, (2, 9))
    before, rows = made(ids).logits, made.model.embed_tokens.weight.detach().clone()
    head = made.lm_head.weight.detach().clone()
    resize_embeddings(made, 60)
    assert made.vocab_size == 60 and (made.lm_head.weight is made.model.embed_tokens.weight) is tied
    assert torch.equal(made.model.embed_tokens.weight[:50], rows) and torch.equal(made.lm_head.weight[:50], head)
    torch.testing.assert_close(made.model.embed_tokens.weight[50:], rows.mean(0).expand(10, -1))
    after = made(ids).logits
    assert after.shape == (2, 9, 60)
    torch.testing.assert_close(after[..., :50], before)
    torch.testing.assert_close(after[..., 50:], before.mean(-1, keepdim=True).expand(2, 9, 10), atol=1e-5, rtol=1e-4)
    made(torch.full((1, 3), 59)).logits.sum().backward()
    assert made.model.embed_tokens.weight.grad[59].abs().sum() > 0
    made.save_pretrained(tmp_path)
    from llmanac.models.load import load_model

    torch.testing.assert_close(load_model(tmp_path)(ids).logits, after)


def test_beside_transformers_add_tokens():
    """Its mean initialisation draws around the mean of the old rows; without the noise it is ours."""
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2
    )
    torch.manual_seed(0)
    peer = transformers.LlamaForCausalLM(config)
    mine = model(False)
    with torch.no_grad():
        mine.model.embed_tokens.weight.copy_(peer.model.embed_tokens.weight)
        mine.lm_head.weight.copy_(peer.lm_head.weight)
    resize_embeddings(mine, 4050)
    peer.resize_token_embeddings(4050, mean_resizing=True)
    for ours, theirs in ((mine.model.embed_tokens, peer.model.embed_tokens), (mine.lm_head, peer.lm_head)):
        assert torch.equal(ours.weight[:50], theirs.weight[:50])
        torch.testing.assert_close(ours.weight[50:].mean(0), theirs.weight[50:].mean(0), atol=2e-4, rtol=0)


def test_new_rows_may_start_at_the_mean_of_their_parts(old, new):
    made = model(False, old.vocab_size)
    rows = made.model.embed_tokens.weight.detach().clone()
    parts = [old.encode(new.token_bytes(id).decode("utf-8", "replace")) for id in range(old.vocab_size, new.vocab_size)]
    resize_embeddings(made, new.vocab_size, parts=parts)
    torch.testing.assert_close(made.model.embed_tokens.weight[old.vocab_size], rows[parts[0]].mean(0))
    with pytest.raises(SpecError, match="vocab_size: 10 is less than the model's"):
        resize_embeddings(made, 10)
    with pytest.raises(SpecError, match="parts: 1 given for 2 new rows"):
        resize_embeddings(made, made.vocab_size + 2, parts=[[0]])
    with pytest.raises(SpecError, match=r"parts.1: \[999999\] holds an id outside"):
        resize_embeddings(made, made.vocab_size + 2, parts=[[0], [999_999]])


def test_words_stream_with_blanks_between_them():
    words = train_tokenizer("word", ["the cat sat on the mat"])
    ids = words.encode("the cat on the mat")
    stream = TextStream(words, stops=["on the"])
    for id in ids:
        stream.push(id)
    assert stream.text == "the cat " and stream.stopped
    stream = TextStream(words)
    for id in ids:
        stream.push(id)
    stream.close()
    assert stream.text == words.decode(ids) == "the cat on the mat"
