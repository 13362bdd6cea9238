"""Best of 16 on one prompt against transformers.generate(num_return_sequences=16), in the same dtype.

Needs a SmolLM2 GGUF file, as decode.py does; both sides have its numbers in bfloat16, 16 samples of 32 tokens behind a
prompt of 256, without a verifier, one thread. Ours reads the prompt once; time is the CPU time of the process.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _harness import Benchmark, Result, find_peer, interleave

from evidence._pretrained import WHERE, smollm2

bench = Benchmark("reason", __doc__ or "")
PROMPT, ANSWER, N = 256, 32, 16
ROUNDS = int(os.environ.get("LLMANAC_BENCH_ROUNDS", "3"))


@bench.measure("best-of-16")
def best_of_16() -> Result:
    import torch

    from llmanac.core.spec import make_method
    from llmanac.generate.engine import Engine
    from llmanac.generate.native import NativeModel
    from llmanac.models.load import export_model, load_model
    from llmanac.reason import Question
    from llmanac.tokenizers.load import load_tokenizer

    source = smollm2()
    if source is None:
        return Result("best-of-16", "tokens/s", None, "transformers", more={"why": WHERE})
    torch.set_num_threads(1)
    transformers, peer = find_peer("transformers")
    model: Any = load_model(source)
    model.packed = None  # its float32 numbers, not the file's blocks
    folder = Path(tempfile.mkdtemp())
    if transformers:
        export_model(model, folder, family="llama")
    made = NativeModel(model.bfloat16())
    engine = Engine(made.model, load_tokenizer(source), rows=N, runner=made)
    engine.tokenizer.eos_id = None  # every answer has all of its tokens, on both sides
    made.model.generation = {}
    spec: Any = make_method("reason", {"name": "best-of-n", "n": N, "tokens": ANSWER, "temperature": 1.0})
    ask, ids = spec.build(engine=engine), tuple(range(100, 100 + PROMPT))
    runs: dict[str, Callable[[], Any]] = {"ours": lambda: ask([Question(ids=ids, text="")])}
    if transformers:
        loaded = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
        options = {"min_new_tokens": ANSWER, "max_new_tokens": ANSWER, "do_sample": True, "num_return_sequences": N}

        def theirs() -> Any:
            with torch.inference_mode():
                return loaded.generate(torch.tensor([ids]), pad_token_id=0, top_k=0, **options)

        runs["theirs"] = theirs
    seconds = interleave(runs, rounds=ROUNDS, clock=time.process_time)
    return Result.rate("best-of-16", N * ANSWER, seconds, unit="tokens/s", peer=f"{peer}, bfloat16", form=made.form)


if __name__ == "__main__":
    bench.main()
