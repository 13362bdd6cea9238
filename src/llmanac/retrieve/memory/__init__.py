"""What a user said of themselves in earlier chats: facts found by rules, kept in one SQLite file."""

from __future__ import annotations

from llmanac.retrieve.memory.recall import Fact
from llmanac.retrieve.memory.rules import Change, changes_in
from llmanac.retrieve.memory.store import Memory

__all__ = ["Change", "Fact", "Memory", "changes_in"]
