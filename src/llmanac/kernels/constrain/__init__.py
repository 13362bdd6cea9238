"""Recognizers of grammars over bytes, and the tokens that may follow."""
