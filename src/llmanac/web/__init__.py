"""The web: an OpenAI-compatible server over the one engine, and a plain chat page."""
