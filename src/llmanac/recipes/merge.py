"""An adapter folded into its model, and written as a model of its own."""

from pathlib import Path
from typing import Any

from llmanac.adapters import LinearTransform, Merged
from llmanac.adapters.load import CONFIG as SETTINGS
from llmanac.adapters.load import load_adapter
from llmanac.core.errors import CheckpointError, LlmanacError, SpecError, shown
from llmanac.core.files import atomic_folder
from llmanac.core.outputs import check_new
from llmanac.evaluate.embed import copy_settings
from llmanac.models.families import Misfit
from llmanac.models.folder import CONFIG, read_table
from llmanac.models.load import load_model
from llmanac.models.locate import GGUF, base_of, find_adapter, locate, model_folder
from llmanac.models.save import DTYPE_NAMES, export_model, save_model
from llmanac.tokenizers.load import load_tokenizer


def merge(adapter: str | Path, target: Path, *, base: str | None = None, dtype: str | None = None) -> Merged:
    """Load an adapter on its base and write the merged model to `target`; packed matrices are written dense.

    Args:
        base: the model, by default the one that the adapter names.
        dtype: of the written weights, by default the base's own (float32 for packed matrices and .gguf files).

    Raises:
        SpecError, CheckpointError: what cannot be done; nothing is written then.
    """
    if target.suffix == GGUF:
        raise SpecError(f"--output: {target}: a merged model is a folder; `llmanac quantize` makes a {GGUF} file of it")
    check_new(target, "--output")
    found = find_adapter(adapter)
    whole = next((place for place in (Path(adapter), Path(adapter) / "model") if (place / CONFIG).is_file()), None)
    if found is None and whole is not None:
        raise SpecError(f"{adapter}: has no adapter; {whole} is a plain checkpoint already")
    adapter = found or adapter
    if not (Path(adapter) / SETTINGS).is_file():
        raise CheckpointError(f"ADAPTER: {adapter} is no folder with {SETTINGS}")
    if dtype is not None and dtype not in ("auto", *DTYPE_NAMES.values()):
        raise SpecError(f"--dtype: {shown(dtype)} is none of {', '.join(DTYPE_NAMES.values())}")
    source = base or base_of(adapter)
    if source is None:
        raise SpecError(f"--base: {adapter} does not name its model; give --base MODEL")
    try:
        place, tokens = locate(source)
        model: Any = load_model(place, dtype=dtype or _dtype(place), device="cpu")
    except LlmanacError as error:
        where = f"--base: {error}" if base else f"{error} (named in {adapter}; give --base MODEL)"
        raise type(error)(where) from error
    transform = load_adapter(model, adapter)
    if not isinstance(transform, LinearTransform):
        transform.merge()  # says why not
    assert isinstance(transform, LinearTransform)
    report = transform.merge()
    own = (Path(adapter) / "tokenizer.json").is_file()  # tuning may have given it a chat template
    tokenizer = load_tokenizer(str(adapter) if own else tokens)
    with atomic_folder(target) as folder:
        try:
            export_model(model, folder, model.family) if model.family else save_model(model, folder)
        except Misfit:
            save_model(model, folder)
        tokenizer.save(folder)
        copy_settings(model_folder(place), folder)
        check_new(target, "--output")  # again: another command may have written it meanwhile
    return report


def _dtype(place: str) -> str:
    """That of the weights of a folder."""
    config = read_table(Path(place) / CONFIG) if Path(place).is_dir() else {}
    named = config.get("dtype", config.get("torch_dtype"))
    packed = config.get("quantization_config") is not None
    return named if isinstance(named, str) and named in DTYPE_NAMES.values() and not packed else "float32"
