"""Distillation through text: the teacher answers the rows' prompts, and the student is tuned on what it wrote.

Sequence level: every answer is a row. Over many samples the gradient is that of KL(teacher || student) over complete
texts (Kim & Rush 2016, arXiv:1606.07947, section 3.2). Response level: only answers whose final answer is right are
rows (rejection sampling; Yuan et al. 2023, arXiv:2308.01825), so no wrong one reaches the loss. Neither needs a teacher
with the student's tokenizer.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from llmanac.core.errors import DataError
from llmanac.core.files import atomic_file, read_text
from llmanac.core.progress import progress
from llmanac.metrics.answers import convention, correct, extract
from llmanac.recipes.tune_rows import read_rows

AT_ONCE = 64  # prompts between two writes
Verify = Callable[[str, str], bool]  # (what the teacher wrote, the row's own answer) -> whether it is right


def prompt_of(row: Mapping[str, Any], where: str) -> tuple[Any, str]:
    """A row's prompt (a text or messages) and its own answer. Raises DataError for a row without a prompt."""
    if "prompt" in row:
        answer = row.get("completion", "")
        return row["prompt"], answer if isinstance(answer, str) else str(answer[-1].get("content", ""))
    messages = row.get("messages")
    if not isinstance(messages, (list, tuple)) or len(messages) < 2 or messages[-1].get("role") != "assistant":
        raise DataError(f"{where}: has no prompt; give `prompt`, or `messages` that end with the assistant's")
    return list(messages[:-1]), str(messages[-1].get("content", ""))


def write_teacher_rows(
    engine: Any, data: str | Path, target: Path, *, samples: int = 1, verify: Verify | None = None, **options: Any
) -> Counter[str]:
    """The teacher's answers to a file's prompts, as rows of `target`; a target that was begun is gone on with.

    Args:
        engine: of the teacher. samples: answers a prompt.
        verify: keep only the answers that are right; those that are no text are never kept.
        options: as `Engine.generate` takes them; `seed`, with a prompt, decides its answers.

    Returns:
        How many prompts were read, and how many answers were written, cut off, wrong or the same as another.

    Raises:
        DataError: a row without a prompt, or no answer at all that can be used.
    """
    counts: Counter[str] = Counter()
    done = _done(target, counts)
    rows = islice(((line, *prompt_of(row, f"{data}:{line}")) for line, row in read_rows(data)), done, None)
    with progress("teacher", None, "prompts") as bar:
        while some := list(islice(rows, AT_ONCE)):
            found = _answers(engine, [prompt for _, prompt, _ in some], samples, options)
            written = []
            for (line, prompt, own), completions in zip(some, found, strict=True):
                written.append(
                    json.dumps({"line": line, "rows": list(_kept(prompt, own, completions, verify, counts))})
                )
            with target.open("a", encoding="utf-8") as file:
                file.write("".join(text + "\n" for text in written))
            counts["prompts"] += len(some)
            bar.advance(len(some), written=counts["written"])
    return counts


def _kept(
    prompt: Any, own: str, completions: list[Any], verify: Verify | None, counts: Counter[str]
) -> Iterator[dict[str, Any]]:
    """The rows of one prompt: complete, different, and right where that is checked."""
    seen = set()
    for completion in completions:
        text = completion.text.strip()
        if completion.finish_reason != "stop" or not text:
            counts["cut off or empty"] += 1  # a text without its end would teach the student never to stop
        elif verify is not None and not verify(text, own):
            counts["wrong"] += 1
        elif text in seen:
            counts["repeated"] += 1
        else:
            seen.add(text)
            counts["written"] += 1
            answer = text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
            yield {"prompt": prompt, "completion": answer}


def _answers(engine: Any, prompts: list[Any], samples: int, options: Mapping[str, Any]) -> list[list[Any]]:
    ids = [
        prompt if isinstance(prompt, str) else engine.tokenizer.encode_chat(prompt, add_generation_prompt=True)[0]
        for prompt in prompts
    ]
    found = engine.generate(ids, n=samples, **options)
    return [found[at : at + samples] for at in range(0, len(found), samples)]


def _done(target: Path, counts: Counter[str]) -> int:
    """How many prompts a file has answers to already; a last line that is cut is taken off."""
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        return 0
    text = read_text(target, most=1 << 32)
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        target.write_text(whole, "utf-8")
    lines = whole.split("\n")[:-1]
    counts["prompts"] = len(lines)
    counts["written"] = sum(len(json.loads(line)["rows"]) for line in lines)
    return len(lines)


def teacher_file(
    engine: Any, data: str | Path, folder: Path, *, samples: int, verify: str | None, **options: Any
) -> tuple[Counter[str], Path]:
    """`write_teacher_rows` into a tuning's folder; the counts, and the file of rows to tune on.

    Args:
        verify: how answers are compared (`metrics/answers.py`); None keeps all.

    Raises:
        DataError: no answer can be used.
    """
    checked: Verify | None = None
    if verify is not None:
        convention(verify)  # a name that is not known is refused before the teacher writes
        checked = lambda text, own: correct(text, extract(own, verify) or own, verify)  # noqa: E731
    counts = write_teacher_rows(
        engine, data, folder / "teacher-answers.jsonl", samples=samples, verify=checked, **options
    )
    target = folder / "teacher.jsonl"
    with (folder / "teacher-answers.jsonl").open(encoding="utf-8") as file, atomic_file(target) as out:
        for line in file:
            for row in json.loads(line)["rows"]:
                out.write(json.dumps(row).encode() + b"\n")
    if not counts["written"]:
        raise DataError(f"{data}: the teacher gave no answer that can be used ({dict(counts)}); sample more of them")
    return counts, target
