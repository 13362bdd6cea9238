"""Finished blocks of an output, kept beside it until all are there: a stopped command goes on, in any order."""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmanac.core import files
from llmanac.core.errors import LlmanacError, SpecError
from llmanac.core.lock import locked
from llmanac.core.outputs import check_output
from llmanac.core.spec import dump

ASKED = "asked.json"


def parts_of(output: Path) -> Path:
    """The folder of an unfinished output."""
    return output.with_name(f"{output.name}.parts")


@contextlib.contextmanager
def parts_for(output: Path, asked: dict[str, Any], *, force: bool) -> Iterator["Parts"]:
    """The parts of an output, which nobody else writes meanwhile; removed at the end of a block that has no error.

    Args:
        asked: what the parts depend on, as JSON data.

    Raises:
        SpecError: parts of a command that asked something else, or an output that may not be written over.
        LlmanacError: another command writes the same output.
    """
    folder = parts_of(output)
    lock = folder.with_name(f"{folder.name}.lock")
    with locked(lock, busy=f"--output: another command writes {output} now; wait for it, or name another place"):
        check_output(output, "--output", force=force)  # it may have been finished while a model was loaded
        if folder.is_dir():
            before = files.read_json(folder / ASKED) if (folder / ASKED).is_file() else None
            if before != asked:
                raise SpecError(
                    f"--output: {folder} has texts of a command with other options ({_difference(before, asked)}); run "
                    "that one again, or remove the folder to start over, or name another output"
                )
        else:
            with files.atomic_folder(folder) as made:
                files.write_json(made / ASKED, asked)
        yield Parts(folder)
        shutil.rmtree(folder)
        with contextlib.suppress(OSError):
            lock.unlink()


class Parts:
    """Blocks by number, each with its checksum before it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def left(self, count: int) -> list[int]:
        """The numbers below `count` of blocks that are not there, or are not what was kept."""
        return [number for number in range(count) if self._found(number) is None]

    def keep(self, number: int, data: bytes) -> None:
        """Keep a block, completely or not at all."""
        files.write_bytes(self._place(number), f"{hashlib.sha256(data).hexdigest()}\n".encode() + data)

    def read(self, number: int) -> bytes:
        """A kept block. Raises LlmanacError where somebody has changed it."""
        if (found := self._found(number)) is None:
            raise LlmanacError(f"{self._place(number)}: changed while the command ran; run it again")
        return found

    def _place(self, number: int) -> Path:
        return self.folder / f"{number:06d}.part"

    def _found(self, number: int) -> bytes | None:
        path = self._place(number)
        if not path.is_file():
            return None
        digest, _, data = files.read_bytes(path).partition(b"\n")
        return data if hashlib.sha256(data).hexdigest().encode() == digest else None


def plain(options: Mapping[str, object]) -> Any:
    """Options as JSON data that reads back the same."""
    given = {name: dump(value) for name, value in options.items()}
    return json.loads(json.dumps(given, default=str, sort_keys=True))


def hashed(texts: Sequence[str]) -> str:
    """What identifies texts in their order."""
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()


def _difference(before: Any, asked: dict[str, Any]) -> str:
    """What two commands differ in, by the names of flags and files."""
    if not isinstance(before, dict) or before.keys() != asked.keys():
        return f"{ASKED} is missing, damaged or of another version"
    said = [f"another {name}" for name, value in asked.items() if not isinstance(value, dict) and before[name] != value]
    for part in sorted(
        (name for name, value in asked.items() if isinstance(value, dict)), key=lambda name: name.endswith("files")
    ):
        old, new = before[part], asked[part]
        keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
        said += keys if part.endswith("files") else [f"--{key.replace('_', '-')}" for key in keys]
    return ", ".join(said[:8])
