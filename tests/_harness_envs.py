"""Harnesses that are no part of [test]: an environment each in the cache folder, made by `make logs-env`.

Each program below runs a stock harness on a few rows of its own, with a model whose answers are known, writes its log
into the folder that it is given first, and prints `score` and the harness's own figure.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from llmanac.core.files import cache_folder

PACKAGES = {"inspect": "inspect-ai>=0.3.285", "evalplus": "evalplus>=0.3.1", "lighteval": "lighteval>=0.13",
            "helm": "crfm-helm>=0.5.16", "ifeval": "if-verifiable>=0.1.2", "bfcl": "bfcl-eval>=2026.3.23"}  # fmt: skip
ALONE = ("bfcl",)  # installed without what it requires: clients of all servers

INSPECT = """
from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.model import ModelOutput, ModelUsage, get_model
from inspect_ai.scorer import includes, match
from inspect_ai.solver import generate, system_message
form, epochs, system = more[0], int(more[1]), int(more[2])
rows = [Sample(input=f"What is {i} + {i % 7}? " + "Think. " * 30, target=str(i + i % 7), metadata={"level": i % 3})
        for i in range(40)]
calls = 0
def answer(messages, *rest):
    global calls
    calls += 1
    i = int(messages[-1].text.split()[2])
    right = (7 * i + seed + (calls % 3 if epochs > 1 else 0)) % 5 < 2 + seed
    out = ModelOutput.from_content("mockllm/model", str(i + i % 7) if right else "no")
    out.usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)
    return out
model = get_model("mockllm/model", custom_outputs=answer)
solvers = [*([system_message("Be brief.")] if system else []), generate()]
log = eval(Task(dataset=rows, solver=solvers, scorer=[match(), includes()], name="sums", epochs=epochs), model=model,
           log_dir=str(folder), log_format=form, display="none")[0]
print("score", log.results.scores[0].metrics["accuracy"].value)
"""

EVALPLUS = """
problems, samples = [], []
for i in range(164):  # as many as it insists on
    problems.append({"task_id": f"HumanEval/{i}", "prompt": "def f(x):\\n    ", "contract": "", "entry_point": "f",
                     "canonical_solution": f"return x + {i}\\n", "base_input": [[1], [2]], "plus_input": [[5], [7]],
                     "atol": 0, "test": ""})
    right = (7 * i + seed) % 5 < 2 + seed
    body = f"return x + {i}" if right else f"return x + {i} if x < 6 else 0" if i % 2 else "return None"
    samples.append({"task_id": f"HumanEval/{i}", "solution": f"def f(x):\\n    {body}\\n"})
for name, rows in (("problems", problems), ("samples", samples)):
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in rows))
os.environ.update(HUMANEVAL_OVERRIDE_PATH=str(folder / "problems.jsonl"), XDG_CACHE_HOME=str(folder / "cache"))
from evalplus.evaluate import evaluate
import contextlib
import io
with contextlib.redirect_stdout(io.StringIO()) as said:
    evaluate("humaneval", samples=str(folder / "samples.jsonl"), parallel=1, i_just_wanna_run=True)
print("score", said.getvalue().split("pass@1:")[-1])  # with three digits
"""

LIGHTEVAL = """
shots = int(more[0])
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_HOME=str(folder / "cache"))
data = folder / "data"
data.mkdir()
rows = [{"question": f"What is {i} + {i % 7}?", "label": i % 3} for i in range(60)]
for split, part in (("train", rows[:10]), ("validation", rows)):
    (data / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in part))
(folder / "own_tasks.py").write_text(f'''
from lighteval.metrics.metrics import Metrics
from lighteval.tasks.lighteval_task import LightevalTaskConfig
from lighteval.tasks.requests import Doc
def prompt(line, task_name=None):
    return Doc(task_name=task_name, query=f"Q: {{line['question']}}", choices=[" one", " two", " three"],
               gold_index=line["label"])
TASKS_TABLE = [LightevalTaskConfig(name="sums", prompt_function=prompt, hf_repo={str(data)!r}, hf_subset="default",
    hf_avail_splits=["train", "validation"], evaluation_splits=["validation"], few_shots_split="train",
    few_shots_select="sequential", metrics=[Metrics.loglikelihood_acc], version=1)]
''')
# at import it asks the network for what other tasks need, and its hashes for text, which new releases refuse
import importlib.util
import huggingface_hub
import xxhash
own = pathlib.Path(importlib.util.find_spec("lighteval").submodule_search_locations[0])
(own / "tasks" / "tasks" / "tinyBenchmarks.pkl").touch()
huggingface_hub.HfApi.list_models = lambda *given, **named: ["there"]
plain = xxhash.xxh64
xxhash.xxh64 = lambda *given: plain(*(one.encode() if isinstance(one, str) else one for one in given))
from lighteval.logging.evaluation_tracker import EvaluationTracker
from lighteval.models.dummy.dummy_model import DummyModel, DummyModelConfig
from lighteval.pipeline import ParallelismManager, Pipeline, PipelineParameters
tracker = EvaluationTracker(output_dir=str(folder / "out"), save_details=True)
how = PipelineParameters(launcher_type=ParallelismManager.NONE, custom_tasks_directory=str(folder / "own_tasks.py"))
config = DummyModelConfig(seed=seed, model_name=f"dummy{seed}", cache_dir=str(folder / "samples"))
model = DummyModel(config)
pipeline = Pipeline(tasks=f"sums|{shots}", pipeline_parameters=how, evaluation_tracker=tracker, model=model)
pipeline.evaluate()
pipeline.save_and_push_results()
print("score", pipeline.get_results()["results"]["all"]["acc"])
"""

HELM = """
from helm.benchmark import run
from helm.clients.simple_client import SimpleClient
def answer(self, request):
    i = int(request["prompt"].split("Is ")[-1].split()[0])
    right = (7 * i + seed) % 5 < 2 + seed
    return {"completions": ["AB"[i % 2 if right else 1 - i % 2]] * request["num_completions"]}
SimpleClient.invoke_model = answer
os.chdir(folder)
sys.argv = ["helm-run", "--run-entries", "simple_mcqa:model=simple/model1", "--suite", "own", "--max-eval-instances",
            "30", "--disable-cache", "-o", str(folder / "out")]
run.main()
stats = json.loads(next((folder / "out").rglob("stats.json")).read_text())
print("score", next(s["mean"] for s in stats if s["name"]["name"] == "exact_match" and "perturbation" not in s["name"]))
"""

IFEVAL = """
import nltk
plain = nltk.tokenize.punkt.PunktSentenceTokenizer()  # its trained abbreviations are a download
plain._params.abbrev_types |= {"mr", "dr", "e.g", "i.e", "u.s"}
nltk.data.load = lambda *_: plain
nltk.tokenize.sent_tokenize = lambda text, *_: plain.tokenize(text)
nltk.tokenize.word_tokenize.__globals__["sent_tokenize"] = nltk.tokenize.sent_tokenize
import langdetect
langdetect.DetectorFactory.seed = 0
from if_verifiable import IFEvalSample, evaluate_output_for_sample
found = []
for name, fields, text in json.loads(pathlib.Path(more[0]).read_text("utf-8")):
    sample = IFEvalSample(key=0, prompt="", instruction_id_list=[name], kwargs=[fields])
    results, _ = evaluate_output_for_sample("ifeval", sample, text)
    found.append([results[0].strict_pass, results[0].loose_pass] if results else [False, False])
(folder / "verdicts.json").write_text(json.dumps(found))
print("score", sum(strict for strict, _ in found) / len(found))
"""

BFCL = """
from unittest.mock import MagicMock
for name in ("tree_sitter", "tree_sitter_java", "tree_sitter_javascript", "bfcl_eval.constants.model_config", "dotenv",
             "tenacity", "tqdm"):
    sys.modules[name] = MagicMock()  # of other languages and of servers
from bfcl_eval.constants.enums import Language
from bfcl_eval.constants.model_config import MODEL_CONFIG_MAPPING
from bfcl_eval.eval_checker.ast_eval.ast_checker import ast_checker
from bfcl_eval.model_handler.utils import default_decode_ast_prompting, system_prompt_pre_processing_chat_model
from bfcl_eval.utils import add_language_specific_hint_to_function_doc, is_empty_output
from bfcl_eval.utils import is_function_calling_format_output
MODEL_CONFIG_MAPPING.__getitem__.return_value.underscore_to_dot = False
found, prompts = [], []
for row, truth, category, answers in json.loads(pathlib.Path(more[0]).read_text("utf-8")):
    row = {**row, "id": category + "_0"}
    own = []
    for answer in answers:
        try:
            calls = default_decode_ast_prompting(answer)
        except Exception:
            calls = None
        if category == "irrelevance":
            own.append(calls is None or is_empty_output(calls))
        elif calls is None or not is_function_calling_format_output(calls):
            own.append(False)
        else:
            own.append(ast_checker(row["function"], calls, truth, Language.PYTHON, category, "m")["valid"])
    found.append(own)
    (hinted,) = add_language_specific_hint_to_function_doc([json.loads(json.dumps(row))]) or [None]
    messages = system_prompt_pre_processing_chat_model(hinted["question"][0], hinted["function"], row["id"])
    prompts.append("\\n\\n".join(one["content"] for one in messages))
(folder / "verdicts.json").write_text(json.dumps([found, prompts]))
print("score", 0)
"""
PROGRAMS = {"inspect": INSPECT, "evalplus": EVALPLUS, "lighteval": LIGHTEVAL, "helm": HELM, "ifeval": IFEVAL,
            "bfcl": BFCL}  # fmt: skip
BEGIN = """
import json, os, pathlib, sys
folder, seed, more = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
"""


def python_of(name: str) -> Path:
    return cache_folder() / "test-harnesses" / name / "bin" / "python"


def logged(name: str, folder: Path, seed: int, *more: object) -> tuple[Path, float]:
    """The folder with a stock harness's log, and the harness's own figure; skips the test without its environment."""
    if not python_of(name).exists():
        pytest.skip(f"needs {PACKAGES[name]} in an environment of its own: make logs-env")
    folder.mkdir()
    program = folder / "program.py"  # a file: some harnesses start processes that import it
    inside = f"if __name__ == '__main__':\n    exec(compile({PROGRAMS[name]!r}, 'program', 'exec'))\n"
    program.write_text(BEGIN + inside, "utf-8")
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [python_of(name), program, folder, *map(str, (seed, *more))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, env=clean)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, float(done.stdout.rpartition("score ")[2].split()[0])


if __name__ == "__main__":
    for each, package in PACKAGES.items():
        place = python_of(each).parents[1]
        if not python_of(each).exists():
            venv.create(place, with_pip=True)
        library = next((place / "lib").glob("python*")) / "site-packages"
        if each != "inspect":  # torch and others are borrowed from this environment
            (library / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n", "utf-8")
        how = ["--no-deps"] if each in ALONE else []
        subprocess.run([python_of(each), "-m", "pip", "install", "-q", *how, package], check=True)
        print(f"{each}: {place}", file=sys.stderr)
