"""What models of different objectives write, scored by one autoregressive judge.

    passage (held out) = prompt of P tokens, then N more; every model writes N tokens of its own after the prompt
    judged    bits per byte of what was written, given the prompt, under the judge            lower is better
    distinct  different word bigrams / word bigrams of all that was written                   higher is better

A model writes by sampling at temperature 1, without special tokens, as its objective taught it:

    autoregressive   from left to right, after a prompt that it sees from the left
    prefix           the same, after a prompt that it sees from both sides
    glm              into one blank at the end of the prompt
    masked           N masks after the prompt: half of N passes of mask-predict (sample all masks, keep the likeliest),
                     then as many of Gibbs sampling, which hide a few places and sample them again

The judge has read text that no arm was trained on: by default a 5-gram (modified Kneser-Ney) of the held-out documents
without the passages. A text that repeats itself is easy to predict, so bits per byte alone are no merit: an arm with
less than `LEAST_DISTINCT` of the bigrams of the passages themselves gets no verdict.

Ghazvininejad et al. 2019 (https://arxiv.org/abs/1904.09324); Wang and Cho 2019 (https://arxiv.org/abs/1902.04094).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmanac.core.errors import DataError
from llmanac.core.rng import numpy_generator
from llmanac.core.spec import make_method
from llmanac.core.types import ALL, LAST, Batch, capabilities, evaluating
from llmanac.evaluate.likelihood import loglikelihood
from llmanac.lab.cache import digest
from llmanac.lab.trials.decoding import DecodedModel
from llmanac.metrics import Metric
from llmanac.metrics.diversity import distinct_n
from llmanac.models.pairs import start_token
from llmanac.objectives import special_id

PASSAGES = 64
PROMPT, WRITTEN = 16, 32  # tokens; fewer where the models read shorter rows
FEWEST = 8
LEAST_DISTINCT = 0.8
JUDGED = Metric("judged", "bit/B", "lower", "bits per byte of what it writes, under the judge")
DISTINCT = Metric("distinct_2", "", "higher", "different bigrams of what it writes")


@dataclass(frozen=True)
class JudgedGeneration:
    """Passages and their judge.

    Attributes:
        prompts, written: (n, P) and (n, N) token ids.
        judge: an autoregressive model; judged_by: its tokenizer; named: what it is.
    """

    tokenizer: Any
    prompts: np.ndarray
    written: np.ndarray
    judge: Any
    judged_by: Any
    named: str

    metrics = (JUDGED, DISTINCT)

    @property
    def identity(self) -> str:
        """A hash of the passages and the judge's name (of a model with the hash of its files)."""
        return digest([self.prompts.tolist(), self.written.tolist(), self.named])

    def score(self, model: Any, objective: str, seed: int) -> dict[str, float]:
        """Both metrics of what a model writes.

        Args:
            objective: the name of the objective's file, which says how the model writes.
        """
        prompts = torch.from_numpy(self.prompts).to(model.device)
        generator = torch.Generator(model.device).manual_seed(seed)
        with evaluating(model), torch.no_grad():
            if objective == "masked":
                written = fill(model, prompts, self.written.shape[1], self.tokenizer, generator)
            else:
                written = write(model, prompts, self.written.shape[1], self.tokenizer, generator, objective)
        return self.of(written.cpu().numpy())

    def of(self, written: np.ndarray) -> dict[str, float]:
        """Both metrics of tokens (n, N) that follow the prompts."""
        decode = self.tokenizer.decode
        pairs = [
            (decode(prompt), decode([*prompt, *rest])[len(decode(prompt)) :])
            for prompt, rest in zip(self.prompts.tolist(), written.tolist(), strict=True)
        ]
        nats = -sum(one.total for one in loglikelihood(self.judge, self.judged_by, pairs, label=None))
        size = sum(len(text.encode("utf-8")) for _, text in pairs)
        distinct = distinct_n([text for _, text in pairs], 2)
        distinct = 0.0 if math.isnan(distinct) else distinct  # no text has two words
        return {JUDGED.name: nats / math.log(2) / max(1, size), DISTINCT.name: distinct}

    def record(self) -> dict[str, Any]:
        """What a study's result says of it: the judge, the sizes, and the metrics of the passages themselves."""
        counts = {"passages": len(self.prompts), "prompt": self.prompts.shape[1], "written": self.written.shape[1]}
        return {"judge": self.named, **counts, "text": self.of(self.written)}


def make_generation(prepared: Any, length: int, judge: str | None) -> JudgedGeneration:
    """Passages of the held-out text, at most half of it, and the judge: a model, or a 5-gram of the rest.

    Args:
        length: tokens that the models read at most.
        judge: a model's folder or file with its tokenizer; None for the 5-gram.

    Raises:
        DataError: too little held-out text. LlmanacError: a judge that cannot be loaded.
    """
    width = min(PROMPT + WRITTEN, length - 2)  # GLM needs two more
    prompt = max(1, width // 3)
    documents = [prepared.tokenizer.encode_array(text).astype(np.int64) for text in prepared.report]
    places = [(n, at) for n, ids in enumerate(documents) for at in range(0, len(ids) - width + 1, width)]
    count = min(PASSAGES, len(places) // 2)
    if width < 3 or count < FEWEST:
        raise DataError(
            f"data.held_out: {len(places)} passages of {width} tokens are too few to judge what models write; hold "
            "out more text"
        )
    order = numpy_generator(0, "passages to write").permutation(len(places))[:count]
    chosen = [places[n] for n in sorted(order.tolist())]
    rows = np.stack([documents[n][at : at + width] for n, at in chosen])
    if judge is not None:
        found = DecodedModel.load(judge, "cpu")
        model, tokenizer, named = found.model.eval(), found.tokenizer, f"{judge} ({found.sha256[:8]})"
    else:
        rest = [
            piece for n, ids in enumerate(documents) for piece in _without(ids, [a for m, a in chosen if m == n], width)
        ]
        rest += [prepared.tokenizer.encode_array(text) for text in prepared.tuning]
        tokenizer, named = prepared.tokenizer, f"a 5-gram of {sum(map(len, rest)):,} held-out tokens"
        model = make_method("lm", "ngram").build(vocab_size=tokenizer.vocab_size)
        model.estimate(rest, start=start_token(tokenizer))
    return JudgedGeneration(prepared.tokenizer, rows[:, :prompt], rows[:, prompt:], model, tokenizer, named)


def _without(ids: np.ndarray, starts: Sequence[int], width: int) -> list[np.ndarray]:
    """The pieces of a document between its passages."""
    edges = [edge for start in starts for edge in (start, start + width)]
    return [piece for piece in np.split(ids, edges)[::2] if len(piece)]


def without_degenerate(result: dict[str, Any], generation: JudgedGeneration) -> None:
    """Put the judge into a study's result, and take verdicts back where an arm, or the baseline, repeats itself."""
    record = result["generation"] = generation.record()
    least = LEAST_DISTINCT * record["text"][DISTINCT.name]
    means = {arm: sum(v) / len(v) for arm, v in result["values"].get(DISTINCT.name, {}).items() if v}
    record["degenerate"] = repeats = [arm for arm, mean in means.items() if mean < least]
    for comparison in result["comparisons"].get(JUDGED.name, []):
        named = [arm for arm in (comparison["arm"], result["baseline"]) if arm in repeats]
        if named:
            comparison |= {"verdict": "none", "refused": f"{' and '.join(named)} repeats itself"}


def _sampled(logits: Tensor, banned: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Tokens (B, n) and their probabilities from logits (B, n, V), none of the banned."""
    p = logits.double().index_fill(-1, banned, -torch.inf).softmax(-1)
    tokens = torch.multinomial(p.flatten(0, 1), 1, generator=generator).view(p.shape[:2])
    return tokens, p.gather(-1, tokens[..., None])[..., 0]


def _banned(tokenizer: Any, device: torch.device) -> Tensor:
    return torch.tensor(sorted(tokenizer.special_tokens.values()), dtype=torch.long, device=device)


def write(
    model: Any, prompts: Tensor, count: int, tokenizer: Any, generator: torch.Generator, objective: str
) -> Tensor:
    """`count` tokens after the prompts (B, P), from left to right -> (B, count).

    Args:
        objective: autoregressive, prefix or glm: how the prompt is seen, and what comes before the first token.
    """
    rows, banned = len(prompts), _banned(tokenizer, prompts.device)
    read, where = prompts, dict[str, Any]()
    if objective == "glm":
        mask, start = special_id(tokenizer, "glm", "<|mask|>"), special_id(tokenizer, "glm", "<|sop|>")
        read = torch.cat([prompts, prompts.new_tensor([[mask, start]]).expand(rows, 2)], 1)
    seen = read.shape[1] - (objective == "glm")
    two = objective == "glm" and capabilities(model).places_within
    if two:  # a written token is at the blank's place in the text
        at = torch.arange(read.shape[1]).clamp(max=seen - 1).expand(rows, -1)
        where = {"positions": at, "within": (torch.arange(read.shape[1]) >= seen).long().expand(rows, -1)}
    kind: dict[str, Any] = {}
    if objective != "autoregressive":
        kind = {"mask": "prefix", "prefix": torch.full((rows,), seen)}
    state, out = model.start(rows), []
    batch = Batch(ids=read, **kind, **where).to(prompts.device)
    for n in range(count):
        tokens, _ = _sampled(model(batch, state, LAST).logits, banned, generator)
        out.append(tokens)
        places = torch.full((rows, 1), seen - 1), torch.full((rows, 1), n + 2)
        where = {"positions": places[0], "within": places[1]} if two else {}
        batch = Batch(ids=tokens, **where).to(prompts.device)
    return torch.cat(out, 1)


def fill(model: Any, prompts: Tensor, count: int, tokenizer: Any, generator: torch.Generator) -> Tensor:
    """`count` tokens after the prompts (B, P), by mask-predict and Gibbs sampling -> (B, count)."""
    rows, first, banned = len(prompts), prompts.shape[1], _banned(tokenizer, prompts.device)
    mask = special_id(tokenizer, "masked", "<|mask|>", "[MASK]", "<mask>")
    out = torch.full((rows, count), mask, device=prompts.device)
    sure = torch.zeros(rows, count, dtype=torch.float64, device=prompts.device)

    def sample(hidden: Tensor) -> None:
        """New tokens for the hidden places (B, count) bool."""
        ids = torch.cat([prompts, out.masked_fill(hidden, mask)], 1)
        logits = model(Batch(ids=ids, mask="bidirectional"), want=ALL).logits[:, first:]
        tokens, p = _sampled(logits, banned, generator)
        out.copy_(torch.where(hidden, tokens, out))
        sure.copy_(torch.where(hidden, p, sure))

    passes = max(1, count // 2)
    for turn in range(passes):
        again = count * (passes - turn) // passes  # the least certain of them are sampled again
        sample(sure.argsort(1).argsort(1) < again)
    for places in torch.randperm(count, generator=generator, device=prompts.device).chunk(passes):
        hidden = torch.zeros(rows, count, dtype=torch.bool, device=prompts.device)
        hidden[:, places] = True
        sample(hidden)
    return out
