"""Logs of evaluations for tests: systems of known skill, in the forms of each harness."""

from __future__ import annotations

import csv
import json
import random
import zipfile
from pathlib import Path
from typing import Any

DATE = "2026-03-01T10-00-00.123456"
MEASURE = """
import resource, sys
from llmanac.evaluate.verdict.judged import verdict
found = verdict(sys.argv[1], sys.argv[2])
print(found.comparisons[0].items, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
IM = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"


def outcomes(count: int, skill: float, seed: int) -> list[float]:
    """Right or wrong, alike between systems: the items have a difficulty that all share."""
    hard, own = random.Random(0), random.Random(seed)
    return [float(0.6 * hard.random() + 0.4 * own.random() < skill) for _ in range(count)]


def lm_eval_rows(count: int, skill: float, seed: int, **change: Any) -> list[dict[str, Any]]:
    """Rows of a multiple-choice task; `shots` texts precede a question, `wrap` is a template."""
    shots, wrap, kind = change.get("shots", ""), change.get("wrap", "{}"), change.get("filter", "none")
    rows = []
    for i, right in enumerate(outcomes(count, skill, seed)):
        doc = {"question": f"What is {i} + {i % 7}?", "subject": ["law", "physics"][i % 2], "passage": i // 4}
        prompt = wrap.format(f"{shots}Q: {doc['question']}\nA:")
        rows.append({
            "doc_id": i, "doc": doc, "target": str(i + i % 7),
            "arguments": {f"gen_args_{n}": {"arg_0": prompt, "arg_1": f" {n}"} for n in range(2)},
            "resps": [[["-1.0", "False"]], [["-2.0", "False"]]], "filtered_resps": [["-1.0", "False"]],
            "filter": kind, "metrics": ["acc", "acc_norm"], "doc_hash": "d", "prompt_hash": "p", "target_hash": "t",
            "acc": right, "acc_norm": float(i % 2),
        })  # fmt: skip
    return rows


def lm_eval_folder(folder: Path, rows: list[dict[str, Any]], task: str = "sums", **said: Any) -> Path:
    """A folder as `--output_path --log_samples` leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_lines(folder / f"samples_{task}_{DATE}.jsonl", rows)
    result = {
        "versions": {task: 1.0}, "n-shot": {task: 0}, "higher_is_better": {task: {"acc": True, "acc_norm": True}},
        "configs": {task: {}}, "config": {"gen_kwargs": None}, "model_name": folder.name, "system_instruction": None,
        "chat_template_sha": None,
    }  # fmt: skip
    result |= {key: value for key, value in said.items() if key in result}
    result |= {key: {task: said[name]} for key, name in (("versions", "version"), ("n-shot", "shots")) if name in said}
    if "higher" in said:
        result["higher_is_better"] = {task: {"acc": said["higher"]}}
    (folder / f"results_{DATE}.json").write_text(json.dumps(result), "utf-8")
    return folder


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def write_table(path: Path, rows: list[dict[str, Any]]) -> Path:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def score_rows(count: int, skill: float, seed: int) -> list[dict[str, Any]]:
    return [{"id": f"q{i}", "score": right, "topic": "ab"[i % 2], "passage": i // 4}
            for i, right in enumerate(outcomes(count, skill, seed))]  # fmt: skip


def inspect_log(count: int, skill: float, seed: int, epochs: int = 1, **said: Any) -> dict[str, Any]:
    """Inspect's log as one object."""
    samples = []
    for epoch in range(1, epochs + 1):
        for i, right in enumerate(outcomes(count, skill, seed + 100 * epoch)):
            asked = f"What is {i} + {i % 7}?"
            samples.append({
                "id": i + 1, "epoch": epoch, "input": asked, "target": str(i + i % 7), "metadata": {"level": i % 3},
                "messages": [*said.get("before", []), {"id": f"m{seed}-{i}", "role": "user", "content": asked},
                             {"role": "assistant", "content": "7"}],
                "output": {"choices": [{"message": {"role": "assistant", "content": "7"}}]},
                "scores": {"match": {"value": "C" if right else "I", "answer": "7"}},
            })  # fmt: skip
    own = {"task": "sums", "task_version": said.get("version", 0), "task_args": {}, "model": "mockllm/model",
           "config": {"epochs": epochs}}  # fmt: skip
    return {"version": 2, "status": said.get("status", "success"), "eval": own, "plan": {"steps": []},
            "samples": samples}  # fmt: skip


def write_inspect(path: Path, log: dict[str, Any], packed: int = zipfile.ZIP_DEFLATED) -> Path:
    """As `.json`, or as the zip `.eval`."""
    if path.suffix == ".json":
        path.write_text(json.dumps(log, indent=2), "utf-8")
        return path
    head = {key: value for key, value in log.items() if key != "samples"}
    with zipfile.ZipFile(path, "w", packed) as file:
        file.writestr("_journal/start.json", json.dumps({**head, "status": None}))
        for one in log["samples"]:
            file.writestr(f"samples/{one['id']}_epoch_{one['epoch']}.json", json.dumps(one))
        if log["status"] != "started":
            file.writestr("header.json", json.dumps(head))
    return path
