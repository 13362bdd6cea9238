"""The base of the filters: a stage that asks one question of each document and drops it with the answer's reason."""

from llmanac.data.documents import Document
from llmanac.data.stages import Dropped, Stage


class Filter(Stage):
    """Keeps or drops documents."""

    def reason(self, text: str) -> tuple[str, str] | None:
        """None for a text that stays, else `(reason, what was measured)`."""
        raise NotImplementedError

    def one(self, document: Document) -> Document | Dropped:
        found = self.reason(document.text)
        return document if found is None else Dropped(document, *found)
