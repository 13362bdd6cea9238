"""Every text of a file continued into a .jsonl file: in blocks that are kept, so that a stopped command goes on."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmanac.core import files
from llmanac.core.cluster import Each
from llmanac.core.errors import CheckpointError, RequestError, SpecError
from llmanac.core.outputs import check_output
from llmanac.core.parts import hashed, parts_for, plain
from llmanac.core.progress import progress
from llmanac.generate.engine import Engine, Options
from llmanac.models.locate import model_files

BLOCK = 64  # prompts that are kept together


def check_place(output: Path, prompts: str, *, force: bool) -> None:
    """Refuse an output that may not be written. Raises SpecError that names it."""
    if output.suffix != ".jsonl":
        raise SpecError(f"--output: {output} must end in .jsonl")
    check_output(output, "--output", [] if prompts == "-" else [prompts], force=force)


def check(engine: Engine, prompts: Sequence[str], options: Options, start: int = 0) -> None:
    """Raises RequestError for a prompt that cannot be continued; the message has its number."""
    for number, prompt in enumerate(prompts, start + 1):
        try:
            engine.request(prompt, **options)
        except RequestError as error:
            raise RequestError(f"prompt {number}: {error}") from None


def block_lines(engine: Engine, block: Sequence[str], start: int, options: Options) -> str:
    """The completions of a block of prompts, the first of them number `start` from 0, as JSON Lines."""
    check(engine, block, options, start)
    rows, number = [], start - 1
    for completion in engine.generate(block, **options):
        number += completion.index == 0  # a beam search may find fewer than n texts
        rows.append({
            "number": number + 1, "prompt": block[number - start], "index": completion.index, "text": completion.text,
            "finish_reason": completion.finish_reason, "tokens": len(completion.ids),
            "logprob": math.fsum(p for p in completion.logprobs if p is not None),
            "scored": sum(p is not None for p in completion.logprobs), "score": completion.score,
        })  # fmt: skip
    return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def continued(
    each: Each, prompts: Sequence[str], options: Options, left: Sequence[int] | None = None
) -> Iterator[tuple[int, str]]:
    """`(number, completions as JSON Lines)` of blocks of prompts, as they are done.

    Args:
        left: numbers of the blocks, all of them by default.

    Raises:
        RequestError: an option that cannot be used.
    """
    left = range(-(-len(prompts) // BLOCK)) if left is None else left
    starts = [number * BLOCK for number in left]
    calls = [(prompts[start : start + BLOCK], start, options) for start in starts]
    with progress("generate", len(prompts), "prompts") as bar:
        bar.update(len(prompts) - sum(len(block) for block, *_ in calls))
        for number, lines in each(block_lines, calls):
            yield left[number], lines
            bar.advance(len(calls[number][0]))


def write_completions(
    each: Each,
    prompts: Sequence[str],
    output: Path,
    options: Options,
    model: str,
    *,
    force: bool = True,
    how: Mapping[str, Any] | None = None,
) -> Summary:
    """Continue the prompts and write a row a text; blocks are kept in `OUTPUT.parts` until all are done.

    Args:
        each: what computes: `here(engine)`, or `Actors.results` of processes that each hold an engine.
        model: where the engine was loaded from; its files must be the same ones when a stopped command goes on.
        how: what else the engine was made with, by the names of flags; `draft` may be a model too.

    Raises:
        RequestError: a prompt or option that cannot be used. SpecError: parts of a command with other options, or an
        output that may not be written over. LlmanacError: another command writes the same output.
    """
    given = dict(how or {})
    asked = {
        "model": model, "files": stamps(model), "draft_files": stamps(given.get("draft")),
        "how": plain(given), "options": plain(options), "prompts": hashed(prompts),
    }  # fmt: skip
    count = -(-len(prompts) // BLOCK)
    with parts_for(output, asked, force=force) as parts:
        for number, lines in continued(each, prompts, options, parts.left(count)):
            parts.keep(number, lines.encode())
        summary = Summary(prompts=len(prompts))
        with files.atomic_file(output) as handle:
            for number in range(count):
                kept = parts.read(number)
                handle.write(kept)
                for line in kept.decode().split("\n")[:-1]:  # not splitlines: JSON does not escape U+2028
                    summary.add(json.loads(line))
    return summary


def stamps(path: str | None) -> dict[str, Any]:
    """Size and time of each file that a model is read from; nothing for what is none."""
    try:
        found = [] if path is None else model_files(path)
    except CheckpointError:  # the name of a drafter, or what the engine was not loaded from
        return {}
    return {str(file): [file.stat().st_size, file.stat().st_mtime_ns] for file in found}


@dataclass
class Summary:
    """Counts over the texts of a file: `ended` by a stop token or string, `logprob` in nats of the `scored` tokens."""

    prompts: int
    texts: int = 0
    tokens: int = 0
    scored: int = 0
    ended: int = 0
    logprob: float = 0.0

    def add(self, row: dict[str, Any]) -> None:
        self.texts += 1
        self.tokens += row["tokens"]
        self.scored += row["scored"]
        self.ended += row["finish_reason"] == "stop"
        self.logprob += row["logprob"]
