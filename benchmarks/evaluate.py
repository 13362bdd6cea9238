"""Scores of generated text against the tools that define them: the same texts in, equal scores out; one thread.

ROUGE on news articles and their summaries, BLEU, its significance test and BERTScore on machine translation, multiple
choice on SmolLM2-135M-Instruct in float32. The texts are those of `LLMANAC_SHARED_DATA` where it is set, else sentences
made by rule. `MINILM=/path` names the folder of all-MiniLM-L6-v2 for BERTScore.
"""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path
from typing import Any

from _harness import Benchmark, Result, find_peer, interleave

DATA = Path(os.environ["LLMANAC_SHARED_DATA"]) if "LLMANAC_SHARED_DATA" in os.environ else None
TRIALS = 10_000
PAIRS = 200  # of BERTScore
PEER_BATCHES = (1, 8)  # of lm-eval

bench = Benchmark("evaluate", "Evaluation against rouge-score, sacrebleu, bert-score and lm-eval; one thread.")


def translations() -> tuple[list[str], list[str], list[str]]:
    """References, a system's output, and another's: words of the first left out at a rate of 1 in 20."""
    rng = random.Random(0)
    if DATA is None:
        words = [f"word{i}" for i in range(3000)] + [",", ".", "3.5"] * 100
        theirs = [" ".join(rng.choices(words, k=rng.randint(8, 30))) for _ in range(3000)]
        mine = [" ".join(w if rng.random() < 0.7 else rng.choice(words) for w in text.split()) for text in theirs]
    else:
        folder = DATA / "bertscore"
        theirs, mine = ((folder / f"{side}_long.txt").read_text("utf-8").splitlines() for side in ("refs", "hyps"))
    other = [" ".join(w for w in text.split() if rng.random() > 0.05) or text for text in mine]
    return theirs, mine, other


def summaries() -> tuple[list[str], list[str]]:
    """Texts and the articles that they are scored against, a sentence a line."""
    if DATA is None:
        theirs, mine, _ = translations()
        return ["\n".join(mine[i : i + 3]) for i in range(0, 600, 3)], [
            "\n".join(theirs[i : i + 9]) for i in range(200)
        ]
    with open(DATA / "rouge" / "cnn_dailymail_tldr.jsonl", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return tuple([row[key].replace(". ", ".\n") for row in rows] for key in ("completion", "prompt"))  # type: ignore[return-value]


@bench.measure("rouge")
def rouge() -> Result:
    """ROUGE-1, -2, -L and -Lsum with the stemmer: texts a second."""
    from llmanac.metrics import stem
    from llmanac.metrics.rouge import TYPES
    from llmanac.metrics.rouge import rouge as score

    mine, theirs = summaries()
    module, peer = find_peer("rouge_score", "rouge-score")

    def ours() -> Any:
        stem.cache_clear()
        return score(mine, theirs, stemmer="porter")

    runs = {"ours": ours}
    if module:
        from rouge_score.rouge_scorer import RougeScorer

        scorer = RougeScorer(TYPES, use_stemmer=True)
        runs["theirs"] = lambda: [scorer.score(gold, text) for text, gold in zip(mine, theirs, strict=True)]
        assert [tuple(row["rougeLsum"]) for row in runs["theirs"]()] == list(map(tuple, ours().scores["rougeLsum"]))
    return Result.rate(
        "rouge", len(mine), interleave(runs, rounds=3, clock=time.process_time), unit="texts/s", peer=peer
    )


@bench.measure("bleu")
def bleu() -> Result:
    """BLEU of a corpus: segments a second."""
    from llmanac.metrics.bleu import bleu as score

    theirs, mine, _ = translations()
    module, peer = find_peer("sacrebleu")
    runs: dict[str, Any] = {"ours": lambda: score(mine, theirs)}
    if module:
        runs["theirs"] = lambda: module.metrics.BLEU().corpus_score(mine, [theirs])
        assert abs(runs["theirs"]().score - score(mine, theirs).value) < 1e-9
    seconds = interleave(runs, rounds=5, clock=time.process_time)
    return Result.rate("bleu", len(mine), seconds, unit="segments/s", peer=peer)


@bench.measure("bleu-test")
def bleu_test() -> list[Result]:
    """Two systems scored and compared, by approximate randomisation and by paired bootstrap: tests a second."""
    from llmanac.metrics.bleu import bleu as score
    from llmanac.metrics.significance import significance

    theirs, mine, other = translations()
    module, peer = find_peer("sacrebleu")
    out = []
    for name, test, short, trials in (
        ("bleu-test", "randomization", "ar", TRIALS), ("bleu-bootstrap", "bootstrap", "bs", TRIALS // 10),
    ):  # fmt: skip

        def ours(test: str = test, trials: int = trials) -> Any:
            return significance(score(mine, theirs), score(other, theirs), test=test, trials=trials)

        runs: dict[str, Any] = {"ours": ours}
        if module:
            from sacrebleu.significance import PairedTest

            def peers(short: str = short, trials: int = trials) -> Any:
                systems = [("one", mine), ("two", other)]
                test = PairedTest(systems, {"BLEU": module.metrics.BLEU()}, [theirs], test_type=short, n_samples=trials)
                return test()[1]["BLEU"][1]

            runs["theirs"] = peers
            assert peers().p_value == ours().p
        seconds = interleave(runs, rounds=3, clock=time.process_time)
        out.append(Result.rate(name, 1, seconds, unit="tests/s", peer=peer, trials=trials))
    return out


@bench.measure("bertscore")
def bertscore() -> Result:
    """BERTScore with MiniLM's six layers: pairs a second."""
    import torch

    from llmanac.evaluate.embed import Embedder
    from llmanac.metrics.bertscore import bertscore as score

    place = os.environ.get("MINILM")
    module, peer = find_peer("bert_score", "bert-score")
    if place is None:
        return Result("bertscore", "pairs/s", None, peer, more={"missing": "MINILM=/path/of/the/model is not set"})
    torch.set_num_threads(1)
    theirs, mine, _ = translations()
    theirs, mine = theirs[:PAIRS], mine[:PAIRS]
    runs: dict[str, Any] = {"ours": lambda: score(mine, theirs, Embedder.load(place, device="cpu"), layer=6)}
    if module:
        runs["theirs"] = lambda: module.score(mine, theirs, model_type=place, num_layers=6, device="cpu")
        assert abs(runs["theirs"]()[2].numpy() - runs["ours"]().scores[:, 2]).max() < 1e-5
    seconds = interleave(runs, rounds=3, clock=time.process_time)
    return Result.rate("bertscore", len(mine), seconds, unit="pairs/s", peer=peer)


def multiple_choice(row: str) -> Result:
    """Log-likelihoods of every choice of 12 items, by lm-eval's HFLM with the batch size that is fastest for it."""
    import torch
    from adapt import folder_of_smollm2

    from llmanac.evaluate._benchmark_rows import items_of
    from llmanac.evaluate.answering import Local
    from llmanac.evaluate.load import load_benchmark
    from llmanac.generate.load import load_engine
    from llmanac.tokenizers.load import load_tokenizer

    (module, peer), name = find_peer("lm_eval"), row.removeprefix("mc-")
    place = folder_of_smollm2()
    if DATA is None or place is None:
        return Result(row, "items/s", None, peer, more={"missing": "LLMANAC_SHARED_DATA, or SmolLM2"})
    if not (Path(place) / "tokenizer.json").is_file():
        load_tokenizer(os.environ["LLMANAC_SMOLLM2"]).save(place)
    torch.set_num_threads(1)
    _, own = load_benchmark(name)
    items = items_of(own, DATA, limit=12)
    pairs = [(item.prompt, own.shots.delimiter + text) for item in items for text in item.choices]
    engine = load_engine(place, dtype="float32", device="cpu")
    runs: dict[str, Any] = {"ours": lambda: Local(engine, name, name).likelihoods(pairs)}
    if module:
        from lm_eval.api.instance import Instance
        from lm_eval.models.huggingface import HFLM

        asked = [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(pairs)]
        for batch in PEER_BATCHES:
            model = HFLM(pretrained=place, dtype="float32", device="cpu", batch_size=batch)
            runs[f"theirs, batches of {batch}"] = lambda m=model: m.loglikelihood(asked, disable_tqdm=True)
        theirs = runs[f"theirs, batches of {PEER_BATCHES[0]}"]()
        off = max(abs(a - b) for (a, _), (b, _) in zip(runs["ours"](), theirs, strict=True))
        assert off < 1e-2, off
    seconds = interleave(runs, rounds=3, warmup=0, clock=time.process_time)
    batches = {n: s for n, s in seconds.items() if n != "ours"}
    if batches:
        seconds["theirs"] = min(batches.values())
    more = {"items": len(items), **{f"items/s, {n}": len(items) / s for n, s in batches.items()}}
    return Result.rate(row, len(items), seconds, unit="items/s", peer=peer, **more)


# Items a second; MMLU with five examples, questions of one subject.
bench.add("mc-hellaswag", multiple_choice)
bench.add("mc-mmlu", multiple_choice)


if __name__ == "__main__":
    bench.main()
