"""Where a model is: in a run's folder, in a folder of its own, in a .gguf file, or on the hub."""

import contextlib
import functools
import hashlib
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmanac.core import files
from llmanac.core.cluster import Actors
from llmanac.core.errors import CheckpointError
from llmanac.core.named import READ
from llmanac.core.progress import say_once
from llmanac.core.stores import STORE, pull
from llmanac.models.folder import CONFIG, read_table

_pulled = functools.cache(pull)
GGUF = ".gguf"
ADAPTER = "adapter_config.json"
ASSISTANT = "assistant"  # the folder in a run that holds its assistant
HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "README.md"]


STOPPED = "stopped.json"  # in the folder of a model whose training has not ended


def say_stopped(folder: Path) -> None:
    """Say that the model in a folder is that of a training that was stopped, where it is."""
    if (folder / STOPPED).is_file():
        found = files.read_table(folder / STOPPED)
        say_once(f"{folder}: stopped at step {found.get('step')} of {found.get('steps')}; --resume would go on with it")


def locate(path: str | Path) -> tuple[str, str]:
    """The folders of a model and of its tokenizer: `(model, tokenizer)`; nothing is downloaded.

    A run has `model/` (or, while it is not finished, `base/`) and `tokenizer/`; a model's folder holds both, and so
    does a .gguf file. In a run with an assistant, `model/` only points at lines of documentation: text is continued by
    `base/`. A name that is no folder is a hub model (`owner/name`, or
    `owner/name@revision`).

    Raises:
        CheckpointError: a file, a path that does not exist, or a folder without a model.
    """
    if STORE.match(str(path)):
        path = _pulled(str(path))
    folder, name = Path(path).expanduser(), str(path)
    if folder.is_file():
        if folder.suffix == GGUF:
            return str(folder), str(folder)
        if folder.suffix in (".arpa", ".bin", ".gz"):
            raise CheckpointError(
                f"{path}: is a file of words; a model that generates counts tokens and is a folder, as "
                "`llmanac ngram train TEXT --tokenizer TOKENIZER -o FOLDER` makes it"
            )
        if folder.suffix == ".zip":
            raise CheckpointError(f"{path}: is an archive; unzip it and give the folder")
        raise CheckpointError(
            f"{path}: is a file; give the folder that holds {CONFIG} and model.safetensors, or a .gguf file"
        )
    if not folder.is_dir():
        if folder.suffix == GGUF:
            raise CheckpointError(f"{path}: no such file")
        if name.count("/") > 1 or name.startswith((".", "/", "~")) or (os.sep != "/" and os.sep in name):
            raise CheckpointError(f"{path}: no such folder; give a run's folder (runs/NAME), or a model's")
        return name, name
    for part in ("base", "model") if (folder / ASSISTANT).is_dir() else ("model", "base"):
        model = folder / part
        if (model / CONFIG).exists():
            own = (model / "tokenizer.json").exists()
            say_stopped(model)
            return str(model), str(model if own else folder / "tokenizer")
    if "_Pooling" in folder.resolve().name and (parent := folder.resolve().parent / CONFIG).exists():
        raise CheckpointError(f"{path}: says how vectors are pooled; give the model's folder, {parent.parent}")
    if not (folder / CONFIG).exists():
        raise CheckpointError(f"{folder / CONFIG}: no such file; neither a finished run nor a model is there")
    return str(folder), str(folder)


def fetched(path: str | Path) -> tuple[str, str]:
    """As `locate`; a hub model is downloaded, and its folder holds both. Raises CheckpointError as `model_folder`."""
    model, tokenizer = locate(path)
    if Path(model).exists():
        return model, tokenizer
    folder = str(model_folder(path))
    return folder, folder


def size_of(path: str | Path) -> int:
    """Bytes of a model's files; a hub model is downloaded. Raises CheckpointError as `fetched`."""
    adapter = find_adapter(path)
    found = Path(fetched((base_of(adapter) or adapter) if adapter else path)[0])
    return sum(file.stat().st_size for file in ([found] if found.is_file() else found.rglob("*")) if file.is_file())


def model_folder(path: str | Path) -> Path:
    """The folder or .gguf file of a model: that of `locate`, or the hub model of that name, downloaded.

    Raises:
        CheckpointError: no such folder and no such model on the hub.
    """
    name = locate(path)[0]
    if Path(name).exists():
        return Path(name)
    from huggingface_hub import constants, snapshot_download

    name, _, revision = name.partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=HUB_FILES))
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if constants.HF_HUB_OFFLINE:
            reason = f"it is not in the hub's cache and HF_HUB_OFFLINE is set; unset it, or `hf download {name}` first"
        raise CheckpointError(f"{path}: no such folder, and the hub did not give it ({reason})") from error


def find_adapter(path: str | Path) -> Path | None:
    """The folder with an adapter's files: `path` itself, or `path/model` of a tuning; None where there is none."""
    folder = Path(path)
    for place in (folder, folder / "model"):
        if (place / ADAPTER).is_file() and not (place / CONFIG).is_file():
            return place
    return None


def base_of(folder: str | Path) -> str | None:
    """The model that an adapter's files name. Raises CheckpointError where they are missing or damaged."""
    found = read_table(Path(folder) / ADAPTER).get("base_model_name_or_path")
    return found if isinstance(found, str) and found else None


def model_files(path: str) -> list[Path]:
    """The files that a model, its adapter and its tokenizer are read from. Raises CheckpointError."""
    adapter = find_adapter(path)
    base = path if adapter is None else str(base_of(adapter))
    places = [*([] if adapter is None else [adapter]), model_folder(base), Path(locate(base)[1])]
    found = (file for one in dict.fromkeys(places) for file in ([one] if one.is_file() else sorted(one.glob("*"))))
    return [file for file in found if file.suffix in READ and file.is_file()]


def contents(path: str) -> str:
    """A hash of the files of a model. Raises CheckpointError."""
    total = hashlib.sha256()
    for file in model_files(path):
        try:
            total.update(f"{file.name} {files.file_sha256(file)}\n".encode())
        except OSError as error:
            raise CheckpointError(f"{file}: cannot read it ({error.strerror})") from None
    return total.hexdigest()[:32]


def on_cluster(load: Callable[..., Any], path: str, workers: int | None, **how: Any) -> Actors:
    """Processes of the Ray cluster that each hold `load(path, **how)`.

    Every machine must have the model's files under the same path; one that has none, or others, is refused by name.
    """
    digest = contents(path) if Path(path).exists() else ""  # each machine fetches that of the hub or a store
    return Actors(_same, load, path, digest, socket.gethostname(), how, workers=workers)


def _same(load: Callable[..., Any], path: str, digest: str, host: str, how: dict[str, Any]) -> Any:
    if digest and (own := socket.gethostname()) != host:
        found = None
        with contextlib.suppress(CheckpointError):
            found = contents(path)
        if found != digest:
            raise CheckpointError(
                f"{path}: on {own} is no such model, or another one than on {host}; put it on a disk that all machines "
                "see, or name one of the hub or of a store"
            )
    return load(path, **how)
