"""Hugging Face's files: `tokenizer.json`, `tokenizer_config.json`, `chat_template.jinja`."""
