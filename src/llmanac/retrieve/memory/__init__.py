"""What a user wants remembered across chats, in one SQLite file: what is said explicitly, and what a model extracts."""

from llmanac.retrieve.memory.recall import Fact
from llmanac.retrieve.memory.store import Done, Memory

__all__ = ["Done", "Fact", "Memory"]
