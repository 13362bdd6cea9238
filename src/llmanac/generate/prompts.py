"""Every text of a file continued into a .jsonl file: in blocks that are kept, so that a stopped command goes on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmanac.core import files
from llmanac.core.errors import CheckpointError, LlmanacError, RequestError, SpecError
from llmanac.core.lock import locked
from llmanac.core.outputs import check_output
from llmanac.core.progress import progress
from llmanac.core.spec import dump
from llmanac.generate.engine import Engine, Options
from llmanac.models.locate import base_of, find_adapter, locate

BLOCK = 64  # prompts that are kept together
ASKED = "asked.json"
READ = {".json", ".safetensors", ".gguf", ".model", ".jinja", ".bin", ".pt"}  # files that a model is read from


def parts_of(output: Path) -> Path:
    """The folder of an unfinished output."""
    return output.with_name(f"{output.name}.parts")


def check_place(output: Path, prompts: str, *, force: bool) -> None:
    """Refuse an output that may not be written. Raises SpecError that names it."""
    if output.suffix != ".jsonl":
        raise SpecError(f"--output: {output} must end in .jsonl")
    check_output(output, "--output", [] if prompts == "-" else [prompts], force=force)


def continued(engine: Engine, prompts: Sequence[str], options: Options, done: int = 0) -> Iterator[str]:
    """The completions of each block of prompts as JSON Lines, from block `done` on.

    Raises:
        RequestError: a prompt that cannot be continued; the message has its number. Nothing was generated then.
    """
    for number, prompt in enumerate(prompts, 1):
        try:
            engine.request(prompt, **options)
        except RequestError as error:
            raise RequestError(f"prompt {number}: {error}") from None
    with progress("generate", len(prompts), "prompts") as bar:
        bar.update(min(len(prompts), done * BLOCK))
        for start in range(done * BLOCK, len(prompts), BLOCK):
            block = prompts[start : start + BLOCK]
            rows, number = [], start - 1
            for completion in engine.generate(block, **options):
                number += completion.index == 0  # a beam search may find fewer than n texts
                rows.append({
                    "number": number + 1, "prompt": prompts[number], "index": completion.index, "text": completion.text,
                    "finish_reason": completion.finish_reason, "tokens": len(completion.ids),
                    "logprob": math.fsum(p for p in completion.logprobs if p is not None),
                    "scored": sum(p is not None for p in completion.logprobs), "score": completion.score,
                })  # fmt: skip
            yield "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
            bar.advance(len(block))


def write_completions(
    engine: Engine,
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
        model: where the engine was loaded from; its files must be the same ones when a stopped command goes on.
        how: what else the engine was made with, by the names of flags; `draft` may be a model too.

    Raises:
        RequestError: a prompt or option that cannot be used. SpecError: parts of a command with other options, or an
        output that may not be written over. LlmanacError: another command writes the same output.
    """
    text = json.dumps(list(prompts)).encode()
    given = dict(how or {})
    asked = {
        "model": model, "files": _files(model), "draft_files": _files(given.get("draft")), "how": _plain(given),
        "options": _plain(options), "prompts": hashlib.sha256(text).hexdigest(),
    }  # fmt: skip
    parts = parts_of(output)
    lock = parts.with_name(f"{parts.name}.lock")
    with locked(lock, busy=f"--output: another command writes {output} now; wait for it, or name another place"):
        check_output(output, "--output", force=force)  # it may have been finished while the model was loaded
        summary = _write(engine, prompts, output, options, asked, parts)
        with contextlib.suppress(OSError):
            lock.unlink()
    return summary


def _write(
    engine: Engine, prompts: Sequence[str], output: Path, options: Options, asked: dict[str, Any], parts: Path
) -> Summary:
    if parts.is_dir():
        before = files.read_json(parts / ASKED) if (parts / ASKED).is_file() else None
        if before != asked:
            raise SpecError(
                f"--output: {parts} has texts of a command with other options ({_difference(before, asked)}); run that "
                "one again, or remove the folder to start over, or name another output"
            )
    else:
        with files.atomic_folder(parts) as made:
            files.write_json(made / ASKED, asked)
    count = -(-len(prompts) // BLOCK)
    done = next((number for number in range(count) if _lines(parts, number) is None), count)
    for number, lines in enumerate(continued(engine, prompts, options, done), done):
        files.write_text(_part(parts, number), f"{hashlib.sha256(lines.encode()).hexdigest()}\n{lines}")
    summary = Summary(prompts=len(prompts))
    with files.atomic_file(output) as handle:
        for number in range(count):
            if (kept := _lines(parts, number)) is None:
                raise LlmanacError(f"{_part(parts, number)}: changed while the command ran; run it again")
            handle.write(kept.encode())
            for line in kept.split("\n")[:-1]:  # not splitlines: a text may hold U+2028, which JSON does not escape
                summary.add(json.loads(line))
    shutil.rmtree(parts)
    return summary


def _files(path: str | None) -> dict[str, Any]:
    """Size and time of each file that a model, its tokenizer or adapter is read from; nothing for what is none."""
    if path is None:
        return {}
    places = []
    try:
        adapter = find_adapter(path)
        base = base_of(adapter) if adapter else path
        places = [str(adapter)] if adapter else []
        places += locate(base) if base else ()
    except CheckpointError:  # the name of a drafter, or what the engine was not loaded from
        pass
    found: dict[str, Any] = {}
    for place in dict.fromkeys(places):
        folder = Path(place)
        if not folder.exists():
            with contextlib.suppress(Exception):  # a hub model was downloaded when the engine was loaded
                from huggingface_hub import snapshot_download

                name, _, revision = place.partition("@")
                folder = Path(snapshot_download(name, revision=revision or None, local_files_only=True))
        for file in sorted(folder.iterdir()) if folder.is_dir() else [folder]:
            if file.suffix in READ and file.is_file():
                found[str(file)] = [file.stat().st_size, file.stat().st_mtime_ns]
    return found


def _difference(before: Any, asked: dict[str, Any]) -> str:
    """What two commands differ in, by the names of flags and files."""
    if not isinstance(before, dict) or before.keys() != asked.keys():
        return f"{ASKED} is missing, damaged or of another version"
    said = [f"another {name}" for name in ("model", "prompts") if before[name] != asked[name]]
    for part in ("how", "options", "files", "draft_files"):
        old, new = before[part], asked[part]
        keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
        said += keys if part.endswith("files") else [f"--{key.replace('_', '-')}" for key in keys]
    return ", ".join(said[:8])


def _lines(parts: Path, number: int) -> str | None:
    """The rows of a finished block; None where there are none, or they are not those of the checksum before them."""
    path = _part(parts, number)
    if not path.is_file():
        return None
    digest, _, lines = files.read_bytes(path).partition(b"\n")
    return lines.decode() if hashlib.sha256(lines).hexdigest().encode() == digest else None


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


def _part(parts: Path, number: int) -> Path:
    return parts / f"{number:06d}.jsonl"


def _plain(options: Mapping[str, object]) -> Any:
    """Options as JSON data that reads back the same."""
    given = {name: dump(value) for name, value in options.items()}
    return json.loads(json.dumps(given, default=str, sort_keys=True))
