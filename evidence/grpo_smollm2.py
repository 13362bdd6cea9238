"""GRPO on a pretrained model: a rule as the reward, with and without a KL penalty.

SmolLM2-135M-Instruct (from its Q4_1 file) is asked for one sentence that uses four given words. The reward is the
share of them in the answer, and 0 for an answer that does not end within {tokens} tokens. LoRA of rank {rank} on all
linear maps learns by GRPO: {draws} steps of {answers} answers at temperature 1, {prompts} prompts with {samples}
answers each, sampled from a copy into which the adapter is merged at each step; AdamW at {rate:g}, gradients cut at
norm 1, bfloat16 products. The penalty is GRPO's own (k3) with the weight {weight:g}. A seed draws the prompts, the
samples and the adapter's first numbers. Results are of {held} answers to prompts whose words and subjects were in no
training prompt. KL is to the model before training, in nats an answer, estimated on the trained model's own answers.
Fluency is what Gemma 3 270M, a base model that took no part, gives an answer: nats a byte.

{findings}

Limits: one small model in 4 bits, one rule, {draws} steps; the better of two rates in {swept} steps of a seed that is
no replicate. Nats a byte at temperature 1 fall with the entropy of a policy: a lower number does not mean better
sentences alone.
"""

from __future__ import annotations

import copy
import json
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

from evidence._alignment import distinct, fit, scorer
from evidence._page import with_interval
from evidence._pretrained import needed
from evidence._synthetic import over, writing
from evidence.tune_smollm2 import small_model
from llmanac.adapters import applied
from llmanac.core.pages import Line, Section, line_chart, table
from llmanac.core.rng import numpy_generator
from llmanac.core.spec import make_method
from llmanac.core.types import Batch
from llmanac.generate.engine import Engine
from llmanac.lab.complexity import one_thread
from llmanac.models.load import load_model
from llmanac.objectives.policy_gradient import Rollout
from llmanac.rewards import Sample, each
from llmanac.tokenizers.load import load_tokenizer
from llmanac.train._sampling import AskedDraw, answers
from llmanac.train.rollouts import RolloutPrompt, Rollouts, Sampling

ROWS = ("rlhf/rl", "rl/kl-penalty")
CLAIM = "GRPO raises the reward of a pretrained model on new prompts, and a KL penalty keeps it nearer to its start"
SEEDS = 5
TIMED, TOLERANCE = ("kl", "nats", "curve"), 0.05  # of the small run, whose model is random
METRIC = "mean reward of answers to held-out prompts; KL to the start in nats an answer"
MARGIN = "reward 0.01; KL 1%"
SWEEP = "two rates, 3e-4 and 1e-3, by the reward of the last 5 of 12 steps, with a seed that is no replicate"

SUBJECTS = (
    "a farmer", "a teacher", "the sea", "a holiday", "an old house", "the winter", "a journey", "a small shop",
    "the harvest", "a quarrel", "a birthday", "the night", "a doctor", "a village", "the morning", "a game",
)  # fmt: skip
NEW_SUBJECTS = ("a sailor", "the garden", "a wedding", "the storm", "a neighbour", "the market")
WORDS = """
    river clock bread ladder window letter horse bridge candle mirror basket hammer blanket kettle pencil ticket
    coat button lantern apple stone bottle chair flower rope wheel drum paper spoon glove feather barrel needle
    bucket carpet whistle saddle pillow nail chain
""".split()  # noqa: SIM905
NEW_WORDS = """
    engine cheese curtain shovel violin pocket tower onion brush cradle anchor marble jacket oven statue rabbit
    cellar ribbon compass helmet fountain parcel towel magnet
""".split()  # noqa: SIM905
DRAWS, PROMPTS, SAMPLES, TOKENS, ASKED = 40, 4, 8, 48, 4
HELD, EACH = 24, 4  # prompts and answers to each
RANK, RATE, WEIGHT, SWEPT = 8, 1e-3, 0.1, 12
ARMS: dict[str, dict[str, Any]] = {
    "no penalty": {},
    "KL penalty": {"kl": "k3", "kl_weight": WEIGHT},
}
PIECES = ("start", *ARMS)
PARTIAL = True


def rule(sample: Sample) -> float:
    """The share of the words that an answer has; 0 where it does not end."""
    said = set(re.findall(r"[a-z]+", sample.text.lower()))
    return float(sample.finished) * fmean(word in said for word in sample.row["words"])


@dataclass(frozen=True)
class Task:
    """The place of a model and its sizes; `judge` is the place of the model that reads answers."""

    model: Path
    judge: Path
    tokenizer: Any
    draws: int = DRAWS
    prompts: int = PROMPTS
    samples: int = SAMPLES
    tokens: int = TOKENS
    held: int = HELD
    dtype: torch.dtype = torch.bfloat16
    rule: Callable[[Sample], float] = rule

    def load(self, name: Path) -> Any:
        return load_model(name, dtype="float32", device="cpu").requires_grad_(False)


@cache
def task() -> Task:
    model = needed()
    return Task(model, needed("gemma"), load_tokenizer(model))


def asked(of: Task, count: int, seed: int, new: bool) -> list[RolloutPrompt]:
    """Prompts for sentences: a subject and four words, of the held-out ones or of the others."""
    rng, out = numpy_generator(seed, "held-out" if new else "prompts"), []
    subjects, words = (NEW_SUBJECTS, NEW_WORDS) if new else (SUBJECTS, WORDS)
    for _ in range(count):
        chosen = [str(word) for word in rng.choice(words, ASKED, replace=False)]
        text = (
            f"Write one sentence about {rng.choice(subjects)} that uses the words {', '.join(chosen[:-1])} and "
            f"{chosen[-1]}."
        )
        ids, _ = of.tokenizer.encode_chat([{"role": "user", "content": text}], add_generation_prompt=True)
        out.append(RolloutPrompt(ids=tuple(ids), text=text, row={"words": chosen}))
    return out


def merged(policy: Any) -> Any:
    """A copy of a model with its adapter merged."""
    found = copy.deepcopy(policy)
    for change in applied(found):
        change.merge()
    return found


def trained(of: Task, arm: str, seed: int, lr: float = RATE, draws: int | None = None) -> tuple[Any, list[Any]]:
    """A policy with its merged adapter, and the log of its draws."""
    draws = of.draws if draws is None else draws
    policy = of.load(of.model)
    make_method("adapter", {"name": "lora", "rank": RANK, "alpha": 2.0 * RANK}).build(seed=seed).apply(policy)
    objective: Any = make_method("objective", {"name": "grpo", **ARMS[arm]}).build()
    reference = {"reference": scorer(of.load(of.model))} if ARMS[arm] else {}
    sampling = Sampling(prompts=of.prompts, samples=of.samples, tokens=of.tokens)

    def sample(engine: Engine, prompts: list[tuple[int, ...]], how: AskedDraw) -> Any:
        return answers(Engine(merged(policy), of.tokenizer, rows=of.prompts * of.samples), prompts, how)

    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.jsonl"
        source = Rollouts(asked(of, draws * of.prompts, seed, new=False), Engine(policy, of.tokenizer), objective,
                          each(of.rule), sampling, seed=seed, log=log, sample=sample, behaviour=scorer(policy),
                          **reference)  # fmt: skip
        fit(policy, objective, lambda: next(source), draws, lr, source.stepped, of.dtype)
        lines = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    return merged(policy), lines


def measured(of: Task, model: Any, seed: int) -> dict[str, Any]:
    """What a model's answers to held-out prompts are worth."""
    prompts = asked(of, of.held, seed, new=True)
    found = Engine(model, of.tokenizer, rows=32).generate(
        [list(prompt.ids) for prompt in prompts], n=EACH, seed=seed, logprobs=0, temperature=1.0,
        max_new_tokens=of.tokens,
    )  # fmt: skip
    samples, rows = [], []
    for number, answer in enumerate(found):
        prompt, ids = prompts[number // EACH], tuple(token.id for token in answer.token_logprobs)
        samples.append(Sample(row=prompt.row, prompt=prompt.text, text=answer.text,
                              finished=answer.finish_reason == "stop", tokens=len(ids)))  # fmt: skip
        logs = np.array([token.sampled for token in answer.token_logprobs])
        rows.append(Rollout(prompt=prompt.ids, completion=ids, logprobs=logs, group=number // EACH))
    before = scorer(of.load(of.model))(rows)
    shown = max(samples, key=lambda one: (of.rule(one), -one.tokens))
    return {
        "reward": fmean(map(of.rule, samples)),
        "finished": fmean(float(one.finished) for one in samples),
        "tokens": fmean(one.tokens for one in samples),
        "kl": fmean(float((row.logprobs - logs).sum()) for row, logs in zip(rows, before, strict=True)),
        "nats": nats(of, [one.text for one in samples if one.text.strip()]),
        "distinct": distinct(samples),
        "example": [list(shown.row["words"]), shown.text],
    }


@torch.no_grad()
def nats(of: Task, texts: Sequence[str]) -> float:
    """Nats a byte of texts under the model that reads them: the sum over all texts, over their bytes."""
    model, tokenizer = of.load(of.judge), load_tokenizer(of.judge)
    total, size = 0.0, 0
    for text in texts:
        ids = torch.tensor([tokenizer.framed(text)[0]], dtype=torch.long)
        logs = torch.log_softmax(model(Batch(ids=ids)).logits[0].double(), -1)
        total -= float(logs[:-1].gather(1, ids[0, 1:, None]).sum())
        size += len(text.encode())
    return total / max(1, size)


@one_thread()
def measure(seed: int, size: str, piece: str = "") -> dict[str, Any]:
    """The start, or an arm; small: all of them on a random model."""
    if size == "small":
        with tempfile.TemporaryDirectory() as folder:
            small_model(Path(folder))
            writing(load_model(folder), seed).save_pretrained(folder)
            of = Task(Path(folder), Path(folder), load_tokenizer(Path(folder)), 2, 2, 2, 4, 2, torch.float32, letters)
            arms = {arm: measured(of, trained(of, arm, seed)[0], seed) for arm in ARMS}
            return {"start": measured(of, of.load(of.model), seed), **arms}
    of = task()
    if piece == "start":
        return measured(of, of.load(of.model), seed)
    model, lines = trained(of, piece, seed)
    return {**measured(of, model, seed), "curve": [line["reward"] for line in lines]}


def letters(sample: Sample) -> float:
    """A rule for a random model: how many letters an answer has, in tens."""
    return sum(map(str.isalpha, sample.text)) / 10


def cells(seeds: int) -> list[str]:
    """Arm by arm."""
    return [f"{piece}.{seed}" for piece in PIECES for seed in range(seeds)]


def raised(seeds: Sequence[dict[str, Any]], arm: str) -> list[float]:
    """By how much an arm's reward is above that of its start, in each seed that has both."""
    return [one[arm]["reward"] - one["start"]["reward"] for one in seeds if {arm, "start"} <= one.keys()]


def nearer(seeds: Sequence[dict[str, Any]]) -> list[float]:
    """The KL with a penalty over that without, less 1, in each seed that has both."""
    done = [one for one in seeds if set(ARMS) <= one.keys()]
    return [one["KL penalty"]["kl"] / one["no penalty"]["kl"] - 1 for one in done]


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    """Arms, rewards by step, an answer of each."""
    keys = {"reward": 3, "finished": 2, "tokens": 1, "kl": 1, "nats": 3, "distinct": 2}
    heads = ["arm", "reward", "ended", "tokens", "KL to the start", "nats a byte", "different answers", "seeds"]
    rows, lines, said = [], [], []
    for arm in PIECES:
        if not (some := [one[arm] for one in seeds if arm in one]):
            continue
        rows.append([arm, *(with_interval(over(some, key), digits) for key, digits in keys.items()), str(len(some))])
        words, text = some[0]["example"]
        said.append(["; ".join(words), arm, " ".join(text.split())])
        if arm not in ARMS:
            continue
        curve = np.mean([one["curve"] for one in some], axis=0)
        points = [(float(at + 3), float(curve[at : at + 5].mean())) for at in range(0, len(curve), 5)]
        lines.append(Line(arm, points))
    about = "Means and half of the 95% t interval over the seeds, here and below."
    return [
        Section("Arms", [about], [table(heads, rows)]),
        *([Section("Reward while training", ["Means of five steps."], [],
                   [line_chart(lines, "step", "reward", "Reward of sampled answers")])] if lines else []),
        Section("The best answer of the first seed", [], [table(["words", "arm", "answer"], said)]),
    ]  # fmt: skip


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The numbers of the text."""
    lines = []
    for arm in PIECES:
        if some := [one[arm] for one in seeds if arm in one]:
            reward, kl = with_interval(over(some, "reward"), 3), with_interval(over(some, "kl"), 1)
            lines.append(f"- {arm.capitalize()}: reward {reward}, KL {kl} nats an answer.")
    return {
        "tokens": TOKENS, "rank": RANK, "draws": DRAWS, "answers": PROMPTS * SAMPLES, "prompts": PROMPTS,
        "samples": SAMPLES, "rate": RATE, "weight": WEIGHT, "held": HELD * EACH, "swept": SWEPT,
        "findings": "\n".join(lines),
    }  # fmt: skip
