"""Pegasus: BART's form with norms before the parts and fixed positions. Zhang et al. 2020, arXiv:1912.08777."""

from llmanac.models.families.bart import bart_like

FAMILY = bart_like("PegasusForConditionalGeneration", before=True, normed=False, fixed=True, start=0)
