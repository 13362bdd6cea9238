"""Text for two small models: plain English out of the benchmark data (no CoLA sentence), and sentences with labels."""

from __future__ import annotations

import bz2
import gzip
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from llmanac.core.files import write_text

Read = Callable[[Path], Iterator[str]]


def json_lines(path: Path) -> Iterator[dict]:
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    yield from map(json.loads, data.decode("utf-8").splitlines())


def rows_of(name: str, text: Callable[[dict], str]) -> Read:
    """A set that is one file of JSON lines, a document a row."""

    def read(root: Path) -> Iterator[str]:
        yield from map(text, json_lines(root / name))

    return read


def hellaswag(root: Path) -> Iterator[str]:
    """Six lines an item: the context, the number of the right ending, four endings."""
    lines = bz2.decompress((root / "hellaswag/hellaswag_val_full.txt.bz2").read_bytes()).decode("utf-8").splitlines()
    for at in range(0, len(lines) - 5, 6):
        context = lines[at].partition(": ")[2]
        yield f"{context} {lines[at + 2 + int(lines[at + 1])].strip()}"


def instructions(root: Path) -> Iterator[str]:
    for row in json_lines(root / "instruct/dolly_hhrlhf_train_small.jsonl"):
        yield row["response"]
    for row in json.loads((root / "instruct/raschka_instruction-data.json").read_text("utf-8")):
        yield row["output"]


def squad(root: Path) -> Iterator[str]:
    for article in json.loads((root / "squad/xquad.en.json").read_text("utf-8"))["data"]:
        for paragraph in article["paragraphs"]:
            yield "\n".join([paragraph["context"], *(question["question"] for question in paragraph["qas"])])


def strategy(root: Path) -> Iterator[str]:
    for row in json.loads((root / "strategyqa/dev.json").read_text("utf-8")):
        yield "\n".join([row["question"], *row["facts"]])


def drop(root: Path) -> Iterator[str]:
    passages = json.loads((root / "drop/drop_contrast_sets_test.json").read_text("utf-8"))
    yield from dict.fromkeys(item["passage"] for item in passages.values())


def piqa(root: Path) -> Iterator[str]:
    labels = (root / "piqa/valid-labels.lst").read_text().split()
    for row, label in zip(json_lines(root / "piqa/valid.jsonl"), labels, strict=True):
        yield f"{row['goal']} {row['sol1' if label == '0' else 'sol2']}"


def reviews(root: Path) -> Iterator[str]:
    for _, text in labelled(root):
        yield text


def labelled(root: Path, part: str = "train") -> Iterator[tuple[str, str]]:
    """(label, sentence) of a part of SST-2."""
    for line in (root / f"sst2/stsa.binary.{part}").read_text("utf-8").splitlines():
        yield ("negative", "positive")[int(line[0])], written(line[2:])


def with_labels(root: Path) -> Iterator[str]:
    """Each sentence of SST-2's training part with its label after it, and with its label before it."""
    for label, text in labelled(root):
        yield f"{text}\nLabel: {label}"
        yield f"Label: {label}\n{text}"


def wikitext(root: Path) -> Iterator[str]:
    for name in ("valid", "test"):
        for line in (root / f"text/wikitext2_{name}.txt").read_text("utf-8").splitlines():
            if len(line) > 80 and "<unk>" not in line:
                yield written(line)


def story(root: Path) -> Iterator[str]:
    yield (root / "text/the-verdict.txt").read_text("utf-8")


def written(line: str) -> str:
    """Tokenized text as it is usually written: no space before punctuation or inside quotation marks."""
    line = re.sub(r" @([-,.])@ ", r"\1", line)
    line = re.sub(r" ([,.;:!?)]|'s\b|n't\b|'\w+\b)", r"\1", line)
    line = re.sub(r"``|''", '"', line)
    return re.sub(r'([(]) |" ([^"]*) "', lambda m: m[1] or f'"{m[2]}"', line).strip()


PLAIN: tuple[Read, ...] = (
    rows_of("lambada/lambada_openai.jsonl", lambda row: f"{row['context']} {row['continuation'].strip()}"),
    hellaswag,
    rows_of("hh_rlhf/harmless-base_test.jsonl.gz",
            lambda row: re.sub(r"\n\n(Human|Assistant): ", "\n", row["chosen"]).strip()),
    instructions, squad,
    rows_of("rouge/cnn_dailymail_tldr.jsonl", lambda row: row["prompt"].partition("Article: ")[2].strip()),
    rows_of("gsm8k/train.jsonl", lambda row: row["question"]),
    strategy, drop, piqa, reviews, wikitext, story,
)  # fmt: skip


def write(root: Path, path: Path, sets: Sequence[Read]) -> Path:
    """One document a line, in the column `text`; sets that are absent are named and left out."""
    lines: list[str] = []
    for read in sets:
        try:
            texts = [text for text in read(root) if text.strip()]
        except FileNotFoundError as error:
            print(f"left out: {error.filename} is not there", flush=True)
            continue
        lines += [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    return write_text(path, "\n".join(lines) + "\n")
