"""Language models and their parts, each part a kind of its own."""
