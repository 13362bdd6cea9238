"""Answers of `/v1/responses` that a later request may go on from: the latest ones, within a bound of bytes."""

import json
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

MOST_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Kept:
    """A reply as it was sent, and the conversation up to its end, as messages of a chat request."""

    reply: dict[str, Any]
    messages: list[dict[str, Any]]
    size: int


class KeptReplies:
    """The latest answers by their ids. For any thread."""

    def __init__(self, most: int = MOST_BYTES) -> None:
        self.most, self.size = most, 0
        self._found: OrderedDict[str, Kept] = OrderedDict()
        self._lock = threading.Lock()

    def keep(self, reply: dict[str, Any], messages: list[dict[str, Any]]) -> None:
        """Add an answer; the oldest leave where there are too many bytes. One larger than the bound is not kept."""
        size = len(json.dumps([reply, messages]))
        if size > self.most:
            return
        with self._lock:
            self._found[reply["id"]] = Kept(reply, messages, size)
            self.size += size
            while self.size > self.most:
                self.size -= self._found.popitem(last=False)[1].size

    def get(self, name: str) -> Kept | None:
        """An answer, which counts as new again; None where it was never here, or is no longer."""
        with self._lock:
            if name in self._found:
                self._found.move_to_end(name)
            return self._found.get(name)

    def forget(self, name: str) -> bool:
        """Whether it was there."""
        with self._lock:
            found = self._found.pop(name, None)
            self.size -= 0 if found is None else found.size
            return found is not None
