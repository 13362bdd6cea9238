"""Killed with -9 at random moments, runs, tunings, alignments, comparisons and the queue of cells end as if not killed.

The trials are in a process of their own (`python test_kill_runs.py KIND KILLS SEED FOLDER`), which imports everything
once and forks an attempt at a time. An attempt does what a user does who gives the same command again: with --resume
where the folder holds a run, else without. It is killed at a random moment of the CPU time that one takes which is not
killed, so that every state of a folder is met: free, begun, planned, training, measured. What a comparison or the queue
has finished (the result of a replicate, a cell) is neither made again nor written again.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import math
import os
import pkgutil
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2])]
LIVES = 4  # kills of a folder, at most, before the attempt that may end
COMPARED = {  # kinds of trial: their arms, and what they are asked besides
    "position": ("rope,learned", {}),
    "tokenizer": ("utf8,bpe{vocab_size=300}", {}),
    "decoding": ("greedy,top-k{k=5}", {"artefact": "base", "seeds": 2}),
    "quantizer": ("none,int8", {"artefact": "base"}),
    "retriever": ("bm25,bm25{k1=0.1}", {"artefact": "text", "on": "questions.jsonl", "base": None}),
    "classifier": ("bow,cbow", {"data": "labelled.jsonl", "on": "labelled.jsonl", "base": None, "seeds": 2}),
    "objective": ("dpo,ipo", {"artefact": "base", "data": "pairs.jsonl", "base": None, "seeds": 2}),
}  # fmt: skip
KINDS = ("run", "tune", "align", "queue", *COMPARED)
FINISHED = {"queue": "*/cells/[!.]*.json"} | dict.fromkeys(COMPARED, "cache/**/result.json")
WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "and",
    "the",
    "dog",
    "saw",
    "it",
    "so",
    "they",
    "ran",
    "to",
    "the",
    "red",
    "house",
    "by",
    "the",
    "river",
]


def trials(kind: str, kills: int, seed: int, folder: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, __file__, kind, str(kills), str(seed), str(folder)], capture_output=True, text=True,
        timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_any_moment_it_ends_the_same(kind: str, tmp_path: Path) -> None:
    found = trials(kind, 13, 1, tmp_path)
    assert found["wrong"] == [] and found["kills"] >= 13 and len(found["states"]) >= 2, found


@pytest.mark.slow
def test_the_control_is_caught(tmp_path: Path) -> None:
    """Weights that are trained anew from other rows after each kill are noticed."""
    found = trials("control", 8, 2, tmp_path)
    assert found["wrong"], found


# --- what runs in the process of its own -------------------------------------------------------------------------


def texts(folder: Path) -> None:
    """Made-up documents, and rows of three kinds."""
    rng = random.Random(3)
    (folder / "text").mkdir(parents=True)
    for number in range(12):
        lines = [" ".join(rng.choice(WORDS) for _ in range(12)) + "." for _ in range(30)]
        (folder / "text" / f"{number:02}.txt").write_text(f"Note {number}\n" + "\n".join(lines))
    pairs = [{"prompt": f"{rng.choice(WORDS)} {n} ", "chosen": "the cat", "rejected": "a dog"} for n in range(40)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    rows = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in pairs]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    questions = [{"question": f"{word} {rng.choice(WORDS)}", "relevant": "03.txt"} for word in WORDS]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    labelled = [{"text": f"{rng.choice(WORDS)} {w} {n}", "label": w} for n in range(12) for w in ("cat", "dog")]
    (folder / "labelled.jsonl").write_text("".join(json.dumps(row) + "\n" for row in labelled))


def asked(kind: str, folder: Path) -> Any:
    """The recipe of a trial."""
    from _runs import recipe

    train = {"steps": 8, "checkpoint_every": 2, "dtype": "float32", "attention": "plain", "compile": "never"}
    if kind in COMPARED:
        made = recipe(folder / "text")
        return {**made, "train": {**made["train"], **train, "batch_tokens": 128}, "evaluate": {"held_out_bytes": 2000}}  # type: ignore[dict-item]
    if kind == "run":
        made = recipe(folder / "text")
        finetune = {"pairs": str(folder / "rows.jsonl"), "steps": 4}
        evaluate = {"baselines": "none", "held_out_bytes": 2000}
        return {**made, "train": {**made["train"], **train}, "finetune": finetune, "evaluate": evaluate}  # type: ignore[dict-item]
    shared = {"model": str(folder / "base"), "train": train, "adapter": "lora"}
    if kind == "align":
        return {**shared, "rows": {"file": str(folder / "pairs.jsonl"), "held_out": 0.2}, "objective": "dpo"}
    return {**shared, "rows": {"file": str(folder / "rows.jsonl"), "held_out": 0.2, "length": 32}}


def work(kind: str, folder: Path, target: Path) -> None:
    """The command, given again; then a file with the digests of what it wrote."""
    import torch

    import llmanac
    from llmanac.core.run_folder import RunFolder
    from llmanac.train.metrics import read_metrics

    torch.set_num_threads(1)
    if kind in FINISHED:
        result = queued(folder, target) if kind == "queue" else compared(kind, folder, target)
        (folder / f"{target.name}.json").write_text(json.dumps(result), "utf-8")
        return
    given = asked("tune" if kind == "control" else kind, folder)
    if kind == "control":
        given["seed"] = os.getpid()
        resume = False
        if target.exists():
            for path in target.rglob("recipe.toml"):
                path.unlink()
            (target / "run.json").unlink(missing_ok=True)
            target.rename(target.with_name(f"{target.name}-{os.getpid()}"))
    else:
        resume = RunFolder(target).read() is not None
    llmanac.run(given, folder=target, resume=resume, report=lambda line: None)
    weights = {
        str(path.relative_to(target)): hashlib.sha256(path.read_bytes()).hexdigest()
        for name in ("model", "base") for path in sorted((target / name).glob("*.safetensors"))
    }  # fmt: skip
    losses = {
        path.parent.name: [(line["step"], line["loss"].hex()) for line in read_metrics(path.parent) if "loss" in line]
        for path in sorted(target.glob("*/metrics.jsonl"))
    }
    (folder / f"{target.name}.json").write_text(json.dumps([weights, losses]), "utf-8")


def compared(kind: str, folder: Path, target: Path) -> Any:
    """What `llmanac compare` finds: every replicate's value, exactly."""
    from llmanac.lab.compare import compare

    arms, own = COMPARED[kind]
    given = {name: str(folder / value) if isinstance(value, str) else value for name, value in own.items()}
    if kind == "objective":
        steps = {"train.steps": 4, "train.batch_tokens": 128, "train.dtype": "float32", "train.attention": "plain"}
        given["patches"] = {**steps, "train.compile": "never", "train.checkpoint_every": 2}
    if kind == "retriever":
        given["patches"] = {"index": str(target / "index")}
    asked_ = {"base": asked(kind, folder), "budget": 600, "min_steps": 2, "report": lambda line: None, **given}
    found = compare(kind, arms, folder=target, cache=target / "cache", **asked_)
    return {label: [value.hex() for value in values] for label, values in found.values().items()}


class Study:
    """A study of six cells that draws numbers for a moment."""

    ROWS, CLAIM, SEEDS = ("context/memory",), "numbers are drawn", 6

    def measure(self, seed: int, size: str) -> dict[str, float]:
        if size == "full":
            with open(self.log, "a") as log:
                log.write(f"{seed}\n")
        rng, end, found = random.Random(seed), time.monotonic() + (0.15 if size == "full" else 0.0), 0.0
        for _ in range(1000):
            found += rng.random()
        time.sleep(max(0.0, end - time.monotonic()))
        return {"found": found}

    def __init__(self, log: Path) -> None:
        self.log = log


def queued(folder: Path, target: Path) -> Any:
    """What `make evidence-queue` makes: every cell's values, the plan and the fingerprint."""
    from evidence import _cells, _queue

    _queue.FILE = folder / "queue.toml"
    _queue.FILE.write_text('[[study]]\nname = "killed"\n')
    target.mkdir(exist_ok=True)
    study: Any = Study(target / "measured.txt")
    _queue.work(lambda name: study, pages=target)
    made, broken = _cells.read(target / "killed")
    values = {cell["cell"]: cell["values"] for cell in made}
    return [values, broken, _cells.fingerprints(target / "killed"), (target / "killed" / "plan.json").read_text()]


def finished(kind: str, target: Path) -> dict[str, str]:
    """The files that a later life must leave as they are, with their content."""
    return (
        {str(p): p.read_text() + str(p.stat().st_mtime_ns) for p in target.glob(FINISHED.get(kind, ""))}
        if kind in FINISHED
        else {}
    )


def state(kind: str, target: Path) -> str:
    """How far a folder is."""
    from llmanac.core.run_folder import RunFolder

    if kind in FINISHED:
        done = len(finished(kind, target))
        if (target / "study.json").is_file():
            return "measured"
        return f"{done} done" if done else "planned" if any(target.rglob("plan.json")) else "free"
    folder = RunFolder(target)
    if not target.exists() or folder.read() is None:
        return "free"
    if (target / "results.json").is_file():
        return "measured"
    if any(target.glob("*/checkpoints/step-*")):
        return "training"
    return "planned" if folder.begun else "begun"


def attempt(kind: str, folder: Path, target: Path, seconds: float = math.inf) -> str:
    """Fork an attempt and kill it after some CPU seconds, the same on a busy machine: done, failed or killed."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with contextlib.redirect_stderr(open(os.devnull, "w")):
                work(kind, folder, target)
            (folder / "seconds").write_text(str(time.process_time()))
            code = 0
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
        finally:
            os._exit(code)
    clock = ~child << 3 | 2  # Linux: the CPU clock of a process
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if seconds < math.inf and time.clock_gettime(clock) > seconds:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.002)
    status = os.waitpid(child, 0)[1]
    return "killed" if os.WIFSIGNALED(status) else "failed" if os.waitstatus_to_exitcode(status) else "done"


def main(kind: str, kills: int, seed: int, folder: Path) -> dict[str, Any]:
    import matplotlib.backends.backend_svg  # noqa: F401 - imported before the forks, as is all that follows
    import torch.utils.tensorboard  # noqa: F401
    from _small_models import transformer

    import llmanac.core.charts
    import llmanac.lab.compare
    import llmanac.recipes.run
    import llmanac.train.optimizers._adamw_kernel  # noqa: F401
    from llmanac.lab import trials as kinds_of_trial
    from llmanac.tokenizers.load import train_tokenizer

    for module in pkgutil.iter_modules(kinds_of_trial.__path__, f"{kinds_of_trial.__name__}."):
        importlib.import_module(module.name)
    random.seed(seed)
    texts(folder)
    tokenizer = train_tokenizer("bpe", [" ".join(WORDS)] * 4, vocab_size=280, special_tokens=["<|endoftext|>"])
    model = transformer(vocab_size=tokenizer.vocab_size)
    model.save_pretrained(folder / "base")
    tokenizer.save(folder / "base")
    assert attempt(kind, folder, folder / "warm") == "done"  # compiles
    assert attempt(kind, folder, folder / "whole") == "done"
    takes = float((folder / "seconds").read_text())
    expected = (folder / "whole.json").read_text("utf-8")
    found: dict[str, Any] = {"kills": 0, "folders": 0, "wrong": [], "seconds": round(takes, 2)}
    states: Counter[str] = Counter()
    while found["kills"] < kills:
        target, outcome, kept, before = folder / f"trial-{found['folders']}", "killed", dict[str, str](), found["kills"]
        found["folders"] += 1
        lives = 1 + (found["folders"] - 1) % LIVES
        for life in range(lives + 1):
            outcome = attempt(kind, folder, target, math.inf if life == lives else random.random() * takes)
            if outcome != "killed":
                break
            found["kills"] += 1
            states[state(kind, target)] += 1
            kept |= finished(kind, target)
        done = folder / f"{target.name}.json"
        if outcome == "failed" or done.read_text("utf-8") != expected:
            found["wrong"].append([target.name, outcome])
        if kept.items() - finished(kind, target).items():
            found["wrong"].append([target.name, "a finished file was written again"])
        if kind in COMPARED and (left := [str(p) for p in target.rglob(".tmp*")]):
            found["wrong"].append([target.name, "left behind", *left])
        if (
            kind == "queue"
            and len((target / "measured.txt").read_text().split()) > Study.SEEDS + found["kills"] - before
        ):
            found["wrong"].append([target.name, "a kill lost more than the cell that was being made"])
    return {**found, "states": dict(states)}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))))
