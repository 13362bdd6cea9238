"""Filling a gap of a text: `suffix` of /v1/completions, and llama.cpp's POST /infill.

    <prefix> text before <suffix> text behind <middle>        the model then writes what is between

by the tokens that the tokenizer has for it. Bavarian et al. 2022, arXiv:2207.14255.
"""

from __future__ import annotations
