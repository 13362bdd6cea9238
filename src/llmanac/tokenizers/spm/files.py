"""The file of a SentencePiece tokenizer, `tokenizer.model`, and what a `tokenizer_config.json` adds to it.

The `.model` decides all ids of its pieces; a configuration names the special roles and tokens behind the model's own.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmanac.core.errors import TokenizerError
from llmanac.core.files import read_bytes, write_bytes
from llmanac.tokenizers import _pieces as pieces
from llmanac.tokenizers._added import AddedToken
from llmanac.tokenizers._base import ROLES
from llmanac.tokenizers._unigram import SentencePiece
from llmanac.tokenizers.hf.fields import CONFIG, MOST, content, flags_of, id_of
from llmanac.tokenizers.spm.model import parse, written


def load(path: Path, config: Mapping[str, Any], chat_template: str | None) -> SentencePiece:
    """Read a `.model` file, with roles and further tokens from a parsed `tokenizer_config.json`.

    Raises:
        TokenizerError: the file is broken or asks for what this package cannot do; one sentence.
    """
    data = read_bytes(path, most=MOST, error=TokenizerError)
    try:
        model = parse(data)
        control = {piece.text: id for id, piece in enumerate(model.pieces) if piece.type == pieces.CONTROL}
        added = [*(AddedToken(id=id, text=text) for text, id in control.items()), *_beyond(model, config)]
        known = {token.text for token in added}
        roles: dict[str, str | None] = {}
        for role in ROLES:
            named, own = content(config.get(f"{role}_token")), str(model.setting(f"{role}_piece"))
            roles[role] = named if named in known else own if own in control else None
        adds_bos = config.get("add_bos_token") is True
        return SentencePiece(model, added=added, adds_bos=adds_bos, chat_template=chat_template, **roles)
    except TokenizerError as error:
        raise TokenizerError(f"{path}: {error}") from None


def _beyond(model: pieces.Model, config: Mapping[str, Any]) -> list[AddedToken]:
    """Tokens that a configuration adds behind the model's own ids."""
    table = config.get("added_tokens_decoder")
    out: list[AddedToken] = []
    for key, value in table.items() if isinstance(table, Mapping) else ():
        id, text = id_of(key), content(value)
        where = f"{CONFIG}: added_tokens_decoder.{str(key)[:40]}"
        if id is None or text is None or not isinstance(value, Mapping):
            raise TokenizerError(f"{where}: needs an id and a `content`")
        flags = flags_of(value, where)
        if id >= len(model.pieces):
            out.append(AddedToken(id=id, text=text, **flags))
    return out


def save(tokenizer: SentencePiece, path: Path) -> None:
    """Write the `.model` file, as the sentencepiece library reads it."""
    write_bytes(path, written(tokenizer.model))
