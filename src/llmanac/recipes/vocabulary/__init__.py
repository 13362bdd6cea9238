"""`llmanac tokenizer`: learn a tokenizer from files, use it, look into it."""
