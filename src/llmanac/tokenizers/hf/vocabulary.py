"""BERT's folders with a `vocab.txt`, as the `tokenizer.json` that says the same."""

from pathlib import Path

from llmanac.core.errors import TokenizerError
from llmanac.core.files import read_text
from llmanac.tokenizers._base import Tokenizer
from llmanac.tokenizers.hf import document, fields

VOCABULARY = "vocab.txt"
TOKENS = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}


def load(folder: Path) -> Tokenizer:
    """A BERT folder with a `vocab.txt` (a token a line) and, where there is one, a `tokenizer_config.json`."""
    path = folder / VOCABULARY
    lines = read_text(path, most=fields.MOST, error=TokenizerError).replace("\r\n", "\n").removesuffix("\n").split("\n")
    vocab: dict[str, int] = {}
    for id, token in enumerate(lines):
        if not token or token in vocab:
            what = "is empty" if not token else f"repeats {token[:40]!r} of line {vocab[token] + 1}"
            raise TokenizerError(f"{path}: line {id + 1} {what}; a token a line is expected, each once")
        vocab[token] = id
    config = fields.table(fields.read_config(folder / fields.CONFIG), str(folder / fields.CONFIG))
    special = {role: fields.content(config.get(f"{role}_token")) or text for role, text in TOKENS.items()}
    for role in ("unk", "sep", "cls"):
        if special[role] not in vocab:
            raise TokenizerError(f"{path}: has no {special[role]!r}, the {role} token")
    lower = config.get("do_lower_case", True)
    normalizer = {
        "type": "BertNormalizer", "clean_text": True, "strip_accents": config.get("strip_accents"),
        "handle_chinese_chars": config.get("tokenize_chinese_chars", True), "lowercase": lower,
    }  # fmt: skip
    ends = {role: [special[role], vocab[special[role]]] for role in ("sep", "cls")}
    listed = sorted({text for text in special.values() if text in vocab}, key=vocab.__getitem__)
    made = {
        "added_tokens": [{"id": vocab[text], "content": text, "special": True} for text in listed],
        "normalizer": normalizer,
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", **ends},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {"type": "WordPiece", "vocab": vocab, "unk_token": special["unk"]},
    }
    try:
        return document.from_document(made, {"pad_token": special["pad"], **config}, document.template_of(config))
    except TokenizerError as error:
        raise TokenizerError(f"{path}: {error}") from None
