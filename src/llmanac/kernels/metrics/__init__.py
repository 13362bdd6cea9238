"""Counting n-grams and common subsequences of token ids, over all segments of a corpus in one call."""
