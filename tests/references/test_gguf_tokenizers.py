"""SentencePiece tokenizers of GGUF files with unusual pieces, against llama.cpp, which defines their ids."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from _published import published
from test_gguf import SIZES, VARIED, llama_cpp, other
from transformers import AutoModelForCausalLM, LlamaConfig

from llmanac.core.errors import TokenizerError
from llmanac.models.gguf.write import export_gguf
from llmanac.models.load import load_model
from llmanac.tokenizers import _pieces as spm
from llmanac.tokenizers._byte_level import read, read_all
from llmanac.tokenizers._unigram import SentencePiece
from llmanac.tokenizers.load import load_tokenizer, train_tokenizer

TYPES, IDS, ADDS = "tokenizer.ggml.token_type", "tokenizer.ggml.tokens", "tokenizer.ggml.add_space_prefix"
NAMED = "tokenizer.ggml.unknown_token_id"
LANGUAGES = [
    "The quick brown fox jumps over the lazy dog; it's 3,141 km away, isn't it?",
    "Über die Straße läuft ein müder Fuchs, während Äpfel fallen.", "L'élève naïf a déjà mangé où ça ? Œuvre d'été.",
    "¿Dónde está el niño? ¡Mañana será otro día!", "Съешь ещё этих мягких французских булок, да выпей же чаю.",
    "我能吞下玻璃而不伤身体。你好,世界!", "いろはにほへと ちりぬるを、カタカナも漢字も。",
    "الحب سماء لا تمطر غير الأحلام ١٢٣",
    "मैं काँच खा सकता हूँ और मुझे चोट नहीं लगती।", "나는 유리를 먹을 수 있어요. 그래도 아프지 않아요",
    "def f(x):\n\treturn {k: v**2 for k, v in x.items() if v != 0}  # ok\n\n\n    <b>&amp;</b>\r\n",
    "👩\u200d👩\u200d👧 🇩🇪 é e\u0301 \u200d x ﷺ 𝔹 膂 \U0010ffff ꙮ",
]  # fmt: skip


def mixed(count):
    """Pieces of the languages' texts, joined with all kinds of blanks."""
    chosen, found = random.Random(0), list(LANGUAGES)
    blanks = ["", " ", "  ", "\n", "\n\n\n", "\t", "     "]

    def piece():
        text = chosen.choice(LANGUAGES)
        start = chosen.randrange(len(text))
        return text[start : start + chosen.randrange(1, 60)]

    while len(found) < count:
        found.append(chosen.choice(["", "", *blanks]) + chosen.choice(blanks).join([piece(), piece()]))
    return found


def differences(path, texts):
    """The texts of which llama.cpp has other ids."""
    ask, ours = llama_cpp(path), load_tokenizer(path)
    body = {"add_special": False, "parse_special": False}
    return [text for text in texts if ask("/tokenize", content=text, **body)["tokens"] != list(ours.encode(text))]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A file with SentencePiece BPE without rules, and its pieces' types."""
    trained = train_tokenizer("sentencepiece", [*VARIED, *LANGUAGES] * 3, model="bpe", vocab_size=700)
    rules = spm.NormalizerRules("identity", b"", True, False, True)
    tokenizer = SentencePiece(replace(trained.model, rules=rules), **trained._settings())
    folder = tmp_path_factory.mktemp("gguf")
    config = LlamaConfig(**{**SIZES, "vocab_size": 700})
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "hf")
    path = export_gguf(load_model(folder / "hf", device="cpu"), tokenizer, folder / "m.gguf", "f32")
    return path, [piece.text for piece in tokenizer.pieces], np.array([piece.type for piece in tokenizer.pieces])


def types_with(types, where, kind):
    return {TYPES: np.where(where, kind, types).astype(np.int32)}


CASES = {
    "as it is": lambda t, k: {},
    "no space in front": lambda t, k: {ADDS: np.bool_(False)},
    "unknown is a control token": lambda t, k: types_with(k, k == spm.UNKNOWN, spm.CONTROL),
    "and is not named": lambda t, k: {**types_with(k, k == spm.UNKNOWN, spm.CONTROL), NAMED: None},
    "and is called otherwise": lambda t, k: {
        **types_with(k, k == spm.UNKNOWN, spm.CONTROL), NAMED: None,
        IDS: ["<other>" if kind == spm.UNKNOWN else text for text, kind in zip(t, k, strict=True)],
    },
    "user-defined, no space in front": lambda t, k: {
        **types_with(k, np.isin(t, ["th", "re", "er", "in"]), spm.USER_DEFINED), ADDS: np.bool_(False),
    },
    "control that text never becomes": lambda t, k: {
        **types_with(k, np.arange(len(k)) == 650, spm.CONTROL),
        IDS: [*t[:650], "<|im_start|>", *t[651:]],
    },
}  # fmt: skip


def test_the_template_for_tools_counts_where_there_are_tools(source, tmp_path):
    key = "tokenizer.chat_template"
    templates = {key: "D {{ messages[0].content }}", f"{key}.tool_use": "T {{ tools|length }}"}
    found = load_tokenizer(other(tmp_path / "m.gguf", source[0], templates))
    chat = [{"role": "user", "content": "a"}]
    assert [found.render_chat(chat, tools=tools) for tools in (None, [{}, {}])] == ["D a", "T 2"]


@pytest.mark.parametrize("case", CASES)
def test_ids_equal_llama_cpp(case, source, tmp_path):
    path, texts, types = source
    changes = CASES[case](texts, types)
    if TYPES in changes:
        assert (changes[TYPES] != types).any()
    assert differences(other(tmp_path / "m.gguf", path, changes), [*VARIED, *mixed(50)]) == []


def test_files_that_stay_refused(source, tmp_path):
    path, texts, types = source
    for where, kind, message in (
        (types == spm.UNKNOWN, spm.NORMAL, None),  # another control token stands for it
        (np.isin(types, [spm.UNKNOWN, spm.CONTROL]), spm.NORMAL, "no piece of type UNKNOWN"),
        (np.array(texts) == "<0x0A>", spm.NORMAL, "no piece for the byte <0x0A>"),
    ):
        roles = {f"tokenizer.ggml.{name}_token_id": None for name in ("bos", "eos", "padding")} if message else {}
        changed = other(tmp_path / "m.gguf", path, {**types_with(types, where, kind), **roles})
        if message is None:
            assert load_tokenizer(changed).unknown_id is None
            continue
        with pytest.raises(TokenizerError, match=message):
            load_tokenizer(changed)


@pytest.mark.slow
@pytest.mark.pretrained
def test_gemma_3s_ids_equal_llama_cpp():
    """But for texts with a literal U+2581: llama.cpp takes runs of spaces before it writes them so."""
    path = published("gemma")
    assert differences(path, mixed(1000)) == []
    tokenizer = load_tokenizer(path)
    assert tokenizer.decode(tokenizer.encode(LANGUAGES[-2])) == LANGUAGES[-2]


def test_many_entries_are_read_as_each_of_them():
    texts = [*map(chr, range(1, 0x200)), "Ġthe", "Ġ😀", "a b", "\ud800", "", "ĠĊ", "日本", "x" * 300]
    assert read_all(texts) == [read(text) for text in texts]
    assert read_all([]) == [] and sum(data is None for data in read_all(texts)) > 100
