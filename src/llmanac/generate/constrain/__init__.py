"""Constraints on generated text: regular expressions, JSON Schema, grammars, templates."""
