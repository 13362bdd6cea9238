"""mBART: BART with norms before the parts and after each stack. Liu et al. 2020, arXiv:2001.08210."""

from llmanac.models.families.bart import bart_like

FAMILY = bart_like("MBartForConditionalGeneration", before=True, normed=True, start=2)
