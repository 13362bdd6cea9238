"""Filling a gap of a text: `suffix` of /v1/completions, and POST /infill in llama.cpp's form.

    <prefix> text before <suffix> text behind <middle>        the model then writes what is between

by the tokens that a tokenizer has for it. Bavarian et al. 2022, arXiv:2207.14255.
"""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, NamedTuple

from pydantic import BeforeValidator, Field

from llmanac.generate.engine import Piece
from llmanac.tokenizers import Tokenizer
from llmanac.web._errors import ApiError
from llmanac.web._replies import CompletionReply
from llmanac.web._wire import (
    MAX_COUNT,
    LocalSampling,
    Sent,
    Text,
    Unsupported,
    check_length,
    whole,
)

MAX_FILES = 100
DEFAULTS = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05}  # llama.cpp's


class Form(NamedTuple):
    """The tokens before the text in front of a gap, before the text behind it, and before what fills it."""

    before: str
    behind: str
    middle: str = ""  # none: the text behind the gap comes first


FORMS = (
    Form("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen2.5-Coder, CodeGemma
    Form("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder, Granite
    Form("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),  # SantaCoder
    Form("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # DeepSeek-Coder
    Form("▁<PRE>", "▁<SUF>", "▁<MID>"),  # Code Llama
    Form("[PREFIX]", "[SUFFIX]"),  # Codestral
)
FILES = ("<|file_sep|>", "<file_sep>", "<|file_separator|>")  # before each file of a project
ENDS = (*FILES, "<|fim_pad|>", "<fim_pad>", "<|repo_name|>", "<reponame>", "▁<EOT>", "<|endoftext|>", "<|im_end|>")


class ExtraFile(Sent):
    """A file of the same project, as context."""

    filename: Text = ""
    text: Text = ""


class InfillBody(LocalSampling):
    """POST /infill. Sampling is by llama.cpp's names and defaults; `prompt` is how the filling begins."""

    unsupported: ClassVar[Unsupported] = {"grammar": [""], "json_schema": [], "n_probs": [0], "lora": [[]]}

    input_prefix: Text = ""
    input_suffix: Text = ""
    input_extra: Annotated[list[ExtraFile], Field(max_length=MAX_FILES)] | None = None
    prompt: Text = ""
    model: str | None = None
    n_predict: Annotated[int, Field(ge=-1, le=MAX_COUNT), BeforeValidator(whole)] | None = None
    stream: bool | None = None

    def fields(self, model: str, room: int) -> dict[str, Any]:
        """The fields of a request of /v1/completions; `room`: tokens where no number is given."""
        found = {"model": model, "max_tokens": room, **self.drawn(DEFAULTS, "n_predict", "stream")}
        if found.get("seed") == -1:  # llama.cpp's word for a fresh one
            del found["seed"]
        return found


class Gap(NamedTuple):
    """A prompt of token ids, and further tokens that end what fills the gap."""

    ids: list[int]
    ends: list[int]


def gap_of(
    tokenizer: Tokenizer | None, before: str, behind: str, begun: str = "", files: list[ExtraFile] | None = None
) -> Gap:
    """The prompt for what is between two texts and begins with `begun`.

    Raises ApiError where the tokenizer has no tokens for gaps, or none between files.
    """
    special = {} if tokenizer is None else tokenizer.special_tokens
    form = next((one for one in FORMS if all(token in special for token in one if token)), None)
    if form is None or tokenizer is None:
        message = "suffix: this model's tokenizer has no tokens for filling a gap; serve one that has (Qwen2.5-Coder)"
        raise ApiError(400, message, code="unsupported")
    told = [text for file in files or () for text in (file.filename, file.text)]
    check_length("suffix", [before, behind, begun, *told])

    def plain(text: str) -> list[int]:
        return [int(i) for i in tokenizer.encode(text, special="never")] if text else []

    ids = [tokenizer.bos_id] if tokenizer.adds_bos and tokenizer.bos_id is not None else []
    if files:
        mark = next((special[token] for token in FILES if token in special), None)
        if mark is None:
            message = "input_extra: this model's tokenizer has no token between files; leave it out"
            raise ApiError(400, message, code="unsupported")
        for file in files:
            ids += [mark, *plain(f"{file.filename}\n{file.text}")]
        ids += [mark, *plain("\n")]
    parts = [[special[form.before], *plain(before)], [special[form.behind], *plain(behind)]]
    ids += [i for part in (parts if form.middle else reversed(parts)) for i in part]
    ids += [special[form.middle]] if form.middle else []
    ends = [special[token] for token in (*form, *ENDS) if token in special]
    return Gap(ids + plain(begun), ends)


class InfillReply(CompletionReply):
    """The answer to /infill."""

    def whole(self, extra: dict[str, Any]) -> dict[str, Any]:
        return self._last(self.finished().text)

    def chunks(self, prompt: int, piece: Piece, extra: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if piece.text:
            yield {"content": piece.text, "stop": False}

    def closing(self, include_usage: bool, extra: dict[str, Any]) -> Iterator[bytes]:
        yield self.frame(self._last(""))

    def _last(self, text: str) -> dict[str, Any]:
        done, usage = self.finished(), self.usage()
        return {
            "index": 0,
            "content": text,
            "stop": True,
            "model": self.head["model"],
            "tokens_predicted": usage["completion_tokens"],
            "tokens_evaluated": usage["prompt_tokens"],
            "stop_type": "limit" if done.finish_reason == "length" else "eos",
            "truncated": False,
        }
