"""Distillation through text: the teacher answers the rows' prompts, and the student is tuned on what it wrote.

Sequence level: every answer is a row. Over many samples the gradient is that of KL(teacher || student) over complete
texts (Kim & Rush 2016, arXiv:1606.07947, section 3.2). Response level: only answers whose final answer is right are
rows (rejection sampling; Yuan et al. 2023, arXiv:2308.01825), so no wrong one reaches the loss. Neither needs a teacher
with the student's tokenizer.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from llmanac.core.errors import DataError, SpecError
from llmanac.core.files import append, atomic_file, file_sha256, read_text, write_text
from llmanac.core.progress import Report, progress
from llmanac.core.ranges import COUNT, NOT_NEGATIVE, within
from llmanac.core.spec import Spec, dump
from llmanac.metrics.answers import convention, correct, extract
from llmanac.models.locate import contents
from llmanac.recipes.tune_rows import read_rows

AT_ONCE = 64  # prompts between two writes
AHEAD = "teacher"  # what the names of files with a teacher's answers begin with
Verify = Callable[[str, str], bool]  # (what the teacher wrote, the row's own answer) -> whether it is right


@dataclass(frozen=True, kw_only=True)
class TeacherSpec(Spec):
    """A model that answers the prompts of rows.

    Attributes:
        model: a folder, a .gguf file or a hub model's name.
        samples: answers to each prompt; temperature, max_tokens: of them.
        verify: how answers are compared with the row's own (`metrics/answers.py`), so that only right ones are kept;
            None keeps all.
    """

    model: str
    samples: int = 1
    temperature: float = 0.0
    max_tokens: int = 256
    verify: str | None = None

    ranges = within(COUNT, "samples max_tokens") | within(NOT_NEGATIVE, "temperature")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples > 1 and not self.temperature:
            raise SpecError(
                f"samples: {self.samples} answers are all the same at temperature 0; set --temperature, e.g. 0.8"
            )

    def write(self, data: str, folder: Path, seed: int, report: Report) -> Path:
        """The file of rows that the teacher wrote in a tuning's folder; written now, as far as it is not there.

        Its name is that of all that decides it, so that another teacher's answers are never taken for these.
        """
        own = file_sha256(data) if Path(data).is_file() else data
        decides = json.dumps([dump(self), seed, own, contents(self.model)])
        name = f"{AHEAD}-{hashlib.sha256(decides.encode()).hexdigest()[:12]}"
        if (folder / f"{name}.jsonl").is_file():
            return folder / f"{name}.jsonl"
        from llmanac.generate.load import load_engine

        counts, rows = teacher_file(
            load_engine(self.model, runner="auto"), data, folder, samples=self.samples, verify=self.verify, name=name,
            temperature=self.temperature, max_new_tokens=self.max_tokens, seed=seed,
        )  # fmt: skip
        report(", ".join(f"{name}: {count:,}" for name, count in counts.items()))
        return rows


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
            written = [
                json.dumps({"line": line, "rows": list(_kept(prompt, own, completions, verify, counts))})
                for (line, prompt, own), completions in zip(some, found, strict=True)
            ]
            append(target, "".join(text + "\n" for text in written).encode())
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
        write_text(target, whole)
    lines = whole.split("\n")[:-1]
    counts["prompts"] = len(lines)
    counts["written"] = sum(len(json.loads(line)["rows"]) for line in lines)
    return len(lines)


def teacher_file(
    engine: Any, data: str | Path, folder: Path, *, samples: int, verify: str | None, name: str = AHEAD, **options: Any
) -> tuple[Counter[str], Path]:
    """`write_teacher_rows` into a tuning's folder; the counts, and the file `<name>.jsonl` of rows to tune on.

    Args:
        verify: how answers are compared (`metrics/answers.py`); None keeps all.

    Raises:
        DataError: no answer can be used.
    """
    checked: Verify | None = None
    if verify is not None:
        convention(verify)  # a name that is not known is refused before the teacher writes
        checked = lambda text, own: correct(text, extract(own, verify) or own, verify)  # noqa: E731
    answers, target = folder / f"{name}-answers.jsonl", folder / f"{name}.jsonl"
    counts = write_teacher_rows(engine, data, answers, samples=samples, verify=checked, **options)
    if not counts["written"]:
        raise DataError(f"{data}: the teacher gave no answer that can be used ({dict(counts)}); sample more of them")
    with answers.open(encoding="utf-8") as file, atomic_file(target) as out:
        for line in file:
            for row in json.loads(line)["rows"]:
                out.write(json.dumps(row).encode() + b"\n")
    return counts, target
