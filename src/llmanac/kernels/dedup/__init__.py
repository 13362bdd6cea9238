"""Duplicates and overlap: MinHash signatures, suffix arrays, shared n-grams."""
