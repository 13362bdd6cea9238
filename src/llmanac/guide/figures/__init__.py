"""Drawings of mechanisms, one a file: `draw()` returns an SVG. What a drawing shows is computed, where it can be."""
