"""The folder of a run, of every form: who may write, what a crash leaves, what a resumed run may change."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from llmanac.core import files, run_folder, spec
from llmanac.core.errors import DataError, LlmanacError, SpecError
from llmanac.core.lock import locked
from llmanac.core.run_folder import NothingKept, Recipe, RunFolder, latest_place, new_place
from llmanac.recipes.run import FORMS, asked_for
from llmanac.recipes.spec import read_recipe

ROWS = {"model": "m", "rows": {"file": "rows.jsonl"}}
# a recipe of each form, a change of it that no form takes back, and what it says
DATA: dict[str, dict[str, Any]] = {
    "RecipeSpec": {"name": "small", "data": {"source": {"name": "files", "paths": ["text"]}}},
    "TuneSpec": {**ROWS, "adapter": "lora"},
    "AlignSpec": {**ROWS, "objective": "dpo"},
    "SpecializeSpec": {"model": "m", "data": "rows.jsonl"},
    "RlhfSpec": read_recipe("rlhf"),
    "MultimodalRecipe": read_recipe("clip"),
}
KINDS = sorted(DATA)


def recipe(kind: str, **changes: Any) -> Recipe[Any]:
    form, made = asked_for(DATA[kind], changes)
    assert form.kind.__name__ == kind
    return made


def begin(place: Path, kind: str, **changes: Any) -> RunFolder:
    """A run that was killed after its recipe was written."""
    folder = RunFolder(place)
    with folder.held(recipe(kind, **changes), resume=False):
        (place / "work").write_text("some")
    return folder


def test_the_forms_are_those_that_are_tried() -> None:
    assert sorted(form.kind.__name__ for form in FORMS) == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_run_takes_what_is_free_and_nothing_else(kind: str, tmp_path: Path) -> None:
    for number, left in enumerate(
        ([], [".lock"], [".tmp-999999-run.json"], ["run.json"], [".tmp-999999-recipe.toml", "run.json"])
    ):
        place = tmp_path / str(number)
        place.mkdir()
        for name in left:
            (place / name).write_text('{"stated": [], "patches": {}}' if name == "run.json" else "")
        begin(place, kind)
        assert files.read_toml(place / "recipe.toml") and not list(place.glob(".tmp-*"))
    for name in ("recipe.toml", "model", "mine.txt", "changes.json"):
        place = tmp_path / f"other-{name}"
        place.mkdir()
        (place / name).write_text("mine")
        with pytest.raises(LlmanacError, match="is there already"):
            begin(place, kind)
        assert [path.name for path in place.iterdir()] == [name] and (place / name).read_text() == "mine"
    (tmp_path / "file").write_text("")
    with pytest.raises(LlmanacError, match="is a file"):
        begin(tmp_path / "file", kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_refusal_and_an_early_stop_leave_the_folder_as_it_was(kind: str, tmp_path: Path) -> None:
    for there in (False, True):
        for raised, seen in ((DataError("no"), DataError), (KeyboardInterrupt(), NothingKept)):
            place = tmp_path / "run"
            if there:
                place.mkdir(exist_ok=True)
            with pytest.raises(seen), RunFolder(place).held(recipe(kind), resume=False):
                raise raised
            assert place.exists() == there
            assert {path.name for path in place.glob("*")} <= {".lock"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_that_is_stopped_or_refused_at_once_stays(kind: str, tmp_path: Path) -> None:
    place = begin(tmp_path / "run", kind).place
    (place / "work").unlink()
    for raised in (KeyboardInterrupt(), DataError("no")):
        with pytest.raises(type(raised)) as seen, RunFolder(place).held(recipe(kind), resume=True):
            raise raised
        assert seen.type is type(raised) and (place / "recipe.toml").is_file()


def test_a_crash_while_a_folder_of_an_earlier_version_is_renewed(tmp_path: Path, monkeypatch) -> None:
    """After each of its writes the folder resumes, and what the recipe became is not lost."""
    writes = 4
    for crash in range(writes):
        place = begin(tmp_path / str(crash), "RecipeSpec").place
        state = {**files.read_json(place / "run.json"), "recipe": files.read_toml(place / "recipe.toml")}
        files.write_json(place / "run.json", {**state, "planned": {"threads": 1}})
        became = (place / "recipe.toml").read_text().replace('budget = "5m"', 'budget = "6m"')
        (place / "recipe.toml").write_text(became)
        done, replace = [], files.os.replace

        def dying(*given: Any, crash: int = crash, done: list[int] = done, replace: Any = replace) -> None:
            if len(done) == crash:
                raise SystemExit
            done.append(1)
            replace(*given)

        with monkeypatch.context() as patched:
            patched.setattr(files.os, "replace", dying)
            with pytest.raises(SystemExit):
                RunFolder(place).held(recipe("RecipeSpec"), resume=True).__enter__()
        folder = RunFolder(place)
        with folder.held(recipe("RecipeSpec"), resume=True) as found:
            assert found.spec == recipe("RecipeSpec").spec and folder.state["planned"] == {"threads": 1}
        assert "recipe" not in files.read_json(place / "run.json")
        assert (place / "resolved.toml").read_text() == became


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_begun_is_kept(kind: str, tmp_path: Path) -> None:
    """Ctrl-C after the first file; a refusal after a training was planned."""
    with pytest.raises(KeyboardInterrupt), RunFolder(tmp_path / "a").held(recipe(kind), resume=False):
        (tmp_path / "a" / "work").write_text("some")
        raise KeyboardInterrupt
    with pytest.raises(DataError), RunFolder(tmp_path / "b").held(recipe(kind), resume=False):
        (tmp_path / "b" / "stage" / "training").mkdir(parents=True)
        (tmp_path / "b" / "stage" / "training" / "plan.json").write_text("{}")
        raise DataError("no")
    for name in "ab":
        folder = RunFolder(tmp_path / name)
        with pytest.raises(LlmanacError, match="--resume goes on with the run in it"):
            folder.claim(type(recipe(kind).spec), resume=False)
        with folder.held(recipe(kind), resume=True) as again:
            assert again.spec == recipe(kind).spec


@pytest.mark.parametrize("kind", KINDS)
def test_stages_run_in_their_order_and_are_timed_over_all_sessions(kind: str, tmp_path: Path, monkeypatch) -> None:
    clock = itertools.count(0.0, 2.0)
    monkeypatch.setattr(run_folder, "time_without_once", lambda: next(clock))
    folder, done, begun, said = RunFolder(tmp_path / "run"), list[str](), list[int](), list[str]()
    stages = {"one": lambda: done.append("one"), "two": lambda: done.append("two")}
    with pytest.raises(ZeroDivisionError), folder.held(recipe(kind), resume=False):
        folder.carry_out({**stages, "two": lambda: 1 / 0}, dict)
    state = files.read_table(folder.place / "run.json")
    assert state["seconds"] == {"one": 2.0} and not folder.finished and not (folder.place / "results.json").exists()
    with folder.held(recipe(kind), resume=True):
        found, begins = lambda: {"seconds": dict(folder.state["seconds"])}, lambda: begun.append(len(done))
        folder.carry_out(stages, found, begins, said.append)
    assert done == ["one", "one", "two"] and begun == [1, 2] and said == ["one: 4 s", "two: 2 s"]
    assert files.read_table(folder.place / "results.json") == {"seconds": {"one": 4.0, "two": 2.0}} and folder.finished


@pytest.mark.parametrize("kind", KINDS)
def test_one_process_at_a_time_and_it_is_looked_at_again_with_the_lock(kind: str, tmp_path: Path, monkeypatch) -> None:
    place = begin(tmp_path / "run", kind).place
    with locked(place / ".lock"), pytest.raises(LlmanacError, match="another process is running"):
        RunFolder(place).held(recipe(kind), resume=True).__enter__()
    late = RunFolder(tmp_path / "late")
    claim = late.claim

    def overtaken(*given: Any, **named: Any) -> None:
        claim(*given, **named)
        if not late.place.exists():  # another process begins between the look and the lock
            begin(late.place, kind)

    monkeypatch.setattr(late, "claim", overtaken)
    with pytest.raises(LlmanacError, match="is there already"):
        late.held(recipe(kind), resume=False).__enter__()
    assert (late.place / "work").read_text() == "some"


CHANGES = {
    "RecipeSpec": "tokenizer.vocab_size", "TuneSpec": "seed", "AlignSpec": "objective.beta", "RlhfSpec": "rl.epochs",
    "MultimodalRecipe": "rows", "SpecializeSpec": "questions",
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_keeps_its_recipe_and_its_patches(kind: str, tmp_path: Path) -> None:
    path = CHANGES[kind]
    place = begin(tmp_path / "run", kind, **{path: 512}).place
    folder = RunFolder(place)
    form, _ = asked_for(DATA[kind], {})
    again = folder.patched(lambda before: recipe(kind, **before), form.kind)
    with folder.held(again, resume=True) as found:
        assert found.patches == {path: 512}
    with pytest.raises(SpecError, match=rf"{path} \(was 512(\.0)?, now 600(\.0)?\).*{place}"):
        RunFolder(place).held(recipe(kind, **{path: 600}), resume=True).__enter__()
    own = asked_for(place / "recipe.toml", {})[1]
    with RunFolder(place).held(own, resume=True) as found:
        assert found.spec == own.spec == again.spec


@pytest.mark.parametrize("kind", KINDS)
def test_another_default_of_another_version_is_no_change(kind: str, tmp_path: Path) -> None:
    """What nobody stated is as it was when the run began."""
    place = begin(tmp_path / "run", kind).place
    text = (place / "recipe.toml").read_text()
    some = (("rows.held_out", 0.05), ("train.clip", 1.0), ("seed", 0), ("data.held_out", 0.05), ("rl.train.clip", 1.0))
    path, old = next((p, v) for p, v in some if f"{p.split('.')[-1]} = {v}\n" in text and not recipe(kind).states(p))
    key, then = path.split(".")[-1], old + 1 if isinstance(old, int) else old / 2
    (place / "recipe.toml").write_text(text.replace(f"{key} = {old}\n", f"{key} = {then}\n", 1))
    with RunFolder(place).held(recipe(kind), resume=True) as found:
        assert f"{key} = {then}\n" in found.text()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("other", KINDS)
def test_a_folder_of_another_form_says_so(kind: str, other: str, tmp_path: Path) -> None:
    if kind == other or {kind, other} == {"TuneSpec", "AlignSpec"}:
        return
    place = begin(tmp_path / "run", kind).place
    with pytest.raises(LlmanacError, match="holds a run of another kind of recipe"):
        RunFolder(place).held(recipe(other), resume=True).__enter__()


@pytest.mark.parametrize("kind", KINDS)
def test_a_recipe_without_its_state_is_no_run_and_stays(kind: str, tmp_path: Path) -> None:
    place = begin(tmp_path / "run", kind).place
    (place / "run.json").unlink()
    with pytest.raises(LlmanacError, match="there is no run to resume"):
        RunFolder(place).held(recipe(kind), resume=True).__enter__()
    with pytest.raises(LlmanacError, match="is there already and is no run"):
        RunFolder(place).held(recipe(kind), resume=False).__enter__()
    assert (place / "recipe.toml").is_file()


def test_a_pretraining_run_may_change_what_nothing_depends_on_until_it_is_planned(tmp_path: Path) -> None:
    place = begin(tmp_path / "run", "RecipeSpec").place
    (place / "data" / "pairs").mkdir(parents=True)
    (place / "data" / "train").mkdir()
    with RunFolder(place).held(recipe("RecipeSpec", **{"train.clip": 0.5}), resume=True) as found:
        assert found.spec.train.clip == 0.5
    assert sorted(path.name for path in (place / "data").iterdir()) == ["train"]  # pairs may have another length
    (place / "pretrain").mkdir()
    (place / "pretrain" / "plan.json").write_text("{}")
    with pytest.raises(SpecError, match=r"train\.clip \(was 0\.5, now 0\.25\)"):
        RunFolder(place).held(recipe("RecipeSpec", **{"train.clip": 0.25}), resume=True).__enter__()
    with RunFolder(place).held(recipe("RecipeSpec", **{"train.clip": 0.5, "parallel.data": 2}), resume=True) as found:
        assert found.spec.parallel.data == 2  # how it is computed


def test_a_tuning_may_state_other_steps_and_budget(tmp_path: Path) -> None:
    place = begin(tmp_path / "run", "TuneSpec").place
    for path, value in (("train.steps", 7), ("budget", "5m"), ("parallel.data", 2)):
        with RunFolder(place).held(recipe("TuneSpec", **{path: value}), resume=True) as found:
            assert spec.flatten(spec.dump(found.spec))[path] == value


def test_the_next_name_and_the_latest_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of any form: a finished run has its number, an unfinished one is gone on with."""
    monkeypatch.chdir(tmp_path)
    for kind in KINDS:
        assert new_place(kind) == Path("runs") / kind
        folder = begin(new_place(kind), kind)
        with pytest.raises(LlmanacError, match="holds an unfinished run"):
            new_place(kind)
        assert latest_place(kind) == folder.place
        folder.save(finished=True)
        assert new_place(kind) == Path("runs") / f"{kind}-2"
        assert latest_place(kind) == folder.place


def test_a_teachers_answers_outlive_a_refusal_and_serve_that_teacher_only(tmp_path: Path, monkeypatch) -> None:
    from llmanac.generate import load
    from llmanac.recipes import distill
    from llmanac.recipes.distill import TeacherSpec

    class Engine:
        calls = 0

        def generate(self, prompts: list[str], n: int, **options: Any) -> list[Any]:
            Engine.calls += 1
            return [type("C", (), {"text": f"{prompt}!", "finish_reason": "stop"})() for prompt in prompts]

    monkeypatch.setattr(load, "load_engine", lambda *given, **named: Engine())
    monkeypatch.setattr(distill, "contents", lambda model: model)  # there are no files
    data = tmp_path / "rows.jsonl"
    data.write_text('{"prompt": "a", "completion": "b"}\n')
    place = tmp_path / "out"
    asked = recipe("TuneSpec", answers={"model": "big"})
    with pytest.raises(DataError), RunFolder(place).held(asked, resume=False):
        first = TeacherSpec(model="big").write(str(data), place, 0, print)
        raise DataError("no")
    assert first.is_file() and not (place / "recipe.toml").exists()
    with RunFolder(place).held(asked, resume=False):
        assert TeacherSpec(model="big").write(str(data), place, 0, print) == first and Engine.calls == 1
        others = [
            TeacherSpec(model="other").write(str(data), place, 0, print),
            TeacherSpec(model="big", temperature=1.0).write(str(data), place, 0, print),
            TeacherSpec(model="big").write(str(data), place, 1, print),
        ]
        data.write_text('{"prompt": "c", "completion": "d"}\n')
        others.append(TeacherSpec(model="big").write(str(data), place, 0, print))
    assert len({first, *others}) == 5 and Engine.calls == 5
    assert json.loads(others[-1].read_text())["completion"] == "c!"


def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    for kind in KINDS:
        place = begin(tmp_path / kind, kind).place
        for text in ("[1]", "{", "{}", '{"stated": 3}'):
            shutil.copytree(place, tmp_path / "copy")
            (tmp_path / "copy" / "run.json").write_text(text)
            with pytest.raises(DataError, match=r"copy/run\.json"):
                RunFolder(tmp_path / "copy").held(recipe(kind), resume=True).__enter__()
            shutil.rmtree(tmp_path / "copy")
