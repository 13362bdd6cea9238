"""Chat templates: Jinja that is rendered in a helper process, and which characters the assistant wrote."""
