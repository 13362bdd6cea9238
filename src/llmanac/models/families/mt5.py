"""mT5: T5 1.1 in 101 languages; what the head reads is never scaled. Xue et al. 2021, arXiv:2010.11934."""

from dataclasses import replace

from llmanac.models.families._table import ConfigEntry, Key, with_defaults
from llmanac.models.families.t5 import FAMILY as T5
from llmanac.models.families.t5 import T5Output, T5Projection


def _entry(entry: ConfigEntry) -> ConfigEntry:
    if isinstance(entry, T5Output):
        return Key("tie_word_embeddings", "tied", bool, default=True)
    if isinstance(entry, T5Projection):
        return T5Projection("gated-gelu")
    return entry


FAMILY = replace(
    T5,
    architecture="MT5ForConditionalGeneration",
    entries=with_defaults([*map(_entry, T5.entries)], vocab_size=250112, num_layers=8, num_heads=6, d_ff=1024),
)
