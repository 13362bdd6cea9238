"""`llmanac specialize`: rows or documents to verified exports, resumed from any state, and what it refuses.

Kills are tried in a process of its own (`python test_specialize.py FOLDER POINTS SIGNALS`), which imports everything
once and forks an attempt at a time. Every file gets its name by a rename, so an attempt that is killed just before or
after its n-th rename meets a state between two stages or inside one.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]
# ruff: noqa: E402
from _exports import model, words
from _forked import executables

from llmanac.cli import main
from llmanac.core import files
from llmanac.core.errors import DataError, LlmanacError, SpecError, TokenizerError
from llmanac.core.run_folder import NothingKept, RunFolder
from llmanac.models.gguf.write import export_gguf
from llmanac.models.locate import find_adapter
from llmanac.recipes.run import run
from llmanac.recipes.specialize import SpecializeSpec
from llmanac.recipes.verifying import verify
from llmanac.train.checkpoint import Checkpoints


def inputs(root: Path, rows: int = 60) -> tuple[str, str]:
    """A small model's folder, and a file of chats."""
    root.mkdir(parents=True, exist_ok=True)
    tokenizer = words()
    made = model(tokenizer, dim=32, tied=True)
    made.save_pretrained(root / "small")
    tokenizer.save(root / "small")
    with open(root / "rows.jsonl", "w") as file:
        for n in range(rows):
            said = (("user", f"What is {n}?"), ("assistant", f"It is the {n % 3} day."))
            file.write(json.dumps({"messages": [{"role": role, "content": text} for role, text in said]}) + "\n")
    return str(root / "small"), str(root / "rows.jsonl")


def asked(root: Path, **choices) -> SpecializeSpec:
    small, rows = inputs(root)
    return SpecializeSpec(**{"model": small, "data": rows, "epochs": 1.0, "exports": ("q8_0",), **choices})


def carried_out(spec, place, **more):
    lines = []
    return run(spec, folder=place, report=lines.append, flag="--output", **more), lines


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    root = tmp_path_factory.mktemp("specialize")
    found, _ = carried_out(asked(root, choose="sweep", exports=("q4_k_m", "q8_0")), root / "out")
    return root, found.results


def test_rows_become_verified_exports(done):
    root, results = done
    out = root / "out"
    held = results["tuned"]["held_out"]
    assert held["after"] < held["before"] and results["asked"]["prompts"] >= 3
    assert [one["faithful"] for one in results["verified"] if one["runner"] == "llmanac"] == [True, True]
    rows = {side: (out / "data" / f"{side}.jsonl").read_text().splitlines() for side in ("train", "test")}
    assert len(rows["train"]) + len(rows["test"]) == 60 and not set(rows["train"]) & set(rows["test"])
    page = (out / "report.html").read_text()
    assert all(title in page for title in ("Before and after", "The exports", "Rate and rank", "An answer"))
    assert "q8_0" in (out / "merged/README.md").read_text() and results["next"][0].startswith("llmanac serve ")
    lines = (out / "Modelfile").read_text()
    assert lines.startswith("FROM ./model-q4_k_m.gguf\n") and 'PARAMETER stop "</s>"' in lines
    assert (
        "{{ .System }}" in lines and "<|user|>user: {{ end }}{{ .Prompt }}</s><|assistant|>{{ .Response }}</s>" in lines
    )


def test_a_sweep_says_why(done):
    _, results = done
    sweep = results["sweep"]
    assert {(arm["rate"], arm["rank"]) for arm in sweep["arms"]} >= {(3e-4, 8), (1e-3, 8), (3e-4, 32), (1e-3, 32)}
    taken, why = (sweep["taken"]["rate"], sweep["taken"]["rank"]), sweep["taken"]["why"]
    [change] = [arm["change"] for arm in sweep["arms"] if (arm["rate"], arm["rank"]) == taken]
    better = [arm for arm in sweep["arms"] if arm["change"] and arm["change"][2] < 0]
    assert (change[2] < 0 and why.startswith("loss -")) if better else why.startswith("the default")
    tuned = results["tuned"]["train"]["optimizer"]["lr"]
    assert tuned == sweep["taken"]["rate"] and results["recipe"]["adapter"]["rank"] == sweep["taken"]["rank"]


def test_documents_become_rows(tmp_path):
    small, _ = inputs(tmp_path)
    (tmp_path / "docs").mkdir()
    for n in range(6):
        text = "".join(f"The {word} of number {n} sat on the mat in week {i}, it is said.\n\n" for i, word in
                       enumerate(("cat", "dog", "day", "week")))  # fmt: skip
        (tmp_path / "docs" / f"note{n}.md").write_text(f"# Note {n}\n\n{text}")
    spec = SpecializeSpec(model=small, data=str(tmp_path / "docs"), questions=40, epochs=1.0, exports=("f16",))
    found, _ = carried_out(spec, tmp_path / "out")
    rows = [json.loads(line) for line in (tmp_path / "out" / "data" / "rows.jsonl").read_text().splitlines()]
    assert len(rows) == 40 and found.results["verified"][0]["faithful"]
    for row in rows:
        question, answer = row["question"], row["answer"]
        assert answer in " ".join(question.split()) and "Question: " in question
    carried_out(spec, tmp_path / "out", resume=True)
    (tmp_path / "docs" / "note0.md").write_text("# Another note\n\nThe bird of number 9 sat on the mat, it is said.\n")
    with pytest.raises(DataError, match=r"docs: documents have changed since .*out was begun; put them back"):
        carried_out(spec, tmp_path / "out", resume=True)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"text": "a"}, {"prompt": "a", "completion": "b"}], "mixes texts"),
        ([{"messages": [{"role": "user", "content": "a"}]}] * 9, "no answer"),
        ([{"messages": [{"role": "human", "content": "a"}, {"role": "gpt", "content": "b"}]}] * 9, "the role 'gpt'"),
        ([], "holds no rows"),
        ([{"text": "It is a day. " * 200}] * 9, r"rows.jsonl:1: has [\d,]+ tokens, the model reads 256"),
        ([{"prompt": "a", "completion": "b"}], "of 1 rows none can be held out"),
        ([{"prompt": "a", "completion": "b"}] * 9, "of 9 rows none can be held out"),
        ([{"prompt": 1, "completion": 2}] * 9, "rows.jsonl:1: prompt: a text or a list"),
        ([{"messages": [{"role": ["user"], "content": "a"}]}] * 9, r"rows.jsonl:1: the role \['user'\]"),
        ([{"prompt": "a", "completion": n} for n in "bc"], "rows.jsonl: what errors are weighed by: . tokens"),
    ],
)
def test_rows_that_cannot_be_used_leave_no_folder(rows, said, tmp_path):
    spec = asked(tmp_path, exports=("q4_k_m",))
    Path(spec.data).write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=said):
        carried_out(spec, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_without_a_template_and_what_is_no_model(tmp_path):
    spec = asked(tmp_path)
    plain = words(template=None)
    plain.added.tokens = tuple(token for token in plain.added.tokens if not token.text.startswith("<|"))
    table = json.loads(Path(spec.model, "tokenizer.json").read_text())
    table["added_tokens"] = [one for one in table["added_tokens"] if not one["content"].startswith("<|")]
    Path(spec.model, "tokenizer.json").write_text(json.dumps(table))
    for path in Path(spec.model).glob("chat_template*"):
        path.unlink()
    settings = json.loads(Path(spec.model, "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    settings.pop("added_tokens_decoder", None)
    Path(spec.model, "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises((TokenizerError, DataError), match="no chat template"):
        carried_out(spec, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(LlmanacError, match="missing"):
        carried_out(SpecializeSpec(model=str(tmp_path / "missing"), data=spec.data), tmp_path / "out")
    with pytest.raises(SpecError, match="exports: 'q9' is none of"):
        asked(tmp_path, exports=("q9",))
    for test in (0, 1):
        with pytest.raises(SpecError, match="test"):
            asked(tmp_path, test=test)
    with pytest.raises(SpecError, match="budget"):
        asked(tmp_path, budget="soon")


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch):
    spec, place = asked(tmp_path), tmp_path / "out"
    real = files.atomic_file

    @contextlib.contextmanager
    def full(path, **choices):
        if Path(path).suffix == ".gguf":
            raise files.refused(OSError(errno.ENOSPC, "No space left on device"), path)
        with real(path, **choices) as handle:
            yield handle

    monkeypatch.setattr(files, "atomic_file", full)
    with pytest.raises(LlmanacError, match="No space left"):
        carried_out(spec, place)
    monkeypatch.undo()
    weights = (find_adapter(place / "tuned") / "adapter_model.safetensors").read_bytes()
    found, _ = carried_out(spec, place, resume=True)
    assert found.results["verified"][0]["faithful"]
    assert (find_adapter(place / "tuned") / "adapter_model.safetensors").read_bytes() == weights


def test_a_file_that_was_cut_short_is_written_again(tmp_path):
    spec, place = asked(tmp_path), tmp_path / "out"
    found, lines = carried_out(spec, place)
    assert any("held-out rows only" in line for line in lines) and not any("--held-out" in line for line in lines)
    export = place / "model-q8_0.gguf"
    whole = export.read_bytes()
    export.write_bytes(whole[: len(whole) // 2])
    (place / "asked.json").write_text("{")
    with pytest.raises(DataError, match=r"asked.json:1: not JSON .*; delete it"):
        carried_out(spec, place, resume=True)
    (place / "asked.json").unlink()
    rows = Path(spec.data)
    before = rows.read_text()
    rows.write_text(before.replace("It is", "Its is"))
    with pytest.raises(DataError, match=r"rows.jsonl: has changed since .*out was begun; put it back"):
        carried_out(spec, place, resume=True)
    rows.write_text(before)
    again, _ = carried_out(spec, place, resume=True)
    assert export.read_bytes() == whole and again.results["verified"] == found.results["verified"]


def test_answers_are_as_long_as_the_right_ones(tmp_path):
    """And a score that does not change has an interval, and no minus zero."""
    small, rows = inputs(tmp_path)
    long = " ".join(f"{n}" for n in range(40))
    row = [{"messages": [{"role": "user", "content": f"What is {n}?"}, {"role": "assistant", "content": f"{n} {long}"}]}
           for n in range(20)]  # fmt: skip
    Path(rows).write_text("".join(json.dumps(one) + "\n" for one in row))
    found, _ = carried_out(SpecializeSpec(model=small, data=rows, epochs=0.5, exports=("f16",)), tmp_path / "out")
    asked, tokenizer = found.results["asked"], words()
    assert asked["length"] > len(tokenizer.encode(f"0 {long}")) > 48
    assert asked["score"][0] == 0 and asked["score"][1] < 0 < asked["score"][2]
    assert "-0.0000 (" not in (tmp_path / "out/report.html").read_text()
    assert "change +0.000, 95% -" in (tmp_path / "out/merged/README.md").read_text()


def test_tuning_ends_early_and_keeps_the_best(tmp_path):
    """At a rate that soon makes it worse: what is kept is the checkpoint with the lowest loss."""
    spec = asked(tmp_path, epochs=16.0, patience=2)
    from llmanac.core.spec import patch

    found, _ = carried_out(patch(spec, {"train.optimizer.lr": 1.0}), tmp_path / "out")
    log = [json.loads(line) for line in (tmp_path / "out/tuned/training/metrics.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["evaluate_loss"] for line in log if "evaluate_loss" in line}
    best = min(losses, key=losses.get)
    assert found.results["stopped_early"] and max(losses) < found.results["tuned"]["train"]["steps"]
    assert found.results["tuned"]["held_out"]["after"] == pytest.approx(losses[best], rel=1e-5)
    assert best < max(losses) and best in Checkpoints(tmp_path / "out/tuned/training/checkpoints").steps()


def test_an_export_of_another_vocabulary_is_named(done, tmp_path):
    root, _ = done
    other = words(vocab_size=300)
    path = export_gguf(model(other, dim=32), other, tmp_path / "other.gguf", "q8_0")
    [one] = verify(str(root / "out" / "tuned"), [str(path)], with_llama_cpp=False)
    assert one.findings[0].cause == "vocabulary" and not one.faithful


def test_the_command_says_how_it_went(tmp_path, capsys):
    small, rows = inputs(tmp_path)
    command = ["specialize", small, rows, "-o", str(tmp_path / "out"), "--epochs", "1", "--export", "q8_0"]
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 0 and "model-q8_0.gguf" in capsys.readouterr().out
    for again, said in ((command, "--resume"), ([*command, "--resume", "--epochs", "2"], "epochs")):
        with pytest.raises(SystemExit) as ended:
            main(again)
        assert ended.value.code == 2 and said in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main([*command, "--resume"])
    assert ended.value.code == 0


@pytest.mark.slow
@pytest.mark.pretrained
@pytest.mark.timeout(1800)
def test_smollm2_learns_a_task_and_its_exports_are_the_model(tmp_path):
    """The form of an answer is learned in minutes; whether it is right is not asked for here."""
    from _published import published

    days = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
    rows = [{"question": f"Code {n:03}?", "answer": f"{days[n % 7]}, week {n % 10}"} for n in range(210)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = SpecializeSpec(model=str(published("smollm2")), data=str(tmp_path / "rows.jsonl"), budget="4m")
    found, _ = carried_out(spec, tmp_path / "out")
    held = found.results["tuned"]["held_out"]
    assert held["after"] < 0.5 * held["before"]
    assert all(one["faithful"] for one in found.results["verified"] if one["name"].endswith("q8_0.gguf"))


# ----------------------------------------------------------------------------------------------------------- killed
def trials(folder: Path, points: int, kinds: str) -> dict:
    words = [executables() / "python", __file__, str(folder), str(points), kinds]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=900, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return json.loads(ended.stdout.splitlines()[-1])


def test_killed_in_a_few_states_it_ends_the_same(tmp_path):
    found = trials(tmp_path, 2, "SIGKILL,SIGINT")
    assert found["wrong"] == [] and found["kills"] == 2, found


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["SIGKILL", "SIGINT"])
def test_killed_in_every_state_it_ends_the_same(kind, tmp_path):
    found = trials(tmp_path, 1000, kind)
    assert found["wrong"] == [] and found["kills"] == found["renames"], found


def attempt(spec, place: Path, at: int | None, kind: signal.Signals, before: bool) -> int:
    """A child that carries the recipe out, and gets a signal at its `at`-th rename; its renames, or -1."""
    receive, send = os.pipe()
    child = os.fork()
    if child:
        os.close(send)
        _, status = os.waitpid(child, 0)
        data = os.read(receive, 100)
        os.close(receive)
        return int(data) if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0 else -1
    real, count = os.replace, 0

    def replace(source, target):
        nonlocal count
        count += 1
        if count == at and before:
            os.kill(os.getpid(), kind)
        real(source, target)
        if count == at and not before:
            os.kill(os.getpid(), kind)

    os.replace = replace
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        run(spec, folder=place, resume=RunFolder(place).read() is not None, report=lambda line: None, flag="--output")
        os.write(send, str(count).encode())
        code = 0
    except NothingKept:
        code = 3
    except KeyboardInterrupt:
        code = 2
    finally:
        os._exit(code)


def ending(place: Path) -> dict:
    results = json.loads((place / "results.json").read_text())
    assert not list(place.rglob(f"{files.TEMPORARY}*")) and RunFolder(place).finished
    weights = hashlib.sha256((place / "tuned/model/adapter_model.safetensors").read_bytes()).hexdigest()
    same = ("asked", "exports", "verified", "lint")
    return {"weights": weights, "file": hashlib.sha256((place / "model-q8_0.gguf").read_bytes()).hexdigest(),
            **{key: json.dumps(results[key]).replace(str(place), "OUT") for key in same}}  # fmt: skip


def main_of_trials(root: Path, points: int, kinds: list[signal.Signals]) -> dict:
    import torch

    torch.set_num_threads(1)
    spec = asked(root)
    total = attempt(spec, root / "whole", None, kinds[0], True)
    wanted = ending(root / "whole")
    wrong, kills = [], 0
    points = min(points, total)
    for at in sorted({round((i + 0.5) * total / points + 0.5) for i in range(points)}):
        place, kind = root / f"at-{at}", kinds[kills % len(kinds)]
        kills += attempt(spec, place, at, kind, before=at % 2 == 0) == -1
        if attempt(spec, place, None, kind, True) < 0 or ending(place) != wanted:
            wrong.append(at)
        shutil.rmtree(place)
    return {"wrong": wrong, "kills": kills, "renames": total}


if __name__ == "__main__":
    print(
        json.dumps(
            main_of_trials(
                Path(sys.argv[1]), int(sys.argv[2]), [signal.Signals[name] for name in sys.argv[3].split(",")]
            )
        )
    )
