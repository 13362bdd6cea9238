"""The files and folders that the fields of Specs name, by hashes: what is kept of a result is of what they held."""

import functools
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from llmanac.core.files import file_sha256
from llmanac.core.spec import Spec, dump, flatten

READ = {".json", ".safetensors", ".gguf", ".model", ".jinja", ".txt", ".bin", ".pt"}  # files that a model is read from
FOLDERS = {"encoder", "file", "folder", "model", "path", "rules"}  # fields that may name one; others hold words


def named_files(*specs: Spec) -> dict[str, str]:
    """`{path: sha256}` of what is there: files, and of folders of models the files that a model is read from.

    A field may also name a function in a file (`rewards.py:letters`).
    """
    found: dict[str, str] = {}
    for spec in specs:
        for field, value in flatten(dump(spec)).items():
            for name in value if isinstance(value, list) else [value]:
                if isinstance(name, str) and 0 < len(name) < 4096 and "\0" not in name:
                    for path in _files(name, field.rpartition(".")[2] in FOLDERS):
                        status = path.stat()
                        found[str(path)] = _hash(path, (status.st_mtime_ns, status.st_size))
    return found


def _files(name: str, folders: bool) -> Iterator[Path]:
    place = Path(name.rpartition(":")[0] if ".py:" in name else name)
    if place.is_file():
        yield place
    elif folders and place.is_dir():
        every = sorted(file for at in (place, place / "model") for file in at.glob("*"))
        yield from (file for file in every if file.suffix in READ and file.is_file())


@functools.lru_cache(maxsize=4096)
def _hash(path: Path, _stamp: tuple[int, int]) -> str:
    return file_sha256(path)


def run_file(path: Path, name: str) -> ModuleType:
    """The module of a user's Python file, run now; what the file raises is raised, and `name` is not in `sys.modules`.

    Python's loader would take a compiled form that is found by whole seconds and size: a quick edit would go unseen.
    """
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their annotations up there
    try:
        exec(compile(path.read_bytes(), path, "exec"), module.__dict__)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module
