"""The project of a method of one's own: a distribution that adds it by the entry point `llmanac.methods`.

The method begins as one that exists, so that the project installs, is listed and compared before a line is changed.
"""

import re
import tomllib
from pathlib import Path

from llmanac.core import files, registry
from llmanac.core.errors import SpecError

TEMPLATES = Path(__file__).with_name("templates") / "new_method.toml"
NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


def write_project(name: str, kind: str, folder: Path, like: str | None = None) -> list[str]:
    """Write the project into a new folder; returns its files.

    Args:
        like: the method of the kind that it begins as; the kind's first by default.

    Raises:
        SpecError: an unknown kind or method, or a name that is taken or is none.
        LlmanacError: the folder is there, or the disk refuses.
    """
    known = registry.methods(kind)
    if not NAME.fullmatch(name):
        raise SpecError(f"name: {name!r} must be of small letters, digits and single dashes, such as my-{kind}")
    if name in known:
        raise SpecError(f"name: {kind} {name!r} is there already; choose another name")
    begun = registry.find(kind, like or next(iter(known)))
    if folder.exists():
        raise SpecError(f"{folder}: is there already; name another folder with -o")
    stem, place = name.replace("-", "_"), kind.replace("-", "_")
    package, _, module = begun.module_name.rpartition(".")
    words = {
        "name": name, "stem": stem, "kind": kind, "folder": place, "title": name.replace("-", " ").capitalize(),
        "package": f"llmanac_{stem}", "module": module, "from": package, "like": begun.path.stem.replace("_", "-"),
    }  # fmt: skip
    filled = re.sub(r"@(\w+)@", lambda found: words[found[1]], TEMPLATES.read_text("utf-8"))
    texts = tomllib.loads(filled)
    with files.atomic_folder(folder) as made:
        for path, text in texts.items():
            (made / path).parent.mkdir(parents=True, exist_ok=True)
            (made / path).write_text(text, "utf-8")
    return sorted(texts)
