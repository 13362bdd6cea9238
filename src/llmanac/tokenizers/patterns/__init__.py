"""How text is cut into pieces: patterns with Oniguruma's meaning, as `tokenizer.json` has them."""
