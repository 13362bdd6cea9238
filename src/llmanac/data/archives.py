"""Zip archives: each file in one is read like any other, under the name `archive.zip/name`.

A file is unpacked to a temporary one, as far as the bounds allow: the sizes that an archive states are not trusted.
Archives in archives are not opened.
"""

import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from llmanac.core.errors import DataError
from llmanac.data.documents import Document, UniqueNames
from llmanac.data.quarantine import Problems, Unreadable
from llmanac.data.unpack import BLOCK, COMPRESSED, KNOWN, check_expansion, format_of, unpacked

Read = Callable[[Path, str, Problems], Iterator[Document]]
MEMBERS = 100_000  # files of one archive that are looked at


def clean_name(name: str) -> str:
    """A member's name as a path below its archive: no root, no `..`, `/` between its parts."""
    return "/".join(part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")) or "file"


def zip_documents(path: Path, shown: str, problems: Problems, read: Read) -> Iterator[Document]:
    """The documents of every file of a known format, in the archive's order; hidden ones (`.x`) are no part of it.

    Args:
        read: reads one unpacked file, given its path, what it is called, and where its problems go.

    Raises:
        Unreadable: no zip archive, or one that decompresses to more than the bounds allow; what came before was good.
    """
    size, out, names = path.stat().st_size, 0, UniqueNames()
    try:
        with (
            unpacked(path, problems) as plain,
            zipfile.ZipFile(plain) as archive,
            tempfile.TemporaryDirectory(prefix="llmanac-zip-") as folder,
        ):
            for number, member in enumerate(archive.infolist()):
                if number == MEMBERS:
                    raise Unreadable(path, f"more than {MEMBERS:,} files; what follows is left out", code="bomb")
                if member.filename.endswith("/"):  # a name may be empty, which `is_dir` cannot read
                    continue
                clean = clean_name(member.filename)
                if any(part.startswith((".", "__MACOSX", "__pycache__")) for part in clean.split("/")):
                    continue
                name = PurePosixPath(names.free(clean))
                inside = problems.named(f"{path}/{name}")
                kind = format_of(Path(clean))
                if kind == ".zip":
                    inside.report(path, None, "an archive in an archive is not opened", code="nested")
                    continue
                if kind not in KNOWN:
                    inside.pass_over(path, f"{kind or 'no suffix'} is no known format", code="unknown-format")
                    continue
                if member.flag_bits & 1:
                    inside.report(path, None, "it asks for a password", code="encrypted")
                    continue
                # only endings that are known are used, so that no name leads anywhere or is too long
                ending = PurePosixPath(clean).suffix.lower()
                file = Path(folder) / f"file{kind}{ending if ending in COMPRESSED else ''}"
                try:
                    with archive.open(member) as packed, open(file, "wb") as written:
                        while block := packed.read(BLOCK):
                            out += len(block)
                            check_expansion(path, out, size, problems)
                            written.write(block)
                except (Unreadable, OSError):
                    raise
                except Exception as error:  # lzma.LZMAError and zipfile's own have no common base
                    inside.report(path, None, f"cannot unpack it ({error})", code="damaged")
                    continue
                try:
                    yield from read(file, f"{shown}/{name}", inside)
                except Unreadable as error:  # the archive's other files are good
                    inside.report(path, None, error.reason, code=error.code)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise Unreadable(path, f"not a readable zip archive ({error})", code="damaged") from None
