"""What a count reaches on the text of a study: what is better below that level may not be so above it."""

from __future__ import annotations

import gzip
from typing import Any

from llmanac.evaluate.baselines import join, ngram_bits
from llmanac.lab.prepare import PreparedArms

METRIC = "bits_per_byte"
MOST = 4_000_000  # tokens of the training text that are counted
BEATEN = "at a level that a count beats; may change with training"


def with_floors(result: dict[str, Any], prepared: PreparedArms) -> None:
    """Put what gzip and a byte 5-gram need into a study's result, and mark the comparisons of arms that need more."""
    values = result["values"].get(METRIC)
    if not values:
        return
    held_out, data = prepared.report, join(prepared.report)
    seen = prepared.tokenizer.decode(prepared.dataset.read(0, min(len(prepared.dataset), MOST)).tolist())
    floors = {
        "gzip": 8 * len(gzip.compress(data, 9, mtime=0)) / (len(data) - len(held_out)),
        "ngram-5": ngram_bits([seen], held_out),
    }
    level = min(floors.values())
    beaten = [arm for arm, found in values.items() if found and not sum(found) / len(found) <= level]
    result["floors"] = {**floors, "beaten": beaten}
    for comparison in result["comparisons"].get(METRIC, []):
        if comparison["arm"] in beaten or result["baseline"] in beaten:
            comparison["beaten"] = BEATEN
