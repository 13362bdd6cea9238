"""The documentation assistant of the quickstart (docs/assistant.md)."""
