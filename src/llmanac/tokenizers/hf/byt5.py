"""A folder whose `tokenizer_config.json` names ByT5: it has no `tokenizer.json`, since its ids need none."""

from dataclasses import replace
from pathlib import Path

from llmanac.core.errors import SpecError, TokenizerError
from llmanac.tokenizers._bpe import NO_MERGES
from llmanac.tokenizers.hf.document import added_tokens, roles_of, template_of
from llmanac.tokenizers.hf.fields import CONFIG, read_config
from llmanac.tokenizers.patterns.splitter import Splitter
from llmanac.tokenizers.utf8 import BYT5, UTF8


def is_byt5(folder: Path) -> bool:
    """Whether the configuration in a folder names ByT5. Raises TokenizerError where it cannot be read."""
    config = read_config(folder / CONFIG)
    return isinstance(config, dict) and config.get("tokenizer_class") == "ByT5Tokenizer"


def load(folder: Path) -> UTF8:
    """The tokenizer of a folder that `transformers.ByT5Tokenizer` wrote.

    Raises:
        TokenizerError: its added tokens leave no room for 256 bytes from id 3 on.
    """
    config, first = read_config(folder / CONFIG), len(BYT5)
    try:
        added = added_tokens({}, config)
        before = {token.id: token.text.encode("utf-8") for token in added if token.id < first}
        if len(before) != first or any(first <= token.id < first + 256 for token in added):
            raise TokenizerError(
                "added tokens: ByT5 has three from id 0 on, then 256 bytes, then all others; these differ"
            )
        tokens: list[bytes | None] = [before[id] for id in range(first)]
        tokens += [bytes([byte]) for byte in range(256)]
        roles = roles_of({}, config, added, template_of(config))
        # ByT5 writes its own three as plain tokens, which a user's text could then spell.
        control = [replace(token, special=True) if token.id < first else token for token in added]
        return UTF8(tokens=tokens, merges=NO_MERGES, splitter=Splitter([]), added=control, **roles)
    except (TokenizerError, SpecError) as error:
        raise TokenizerError(f"{folder / CONFIG}: {error}") from None
