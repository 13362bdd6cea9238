"""README.md of a model's folder, as hubs read it: a block of metadata (YAML whose values are JSON), then text.

Fields: https://huggingface.co/docs/hub/model-cards. `library_name` is transformers where that reads the folder.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmanac.core.files import write_text

CARD, TAG = "README.md", "llmanac"
TASKS = {"ForMaskedLM": "fill-mask", "ForConditionalGeneration": "text2text-generation"}
TEXT = "Written by llmanac: `llmanac generate FOLDER` continues text with it, `llmanac serve FOLDER` serves it."
NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?(@.+)?")  # of a model on the hub, with its revision


def metadata(folder: Path) -> dict[str, Any]:
    """The fields of a card's block that stand on one line each; none where there is no such card."""
    path, found = folder / CARD, {}
    parts = path.read_text("utf-8", errors="replace").split("---\n", 2) if path.is_file() else []
    for key, text in re.findall(r"^(\w[\w-]*): *(\S.*)$", parts[1] if len(parts) == 3 and not parts[0] else "", re.M):
        try:
            found[key] = json.loads(text)
        except ValueError:
            found[key] = text.strip().strip("'\"")
    return found


def write_card(folder: Path, text: str, scores: Sequence[tuple[str, str, float]] = (), **fields: Any) -> None:
    """Write the card, with the fields that it had before; one that this package did not write is left alone.

    Args:
        scores: (data, metric, value) of its evaluation.
        fields: of the block; None takes one out.
    """
    before = metadata(folder)
    if (folder / CARD).is_file() and TAG not in before.get("tags", ()):
        return
    block = {"library_name": TAG, "pipeline_tag": "text-generation", "tags": [TAG], **before, **fields}
    block["model-index"] = None  # what was there may be of other weights
    if scores:
        task = {"type": block["pipeline_tag"]}
        results = [{"task": task, "dataset": {"type": "held-out", "name": data},
                    "metrics": [{"type": metric, "value": value}]} for data, metric, value in scores]  # fmt: skip
        block["model-index"] = [{"name": folder.resolve().parent.name, "results": results}]
    lines = "".join(f"{k}: {json.dumps(v, ensure_ascii=False)}\n" for k, v in block.items() if v is not None)
    write_text(folder / CARD, f"---\n{lines}---\n\n{text.strip()}\n")


def first_card(folder: Path, title: str, text: str = TEXT, origin: str | None = None, **fields: Any) -> None:
    """The card of what is written now, with licence and name of what it was made from."""
    known = {"license": metadata(folder).get("license"), **(_known(origin) if origin else {})}
    write_card(folder, f"# {title}\n\n{text}", license=known["license"], base_model=known.get("base_model"), **fields)


def model_card(folder: Path, config: Mapping[str, Any], origin: str | None) -> None:
    """The first card of a language model, from its config.json and what it was made from."""
    kind, architecture = config["model_type"], config["architectures"][0]
    first_card(
        folder, f"{kind}, {architecture}", origin=origin, tags=[TAG, *({kind} - {TAG})],
        library_name=TAG if kind.startswith(TAG) else "transformers",
        pipeline_tag=next((tag for end, tag in TASKS.items() if architecture.endswith(end)), "text-generation"),
    )  # fmt: skip


def _known(origin: str) -> dict[str, Any]:
    """Licence and name on the hub of the model in a folder, or of the hub's model of that name, without a network."""
    folder = Path(origin)
    if not folder.exists():
        if not NAME.fullmatch(origin):
            return {}
        from huggingface_hub import try_to_load_from_cache

        name, _, revision = origin.partition("@")
        found = try_to_load_from_cache(name, CARD, revision=revision or None)
        return {**(metadata(Path(found).parent) if isinstance(found, str) else {}), "base_model": name}
    cached = re.search(r"models--([^/]+?)--([^/]+)/snapshots/", folder.as_posix())
    return metadata(folder) | ({"base_model": "/".join(cached.groups())} if cached else {})
