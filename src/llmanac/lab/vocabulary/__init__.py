"""`llmanac tokenizer`: learn a tokenizer, use it, look into it, and compare several on text of several kinds."""
