"""A row of a table for each export that was verified, for the terminal and for pages."""

from collections.abc import Mapping
from typing import Any

HEAD = ("export", "runner", "is the tuned model", "identical", "score", "KL, nats a token", "perplexity")


def cells(one: Mapping[str, Any]) -> tuple[str, ...]:
    """The cells of an export, from its `Verified.as_json`."""
    no = f"no: {', '.join(found['cause'] for found in one['findings']) or 'beyond its bounds'}"
    head = one["name"], one["runner"], "yes" if one["faithful"] else no
    if (said := one["answers"]) is None:
        return *head, "", "", "", ""
    ties = f", {said['near_ties']} part at near-ties" if said["near_ties"] else ""
    kl, scores, both = said["kl"], said["scores"], said["perplexity"]
    return (
        *head,
        f"{said['identical'][0]:.2f} of {said['prompts']}{ties}",
        "" if scores is None else f"{scores[1]:.2f} (tuned {scores[0]:.2f})",
        "" if kl is None else f"{kl[0]:.3g} ({max(kl[1], 0):.3g} to {kl[2]:.3g})",
        "" if both is None else f"{both[1]:.4g} (tuned {both[0]:.4g})",
    )
