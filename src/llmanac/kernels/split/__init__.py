"""Splitting text into pieces and words."""
