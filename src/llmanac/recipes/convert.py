"""A model and its tokenizer in a Hugging Face family's own layout, or as a GGUF file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmanac.core.errors import CheckpointError, LlmanacError
from llmanac.core.files import atomic_folder
from llmanac.core.outputs import check_new
from llmanac.evaluate.divergence import windows
from llmanac.models.gguf.write import export_gguf
from llmanac.models.lm.transformer import Transformer
from llmanac.models.load import export_model, load_model
from llmanac.models.locate import GGUF, locate
from llmanac.quant.gptq import importance
from llmanac.recipes.quantize import CALIBRATION, LENGTH
from llmanac.tokenizers.load import load_tokenizer


def convert(
    source: str,
    target: Path,
    family: str,
    kind: str = "f16",
    ignore: Sequence[str] = (),
    calibration: Sequence[str] | None = None,
) -> Any:
    """Load `source` (a run's or model's folder, a .gguf file, or a hub model), write `target`; returns the model.

    Args:
        family: of the folder to write, or gguf for a file, whose name ends in .gguf.
        kind: of the file's weights: one of `models.gguf.write.TYPES`.
        calibration: texts; errors in a column weigh as much as what it is multiplied with there.
        ignore: keys of config.json; see `load_model`.

    Raises:
        LlmanacError: the target exists, or the model does not fit the family.
    """
    check_new(target, "TARGET")
    if (family == "gguf") != (target.suffix == GGUF):
        raise LlmanacError(f"{target}: a GGUF file ends in {GGUF}, and nothing else does")
    place, tokens = locate(source)
    model = load_model(place, ignore=ignore)
    tokenizer = load_tokenizer(tokens)
    try:
        if family == "gguf":
            seen = None
            if calibration is not None:
                length = min(LENGTH, model.max_length or LENGTH)
                seen = importance(
                    model, windows(calibration, tokenizer, length, CALIBRATION, "--calibration").batches()
                )
            export_gguf(model, tokenizer, target, kind, seen)
            return model
        with atomic_folder(target) as folder:
            export_model(model, folder, family=family)
            tokenizer.save(folder)
    except CheckpointError as error:
        if not isinstance(model, Transformer) or model.spec.head.name != "pointer":
            raise
        raise CheckpointError(
            f"{error}; only llmanac reads a pointer head: train with -s model.head=linear to export the model"
        ) from None
    return model
