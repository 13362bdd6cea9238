"""Counts and cuts of documents: tags, lines, quality signals, features."""
