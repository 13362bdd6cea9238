"""An engine from a path: a run's folder, a model's folder, or the name of a hub model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from llmanac.core import files, registry
from llmanac.core.device import may_have_gpu, torch_is_there
from llmanac.core.errors import CheckpointError, DataError, RequestError, SpecError
from llmanac.core.spec import make_method
from llmanac.core.types import LanguageModel, capabilities
from llmanac.generate._native_file import FileModel
from llmanac.generate.answers import Assistant
from llmanac.generate.drafters import DrafterSpec
from llmanac.generate.engine import SMALL, Engine
from llmanac.kernels.gguf import opened
from llmanac.models.locate import ASSISTANT, base_of, fetched, find_adapter

if TYPE_CHECKING:
    import torch


def load_engine(
    path: str | Path,
    *,
    dtype: str | torch.dtype | None = None,
    device: str = "auto",
    rows: int = 32,
    draft: str | Path | None = None,
    draft_tokens: int | None = None,
    runner: str | None = None,
    max_num_batched_tokens: int | None = None,
    rope: str | None = None,
    sinks: str | None = None,
    ignore: Sequence[str] = (),
    adapters: Mapping[str, str | Path] | None = None,
) -> Engine:
    """Load model and tokenizer and make an engine.

    Args:
        draft: speculative decoding: the name of a drafter that needs no model, or where a draft model is.
        runner: see `Engine`; RequestError where it cannot run the model. By default `auto` for a .gguf file, whose
            blocks compiled code reads as they are, and `torch` for a folder.
        draft_tokens: the most tokens that it drafts at once; the drafter's own default where it is left out.
        max_num_batched_tokens: that all rows may hold together; see `Engine`.
        rope: scaling of rotary positions for a longer context, as "yarn:4".
        sinks: a window with first tokens, as "4+1020".
        ignore: keys of the model's config.json; see `load_model`.
        adapters: that requests may ask for, by name; see `Engine`.

    Raises:
        CheckpointError or TokenizerError: a file that cannot be read, by its name.
        RequestError, SpecError: what cannot draft for this model.
    """
    from llmanac.models.load import load_model
    from llmanac.tokenizers.load import load_tokenizer

    adapter = find_adapter(path)
    model, tokenizer = _base(adapter) if adapter else fetched(path)
    held = opened(model) if Path(model).is_file() else None  # read once for both
    spec, named = _drafter(draft, draft_tokens)
    words = load_tokenizer(tokenizer)
    own: Any = {"rope": rope, "sinks": sinks, "ignore": ignore}
    runner = runner or ("auto" if Path(model).is_file() else "torch")
    choices: dict[str, Any] = {"drafter": spec, "max_num_batched_tokens": max_num_batched_tokens, "runner": runner}
    if draft is not None and not named:
        try:
            where, draft_words = fetched(draft)
        except CheckpointError as error:
            raise CheckpointError(f"--draft {error}; drafters without a model: {', '.join(_free_drafters())}") from None
        _check_tokens(words, load_tokenizer(draft_words), path, draft)
        choices["draft_model"] = load_model(where, dtype=dtype, device=device)
    loaded = cast(LanguageModel, load_model(model, dtype=dtype, device=device, **own))
    del held  # the texts of its vocabulary are not needed any more
    if not capabilities(loaded).writes:
        raise RequestError(f"{path}: an encoder, which does not write; `llmanac embed {path}` gives vectors of texts")
    if adapter is not None:
        from llmanac.adapters import LinearTransform
        from llmanac.adapters.load import load_adapter

        change = load_adapter(cast(Any, loaded), adapter)
        if isinstance(change, LinearTransform):
            change.merge()  # what is served alone needs no product of its own
    return Engine(loaded, words, rows=rows, adapters=adapters or None, **choices)


def load_writer(
    path: str | Path, *, runner: str = "auto", draft: str | Path | None = None, draft_tokens: int | None = None,
    max_num_batched_tokens: int | None = None, **choices: Any,
) -> Engine:  # fmt: skip
    """As `load_engine`, where nothing but text is asked of the model.

    A GGUF file that the native runner computes is then read without torch.
    """
    more: dict[str, Any] = {
        "draft": draft,
        "draft_tokens": draft_tokens,
        "max_num_batched_tokens": max_num_batched_tokens,
    }
    if any(choices.values()) or runner.partition(":")[0] not in ("auto", "native") or find_adapter(path) is not None:
        return load_engine(path, runner=runner, **more, **choices)
    model, tokenizer = fetched(path)
    spec, named = _drafter(draft, draft_tokens)
    if (draft is not None and not named) or not Path(model).is_file() or not _runs_natively(Path(model), runner):
        return load_engine(path, runner=runner, **more)
    from llmanac.tokenizers.load import load_tokenizer

    held = opened(model)  # read once for both
    words, made = load_tokenizer(tokenizer), cast(LanguageModel, FileModel(held.path))
    return Engine(made, words, drafter=spec, max_num_batched_tokens=max_num_batched_tokens, runner=runner)


def _runs_natively(path: Path, runner: str) -> bool:
    """Whether a GGUF file is for the native runner, as `Engine` chooses."""
    if FileModel.refusal(path) is not None:
        return False
    if runner != "auto" or not torch_is_there():
        return True
    return not may_have_gpu() and FileModel(path).parameter_count() >= SMALL


def _drafter(draft: str | Path | None, tokens: int | None) -> tuple[DrafterSpec | None, bool]:
    """The drafter that was asked for, and whether it is one without a model. Raises RequestError."""
    if draft is None and tokens is not None:
        raise RequestError("--draft-tokens: there is no drafter; give --draft too")
    named = draft is not None and str(draft) in registry.methods("drafter")
    fields = {"name": str(draft) if named else "model", **({} if tokens is None else {"tokens": tokens})}
    if named and str(draft) == "model":
        raise RequestError("--draft model: give the draft model itself, its folder or .gguf file")
    return None if draft is None else cast(DrafterSpec, make_method("drafter", fields)), named


def _base(adapter: Path) -> tuple[str, str]:
    """The model and tokenizer of an adapter's folder. Raises CheckpointError where its model is not there."""
    base = base_of(adapter)
    if base is None:
        raise CheckpointError(f"{adapter}: does not name the model that it belongs to; merge it: llmanac merge --base")
    try:
        model, tokenizer = fetched(base)
    except CheckpointError as error:
        raise CheckpointError(f"{error} (the model of the adapter in {adapter})") from None
    return model, str(adapter) if (adapter / "tokenizer.json").is_file() else tokenizer


def _free_drafters() -> list[str]:
    return [name for name in registry.methods("drafter") if name != "model"]


def _check_tokens(model: Any, draft: Any, path: str | Path, other: str | Path) -> None:
    """Raises RequestError where two tokenizers give some id another text."""
    pairs = zip(model._bytes, draft._bytes, strict=False)  # models of other sizes are refused by the engine
    different = next((i for i, (a, b) in enumerate(pairs) if None not in (a, b) and a != b), None)
    if different is not None:
        what = f"token {different} is {draft.token_bytes(different)!r} there and {model.token_bytes(different)!r} here"
        raise RequestError(
            f"--draft {other}: its tokens are not those of {path} ({what}); a draft model needs the same tokenizer"
        )


def load_assistant(path: str | Path, engine: Engine) -> Assistant | None:
    """The assistant that a run left in its folder; None where it has none.

    `assistant/assistant.json` names its application.

    Args:
        engine: the run's own, which continues text; its device serves the assistant too.

    Raises:
        CheckpointError: a damaged assistant or model, by its file.
    """
    folder = Path(path)
    place = folder / ASSISTANT / "assistant.json"
    if not place.parent.is_dir():
        return None
    try:
        application = registry.application(files.read_table(place)["app"])
    except (DataError, SpecError, KeyError, TypeError) as error:
        raise CheckpointError(f"{place}: cannot be read ({error}); this run has no assistant") from None
    return cast(Assistant, application.assistant(folder, engine))
