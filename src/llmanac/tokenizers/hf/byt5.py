"""A folder whose `tokenizer_config.json` names ByT5: it has no `tokenizer.json`, since its ids need none."""

from __future__ import annotations

from pathlib import Path

from llmanac.core.errors import SpecError, TokenizerError
from llmanac.tokenizers._base import Tokenizer
from llmanac.tokenizers._utf8 import from_byt5
from llmanac.tokenizers.hf.document import CONFIG, added_tokens, shared_parts, template_of
from llmanac.tokenizers.hf.fields import read_config


def is_byt5(folder: Path) -> bool:
    """Whether the configuration in a folder names ByT5. Raises TokenizerError where it cannot be read."""
    config = read_config(folder / CONFIG)
    return isinstance(config, dict) and config.get("tokenizer_class") == "ByT5Tokenizer"


def load(folder: Path) -> Tokenizer:
    """The tokenizer of a folder whose `tokenizer_config.json` names ByT5, which has no `tokenizer.json`."""
    config = read_config(folder / CONFIG)
    try:
        parts = shared_parts({}, config, added_tokens({}, config), template_of(config))
        return from_byt5(**{key: value for key, value in parts.items() if key != "document"})
    except (TokenizerError, SpecError) as error:
        raise TokenizerError(f"{folder / CONFIG}: {error}") from None
