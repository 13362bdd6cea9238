"""`--json`: every command that measures, lists or makes something prints one JSON document, and nothing beside it."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from _commands import commands

from llmanac import cli
from llmanac.cli import documented

# those that talk, write text, lines or pictures as their result, or change one thing
WITHOUT = {
    "new method",
    "chat", "generate", "serve", "guide", "generate-image", "exercise show", "exercise check", "question show",
    "question grader",
    "question rate", "question answer", "question mock", "classify predict", "data why", "data emoji",
    "tokenizer extend", "tokenizer encode", "ngram query", "ngram convert", "memory add", "memory edit",
    "memory delete",
}  # fmt: skip


def test_every_command_has_it_or_says_why_not() -> None:
    found = {name: "as_json" in inspect.signature(command).parameters for name, command in commands()}
    assert len(found) > 80
    assert {name for name, has in found.items() if not has} == WITHOUT


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    lines = [f"{'good' if i % 2 else 'bad'} film number {i}" for i in range(60)]
    (tmp_path / "text.txt").write_text("\n".join(lines), "utf-8")
    rows = [{"text": line, "label": line.split()[0]} for line in lines]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "key"),
    [
        ("show position/rope", "id"),
        ("run quickstart --show", "model"),
        ("tokenizer train bpe text.txt -o tok -s vocab_size=300", "vocabulary"),
        ("ngram train text.txt -o model.arpa --order 2 --smoothing add-k", "ngrams"),
        ("classify train rows.jsonl --method bow --test rows.jsonl --folder kept", "test"),
        ("index . --index elsewhere", "passages"),
        ("exercise progress --progress kept.sqlite", None),
    ],
)
def test_standard_output_is_one_document(words: str, key: str | None, place: Path, capsys: Any) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([*words.split(), "--json"])
    assert not ended.value.code
    printed = json.loads(capsys.readouterr().out)
    assert printed == [] if key is None else printed[key] is not None


def test_data_of_a_command_that_failed_is_printed_with_its_status(capsys: Any) -> None:
    def command() -> Any:
        """Compare."""
        print("for people")
        raise documented.Failed({"loss": float("nan"), "arms": ("a", "b")})

    with pytest.raises(SystemExit) as ended:
        documented.documented(command)(as_json=True)
    out, err = capsys.readouterr()
    assert ended.value.code == 1 and json.loads(out) == {"loss": None, "arms": ["a", "b"]} and err == "for people\n"
