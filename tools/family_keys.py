"""Make `src/llmanac/models/families/peer.toml`: which keys of a config.json transformers has, and which change nothing.

For each family: the keys of its configuration class with their defaults, and the other spellings that the class takes
for them. Then the names that any language model of transformers reads from its config: a key of such a name is never
ignored, whatever the family. What the table had before and has no longer, or otherwise, is printed.

    python tools/family_keys.py          # needs the [test] extra (transformers)
"""

from __future__ import annotations

import dataclasses
import json
import re
import textwrap
import tomllib
from pathlib import Path
from typing import Any

import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from llmanac.core import files
from llmanac.models.families import FAMILIES
from llmanac.models.families._config import NEUTRAL

PATH = Path(__file__).parents[1] / "src/llmanac/models/families/peer.toml"
READS = re.compile(r"\b(?:self\.|text_)?config\.([a-z_]\w*)|getattr\(\s*(?:self\.)?config,\s*\"(\w+)\"")
LANGUAGE = re.compile(r"class \w+For(CausalLM|MaskedLM|ConditionalGeneration)\(")


def family_keys(kind: str) -> dict[str, Any]:
    """`{"keys": {key: default}, "unset": [key], "same": {other spelling: key}}` of a configuration class."""
    cls = CONFIG_MAPPING[kind]
    declared = {field.name: field.default for field in dataclasses.fields(cls)}
    made = cls().to_dict()
    keys, unset = {}, []
    for key in sorted({*declared, *made}):
        value = declared.get(key, made.get(key))
        if key in NEUTRAL:
            continue
        if isinstance(value, (bool, int, float, str)):
            keys[key] = value
        else:
            unset.append(key)
    return {"keys": keys, "unset": unset, "same": dict(sorted(cls.attribute_map.items()))}


def read_names() -> list[str]:
    """The names that modelling files of language models read."""
    names = set()
    for path in Path(transformers.__file__).parent.glob("models/*/modeling_*.py"):
        text = path.read_text("utf-8")
        if LANGUAGE.search(text):
            names |= {first or second for first, second in READS.findall(text)}
    return sorted(names - NEUTRAL)


def written(table: dict[str, Any]) -> str:
    """The table as TOML."""
    words, types = (
        textwrap.wrap(" ".join(table[part]), 115, break_on_hyphens=False, break_long_words=False)
        for part in ("computing", "types")
    )
    lines = [
        "# Made by tools/family_keys.py; read by _config.py.", "",
        f'version = "{table["version"]}"  # of transformers',
        "# what a language model of transformers reads from its config", 'computing = """', *words, '"""',
        "# its model types", 'types = """', *types, '"""',
    ]  # fmt: skip
    for kind, own in table["families"].items():
        lines += ["", f"[families.{kind}]", f"unset = {json.dumps(own['unset'])}"]
        for part in ("keys", "same"):
            lines += ["", f"[families.{kind}.{part}]"]
            lines += [f"{key} = {json.dumps(value)}" for key, value in own[part].items()]
    return "\n".join(lines) + "\n"


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What differs, a line each."""
    found = []
    for kind, own in new["families"].items():
        before = old.get("families", {}).get(kind, {"keys": {}, "unset": [], "same": {}})
        both = [{**dict.fromkeys(one["unset"]), **one["same"], **one["keys"]} for one in (before, own)]
        for key in sorted({*both[0], *both[1]}):
            if both[0].get(key, ...) != both[1].get(key, ...):
                found.append(f"{kind}.{key}: {both[0].get(key, 'absent')!r} -> {both[1].get(key, 'absent')!r}")
    known = set(old.get("computing", "").split())
    found += [f"type: {name}" for name in new["types"] if name not in old.get("types", "").split()]
    return found + [f"read: {name}" for name in new["computing"] if name not in known]


def main() -> None:
    table = {
        "version": transformers.__version__,
        "computing": read_names(),
        "types": sorted(CONFIG_MAPPING),
        "families": {kind: family_keys(kind) for kind in FAMILIES},
    }
    before = tomllib.loads(PATH.read_text("utf-8")) if PATH.exists() else {}
    print("\n".join(changes(before, table)) or "nothing changed")
    files.write_text(PATH, written(table))


if __name__ == "__main__":
    main()
