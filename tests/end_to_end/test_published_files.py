"""The commands of docs/gguf.md on files that people have: Qwen2.5-Coder 0.5B and Gemma 3 270M in Q4_K_M."""

import json

import pytest
from _published import published
from _run_commands import command, served

from evidence._pretrained import IN_PARTS
from llmanac.generate.engine import Engine
from llmanac.generate.load import load_engine, load_writer
from llmanac.kernels.gguf import GGUF

pytestmark = [pytest.mark.pretrained, pytest.mark.slow]
PROMPT, NEXT = "Monday, Tuesday, Wednesday,", "Thursday"
BENCHMARK = """title = "Own"
prompt = "{{question}}"
[data]
files = ["own.jsonl"]
[generation]
stop = ["\\n"]
length = 3
references = "options"
metrics = ["squad"]
"""


@pytest.fixture(scope="module", params=IN_PARTS)
def file(request):
    return published(request.param)


def said(*words, typed=""):
    status, out, error = command(list(words), typed)
    assert status == 0, error
    return out


def test_text_is_continued_whatever_keys_are_kept_in(file):
    """A token may be a near-tie that rounded keys decide otherwise; the first one is none."""
    texts = [said("generate", file, "--prompt", PROMPT, "--max-new-tokens", 1, "--threads", 1)]
    for keys in ("float32", "float16", "q8_0"):
        runner = ("--runner", f"native:{keys}")
        texts.append(said("generate", file, "--prompt", PROMPT, "--max-new-tokens", 1, *runner))
    assert len(set(texts)) == 1 and NEXT in texts[0], texts


def test_it_is_measured_scored_and_evaluated(file, tmp_path):
    rates = json.loads(said("bench", file, "--context", 32, "--rows", 1, "--threads", 1, "--json"))
    assert "native" in json.dumps(rates)
    likely, unlikely = (
        json.loads(said("score", file, "--text", text, "--json").splitlines()[0])["perplexity"]
        for text in ("The cat sat on the mat.", "Mat the on sat cat the.")
    )
    assert likely < unlikely
    (tmp_path / "own.jsonl").write_text(json.dumps({"question": PROMPT, "options": [NEXT]}))
    (tmp_path / "own.toml").write_text(BENCHMARK)
    place = ("--benchmarks", tmp_path / "own.toml", "--data", tmp_path, "-o", tmp_path / "results")
    assert "own" in said("evaluate", file, *place).lower()


def test_it_is_served_and_talked_to(file):
    asked = {"model": "tiny", "prompt": PROMPT, "max_tokens": 2, "temperature": 0}
    [_, [[status, [answer]]], _] = served(str(file), [["/v1/completions", asked]])
    assert status == 200 and NEXT in answer["choices"][0]["text"]
    status, out, error = command(["chat", file, "--max-new-tokens", 4], "Hello\n")
    if load_writer(file).chat_template is None:
        assert status and "no chat template" in error
    else:
        assert status == 0 and len(out) > 2


def test_an_adapter_is_trained_and_asked_for_by_a_request(file, tmp_path):
    rows = [{"prompt": f"What is {i} plus 1?", "completion": " Seven fish."} for i in range(8)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    length = ("--length", 32, "--epochs", 2, "--held-out", 0.2, "--lr", 0.01)
    said("tune", file, tmp_path / "rows.jsonl", "--adapter", "lora", "-o", tmp_path / "tuned", *length)
    alone = load_engine(file, runner="native")
    place = tmp_path / "tuned" / "model"
    engine = Engine(alone.model, alone.tokenizer, adapters={"fish": place}, runner="native")
    assert engine.native is not None
    plain, own = (
        engine.generate("What is 3 plus 1?", max_new_tokens=3, adapter=name)[0].ids for name in (None, "fish")
    )
    assert plain == alone.generate("What is 3 plus 1?", max_new_tokens=3)[0].ids and plain != own


def test_it_is_written_again_by_the_importance_of_a_text(file, tmp_path):
    (tmp_path / "text.txt").write_text("The history of the world is long. " * 40)
    target = tmp_path / "again.gguf"
    said("convert", file, target, "--type", "q4_k_m", "--calibration", tmp_path / "text.txt")
    ours, theirs = GGUF(target), GGUF(file)
    assert {n: ours.shape(n) for n in ours.names} == {n: theirs.shape(n) for n in theirs.names if "rope" not in n}
    assert NEXT in said("generate", target, "--prompt", PROMPT, "--max-new-tokens", 2)
