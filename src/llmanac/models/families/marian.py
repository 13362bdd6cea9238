"""Marian: BART's form with fixed positions and without a norm of the embeddings; the models of OPUS-MT.

Both languages have one vocabulary. Junczys-Dowmunt et al. 2018, arXiv:1804.00344.
"""

from dataclasses import replace

from llmanac.models.families._table import Equal, Only
from llmanac.models.families.bart import bart_like

BASE = bart_like("MarianMTModel", before=False, normed=False, fixed=True, start=58100)
FAMILY = replace(
    BASE,
    entries=(
        *BASE.entries, Equal("decoder_vocab_size", "vocab_size"), Only("share_encoder_decoder_embeddings", (True,)),
    ),
)  # fmt: skip
