"""Where things are in the folder of a run, and how a name on the command line becomes one."""

from __future__ import annotations

from pathlib import Path

from llmanac.core.errors import LlmanacError


def model_folder(path: str | Path, which: str = "model") -> str | Path:
    """The folder of a run's model (`which`: "model" or "base"); a model's own folder or a hub name as it is.

    Raises:
        LlmanacError: a run that has no such model yet, or a folder that is neither a run nor a model.
    """
    folder = Path(path)
    if not folder.exists():
        return str(path)  # a hub model's name: loading it says if it is none
    if (folder / "config.json").is_file():
        return folder
    if (folder / which / "config.json").is_file():
        return folder / which
    if (folder / "run.json").is_file():
        raise LlmanacError(
            f"{folder}: this run has no model yet; finish it with `llmanac run --resume --folder {folder}`"
        )
    raise LlmanacError(f"{folder}: neither a run nor a model (no config.json in it)")
