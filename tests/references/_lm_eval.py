"""What tests against lm-eval's tasks share: a small model of transformers, tasks of local files, canned answers."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch

lm_eval = pytest.importorskip("lm_eval")
pytest.importorskip("datasets")
evaluator = pytest.importorskip("lm_eval.evaluator")
evaluator.add_env_info = evaluator.get_git_commit_hash = lambda *_: None  # seconds of subprocesses a call
STOCK = Path(lm_eval.__file__).parent / "tasks"
ENDINGS = "goes home.|opens a [step] small door.|sings  to the crowd, for a very long while.|héllo 日本."


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


WORDS = ["the", "a", "red", "cat", "dog", "sees", "runs", "under", "over", "hill", "and", "then", "why", "Tom"]


def words(seed, count):
    return " ".join(random.Random(seed).choices(WORDS, k=count))


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """(folder, transformers' model in float64) with large weights, and a tokenizer of ours."""
    transformers = pytest.importorskip("transformers")
    from llmanac.tokenizers.load import train_tokenizer

    folder = tmp_path_factory.mktemp("model")
    tokenizer = train_tokenizer("bpe", [words(0, 300) + ENDINGS], vocab_size=300, special_tokens=["<|endoftext|>"])
    tokenizer.save(folder)
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=tokenizer.vocab_size, n_embd=24, n_layer=2, n_head=3, n_positions=512, initializer_range=0.2,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config).double().eval()
    model.save_pretrained(folder)
    return folder, model


@pytest.fixture(scope="module")
def ours(pretrained):
    from llmanac.generate.load import load_engine

    return load_engine(pretrained[0], dtype="float64", device="cpu")


def task_of(folder, name, text):
    """An lm-eval task from YAML that includes a stock one."""
    from lm_eval.tasks import TaskManager

    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.yaml").write_text(f"task: {name}\ndataset_path: json\ndataset_name: null\n{text}", "utf-8")
    return TaskManager(include_path=str(folder), include_defaults=False)


def files(cache, **splits):
    listed = "".join(f"    {split}: {path}\n" for split, path in splits.items())
    return f"dataset_kwargs:\n  cache_dir: {cache}\n  data_files:\n{listed}"


class Canned:
    """Answers that are known beforehand, for lm-eval (`generate_until`) and for us (`generate`)."""

    name = identity = "canned"

    def __init__(self, answers):
        self.answers, self.asked = answers, []

    def generate(self, prompts, stop, length, chat):
        start = len(self.asked)
        self.asked += prompts
        return self.answers[start : start + len(prompts)]

    def likelihoods(self, pairs):
        raise AssertionError("only generations are asked for")


def theirs_of(answers, tasks, manager):
    """lm-eval's results for the canned answers, and the prompts in its order."""
    from lm_eval.api.model import LM

    class Model(LM):
        def generate_until(self, requests, **_):
            return [answers[request.doc_id] for request in requests]

        def loglikelihood(self, requests, **_):
            raise NotImplementedError

        loglikelihood_rolling = loglikelihood

    found = lm_eval.simple_evaluate(Model(), tasks=[tasks], task_manager=manager, bootstrap_iters=1)
    samples = sorted(found["samples"][tasks], key=lambda s: (s["filter"], s["doc_id"]))
    return found["results"][tasks], [s["arguments"][0][0] for s in samples][: len(answers)]
