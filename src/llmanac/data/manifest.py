"""What a corpus is made of: inputs, licences, hashes and counts, for `manifest.json` and the model card."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from llmanac.data.documents import Document

UNKNOWN = "unknown"
LISTED = 200  # inputs that are listed by name; a corpus of more files gives the totals


class Tally:
    """Counts documents as they go by: per input and in all, with a hash over the texts in their order."""

    def __init__(self) -> None:
        self.documents, self.bytes, self.characters = 0, 0, 0
        self.inputs: dict[str, dict[str, Any]] = {}
        self._hash = hashlib.sha256()

    def add(self, document: Document) -> None:
        data = document.text.encode("utf-8")
        self.documents += 1
        self.bytes += len(data)
        self.characters += len(document.text)
        self._hash.update(len(data).to_bytes(8, "little") + data)
        name = str(document.meta.get("input", document.group))
        entry = self.inputs.setdefault(
            name, {"license": document.meta.get("license") or UNKNOWN, "documents": 0, "bytes": 0}
        )
        entry["documents"] += 1
        entry["bytes"] += len(data)

    @property
    def sha256(self) -> str:
        """Hash of every text added so far, each with its length."""
        return self._hash.hexdigest()

    def licenses(self) -> dict[str, int]:
        """Bytes under each licence."""
        out: dict[str, int] = {}
        for entry in self.inputs.values():
            out[entry["license"]] = out.get(entry["license"], 0) + entry["bytes"]
        return out

    def as_json(self) -> dict[str, Any]:
        counts = {"documents": self.documents, "bytes": self.bytes, "characters": self.characters}
        return {**counts, "sha256": self.sha256, "licenses": self.licenses()}


def manifest(
    source: Mapping[str, Any],
    train: Tally,
    held_out: Tally,
    *,
    dropped: Mapping[str, Any],
    held_out_by: Any,
    stages: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """The manifest as JSON data.

    Args:
        source: the source's Spec as plain data.
        dropped: counts of what did not get in (`empty`, `duplicates`, `unusable`).
        held_out_by: how the held-out documents were chosen.
        stages: what each stage of a build took in and let through.
    """
    inputs: dict[str, dict[str, Any]] = {}
    for tally in (train, held_out):
        for name, entry in tally.inputs.items():
            known = inputs.setdefault(name, {"license": entry["license"], "documents": 0, "bytes": 0})
            known["documents"] += entry["documents"]
            known["bytes"] += entry["bytes"]
    listed = dict(sorted(inputs.items())[:LISTED])
    return {
        "format_version": 1,
        "source": dict(source),
        "inputs": listed,
        "inputs_not_listed": len(inputs) - len(listed),
        "train": train.as_json(),
        "held_out": held_out.as_json(),
        "held_out_by": held_out_by,
        "dropped": dict(dropped),
        **({"stages": [dict(stage) for stage in stages]} if stages else {}),
    }
