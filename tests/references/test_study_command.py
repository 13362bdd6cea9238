"""The command on a page asks the same question again; and the pages whose code has changed are found."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from llmanac.core.errors import SpecError
from llmanac.core.spec import parse_patches
from llmanac.lab import compare as lab
from llmanac.lab.arms import parse_arms
from llmanac.lab.axis import find_axis
from llmanac.lab.command import RUN_STUDY, arms_text, asked_again

ROOT = Path(__file__).resolve().parents[2]


class Asked(Exception):
    """Carries a question instead of running it."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """What a call would have run, and the command that its page would have shown."""

    def ask(call: Any, *given: Any, **options: Any) -> tuple[Any, str]:
        seen: list[Any] = []

        def run(question: Any, folder: Path, *rest: Any) -> dict[str, Any]:
            seen.append(question)
            return {}

        monkeypatch.setattr(lab, "RUNNERS", dict.fromkeys(lab.RUNNERS, run))
        monkeypatch.setattr(lab, "write_study", lambda folder, found: seen.append(found["command"]))
        monkeypatch.setattr("llmanac.cli.compare.print_study", lambda done: None)
        call(*given, **options)
        return seen[0], seen[1]

    monkeypatch.chdir(tmp_path)
    return ask


def run_command(command: str) -> None:
    """Run what a page prints, in this process."""
    words = shlex.split(command)
    if words[0] == "python":
        exec(words[2], {})
        return
    from llmanac.cli import app

    app(args=words[1:], standalone_mode=False)


QUESTIONS: list[tuple[str, Any, dict[str, Any]]] = [
    ("position", "rope,learned", {}),
    ("position", ["rope{theta=500.0}", "none"], {"seeds": 5, "budget": "20m", "margin": 0.01}),
    ("ffn", 'relu{width=96,biases="all"},swiglu', {"hold": "params", "patches": {"model.dim": 64}}),
    ("optimizer", "adamw,muon", {"tune": "lr=3", "hold": "time", "patches": ["train.schedule=cosine", "seed=4"]}),
    ("train.optimizer.lr", "1e-3,3e-3", {"patches": {"train.optimizer": {"name": "adamw", "beta2": 0.95}}}),
    ("train.length", "64,128", {"budget": 90, "patches": {"data.source": {"name": "files", "paths": ["a b", "c,d"]}}}),
    ("decoding", "greedy,top-p{p=0.9}", {"artefact": Path("runs/my run")}),
    ("tokenizer", "bpe{vocab_size=300},bpe{vocab_size=500}", {"seeds": 1}),
    ("tokenizer", "runs/tok,utf8", {"on": "en=a b.txt,de.txt", "patches": ["every=5", 'train=["c.txt"]']}),
    ("classifier", "rules,bow{epochs=3}", {"data": "train.csv", "on": "test.csv", "patches": {"sizes": [10, 50]}}),
    ("start", "pretrained,scratch", {"data": "a.csv", "on": "b.csv", "artefact": "m", "patches": {"method.epochs": 1}}),
    ("position", {"near": {"name": "rope", "theta": 100.0}, "far": "rope"}, {"baseline": "far"}),
    ("recipe", {"a": {"train.clip": 0.5}, "b": {"model.position": "none"}}, {"hold": "time", "min_steps": 5}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "arms", "options"), QUESTIONS)
def test_the_command_asks_the_same_question(kind: str, arms: Any, options: dict[str, Any], asked: Any) -> None:
    first, command = asked(lab.compare, kind, arms, **options)
    again, same = asked(run_command, command)
    assert again == first and same == command


OPTIONS = {
    "base": {}, "artefact": "x", "probe": "x", "judge": "x", "on": "x", "data": "x", "reward": "exact-match",
    "hold": "tokens", "tune": "lr=3",
}  # fmt: skip
ARMS = {
    "position": "rope,none", "lm": "transformer,ngram", "train.clip": "0.5,1.0", "decoding": "greedy,sample",
    "tokenizer": "utf8,word", "quantizer": "none,int8", "retriever": "bm25,dense", "multimodal": "clip,vilt",
    "classifier": "rules,bow", "start": "pretrained,scratch",
}  # fmt: skip


@pytest.mark.parametrize("kind", ARMS)
def test_what_a_kind_does_not_take_is_refused_by_name(kind: str) -> None:
    takes = lab.TAKES[find_axis(kind).trial]
    for option in OPTIONS.keys() - set(takes):
        with pytest.raises(SpecError, match=f"--{option}: is not used when {kind} is compared; leave it out"):
            lab.compare(kind, ARMS[kind], **{option: OPTIONS[option]})


def test_a_base_that_is_a_file_is_named_and_one_that_is_data_is_written_out(asked: Any, tmp_path: Path) -> None:
    from llmanac.core.files import read_toml

    (tmp_path / "mine.toml").write_text(lab.BASE.read_text())
    first, command = asked(lab.compare, "position", "rope,none", base="mine.toml")
    assert "--base mine.toml" in command and asked(run_command, command)[0] == first
    first, command = asked(lab.compare, "position", "rope,none", base=read_toml(lab.BASE))
    assert command.startswith("python -c") and asked(run_command, command)[0] == first
    spec = first.base
    assert asked(run_command, asked(lab.compare, "position", "rope,none", base=spec)[1])[0] == first


def test_a_study_is_asked_again_by_its_name_with_what_overrode_it(asked: Any, tmp_path: Path) -> None:
    first, command = asked(lab.run_study, "positions_small", folder=tmp_path / "x", cache=tmp_path / "c", budget=None)
    assert command == "llmanac compare positions_small"
    assert asked(run_command, command)[0] == first
    first, command = asked(lab.run_study, "nanogpt_style", seeds=8, patches={"train.clip": 0.5})
    assert command == "llmanac compare nanogpt_style --seeds 8 -s train.clip=0.5"
    assert asked(run_command, command)[0] == first
    first, command = asked(lab.run_study, "positions_small", arms={"a": "rope", "b": "none"}, baseline="b", min_steps=3)
    assert command.startswith("python -c") and asked(run_command, command)[0] == first
    (tmp_path / "mine.toml").write_text('kind = "position"\narms = ["rope", "none"]\n')
    first, command = asked(run_command, "llmanac compare mine.toml --hold flops")
    assert command == "llmanac compare mine.toml --hold flops"


def test_what_was_settled_and_planned_is_in_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def run(question: Any, *rest: Any) -> dict[str, Any]:
        seen.append(question)
        plan = {"steps": {"rope": 321, "none": 321}, "speed": {"rope": {"step_seconds": 0.1}}}
        return {"base": {"train": {"dtype": "float32", "attention": "blocks"}}, "plan": plan}

    seen: list[Any] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lab, "RUNNERS", dict.fromkeys(lab.RUNNERS, run))
    monkeypatch.setattr(lab, "write_study", lambda folder, found: seen.append(found["command"]))
    monkeypatch.setattr("llmanac.cli.compare.print_study", lambda done: None)
    lab.compare("position", "rope,none", budget="2m", patches={"train.attention": "plain"})
    assert seen[1] == (
        "llmanac compare position --arms rope,none --budget 4m --seeds 5 "
        "-s train.attention=plain -s train.dtype=float32 -s train.steps=321"
    )
    run_command(seen[1])
    assert seen[3] == seen[1] and seen[2].base.train.steps == 321 and seen[2].base.train.dtype == "float32"
    lab.run_study("positions_small")
    assert seen[5] == (
        "llmanac compare positions_small --budget 40m -s train.dtype=float32 -s train.attention=blocks -s "
        "train.steps=321"
    )


def test_a_baseline_is_said() -> None:
    said = asked_again("position", "rope,none", {}, {"baseline": "none", "budget": "3m"})
    assert said == "llmanac compare position --arms rope,none --baseline none --budget 3m"
    assert asked_again("positions_small", None, {}, {"baseline": "none"}, RUN_STUDY) == (
        "llmanac compare positions_small --baseline none"
    )


def test_arms_and_values_come_back_from_their_text() -> None:
    for text in ('mlp{activation="relu",width=512},rope', 'x{a=[1, 2],b="p,q}",c=true},y{d="true"}', "a{b=-1.5},c"):
        assert parse_arms(arms_text(parse_arms(text))) == parse_arms(text)
    with pytest.raises(SpecError, match="says something else"):
        arms_text(parse_arms({"mine": "rope", "other": "none"}))
    said = shlex.split(asked_again("ffn", "relu,swiglu", {"a.b": {"c": [1, "x y"]}, "d": "3", "e": True}, {}))
    assert parse_patches(said[said.index("-s") + 1 :: 2]) == {"a.b": {"c": [1, "x y"]}, "d": "3", "e": True}
