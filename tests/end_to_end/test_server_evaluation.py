"""lm-eval as it is, against a running server: the scores of `evaluate/likelihood.py` over HTTP.

The model is float64, so that both differ only in what they batch.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import httpx
import pytest
from _likelihoods import loglikelihood_rolling
from _servers import running
from _small_models import transformer

from llmanac.evaluate.likelihood import loglikelihood
from llmanac.generate.engine import Engine
from llmanac.models.pairs import encode_pair
from llmanac.tokenizers.load import load_tokenizer, train_tokenizer

TEXT = (
    "The keeper of the light went down to the shore each morning. She counted the boats, wrote their names, and "
    "walked back before the tide came in. Nobody asked her why; the names were never read again. "
)
CONTEXT = 96  # tokens that the model reads
PAIRS = [
    ("The keeper of the", " light"),
    ("The keeper of the ", "boats"),
    ("The keeper of the", " light went down to the shore"),
    ("", "She counted the boats."),
    ("Nobody asked her  \n ", "why"),
    ("x", "y"),
    ("naïve 日本 ", "🙂 text"),
    ("She counted", ", wrote their nam"),
]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A server over a Transformer of float64; its model and tokenizer."""
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer("bpe", [TEXT], vocab_size=300, special_tokens=["<|endoftext|>"]).save(folder)
    tokenizer = load_tokenizer(folder)
    model = transformer(vocab_size=tokenizer.vocab_size, max_length=CONTEXT)
    with running(Engine(model, tokenizer)) as found:
        found.model, found.tokenizer = model, tokenizer
        yield found


def lm_evals(evaluated, **options):
    """lm-eval's own client; it reads the tokenizer from the server. `max_length` counts the generated token."""
    pytest.importorskip("tenacity", reason="lm-eval's clients need lm-eval[api]")
    api = pytest.importorskip("lm_eval.models.openai_completions")
    url = f"{evaluated.url}/v1/completions"
    return api.LocalCompletionsAPI(base_url=url, model="tiny", max_length=CONTEXT + 1, max_retries=1, **options)


def instances(kind, arguments):
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, given, i) for i, given in enumerate(arguments)]


def test_log_likelihoods_as_lm_eval_asks_for_them_and_reads_them(evaluated):
    """Its own request and its own reading of the reply, without its client."""
    api = pytest.importorskip("lm_eval.models.openai_completions").LocalCompletionsAPI
    encoded = [encode_pair(evaluated.tokenizer, *pair) for pair in PAIRS]
    asked = api._create_payload(SimpleNamespace(model="tiny"), [context + rest for context, rest in encoded])
    reply = httpx.post(f"{evaluated.url}/v1/completions", json=asked, timeout=60).json()
    found = api.parse_logprobs(reply, ctxlens=[len(context) for context, _ in encoded])
    for (total, is_greedy), ours in zip(found, loglikelihood(evaluated.model, evaluated.tokenizer, PAIRS), strict=True):
        assert total == pytest.approx(ours.total, abs=1e-6) and is_greedy == ours.greedy


@pytest.mark.parametrize("options", [{}, {"batch_size": 3}, {"num_concurrent": 4}], ids=["one", "batch", "concurrent"])
def test_log_likelihoods_are_those_of_the_package(evaluated, options):
    harness = lm_evals(evaluated, **options)
    assert harness.tokenizer_backend == "remote"  # found out by /tokenizer_info and /tokenize
    assert harness.prefix_token_id == evaluated.tokenizer.eos_id
    own = loglikelihood(evaluated.model, evaluated.tokenizer, PAIRS)
    found = harness.loglikelihood(instances("loglikelihood", PAIRS))
    for (total, is_greedy), ours in zip(found, own, strict=True):
        assert total == pytest.approx(ours.total, abs=1e-6) and is_greedy == ours.greedy
    ids = evaluated.tokenizer.encode("The keeper")
    best = Engine(evaluated.model).generate(ids, max_new_tokens=3, stop_ids=[])[0].ids
    verdicts = harness._loglikelihood_tokens([(None, ids, best), (None, ids, [*best[:2], best[2] ^ 1])])
    assert [is_greedy for _, is_greedy in verdicts] == [True, False]


def test_rolling_log_likelihoods_are_those_of_the_package(evaluated):
    texts = [TEXT[:70], TEXT * 2]
    found = lm_evals(evaluated).loglikelihood_rolling(instances("loglikelihood_rolling", [(t,) for t in texts]))
    # lm-eval leaves room for the generated token: its windows are one place shorter
    own = loglikelihood_rolling(evaluated.model, evaluated.tokenizer, texts, window=CONTEXT - 1)
    assert found == pytest.approx(own, abs=1e-6)


def test_generations_are_those_of_the_engine(evaluated):
    prompts = ["The keeper of the", "Nobody asked"]
    asked = [(p, {"until": ["e"], "max_gen_toks": 12}) for p in prompts]
    found = lm_evals(evaluated).generate_until(instances("generate_until", asked))
    engine = Engine(evaluated.model, evaluated.tokenizer)
    assert found == [c.text for c in engine.generate(prompts, max_new_tokens=12, stop=["e", "<|endoftext|>"])]


def test_tokens_and_back(evaluated):
    url, tokenizer = evaluated.url, evaluated.tokenizer
    text = "She counted<|endoftext|> 日本"
    ids = httpx.post(f"{url}/tokenize", json={"prompt": text}).json()["tokens"]
    assert ids == tokenizer.encode(text, special="all") and tokenizer.eos_id in ids
    assert httpx.post(f"{url}/detokenize", json={"tokens": ids}).json() == {"prompt": text}
    plain = httpx.post(f"{url}/tokenize", json={"prompt": text, "parse_special": False}).json()["tokens"]
    assert plain == tokenizer.encode(text)
    for wrong in ([tokenizer.vocab_size], [-1], "a", None):
        answer = httpx.post(f"{url}/detokenize", json={"tokens": wrong})
        assert answer.status_code == 400 and answer.json()["error"]["param"].startswith("tokens"), answer.text


TASK = """task: letters
dataset_path: json
dataset_kwargs: {{data_files: {{validation: {rows}}}}}
output_type: multiple_choice
validation_split: validation
doc_to_text: "{{{{query}}}}"
doc_to_target: "{{{{label}}}}"
doc_to_choice: choices
metric_list: [{{metric: acc}}]
"""


@pytest.mark.slow
def test_the_command_of_lm_eval(evaluated, tmp_path):
    """`lm_eval --model local-completions`, in a process of its own."""
    pytest.importorskip("lm_eval")
    pytest.importorskip("tenacity", reason="lm-eval's clients need lm-eval[api]")
    rows = [
        {"query": context, "choices": [rest, " boats", " tide came in"], "label": 0} for context, rest in PAIRS[:3] * 4
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "letters.yaml").write_text(TASK.format(rows=tmp_path / "rows.jsonl"))
    arguments = f"model=tiny,base_url={evaluated.url}/v1/completions,max_length={CONTEXT + 1}"
    command = [sys.executable, "-m", "lm_eval", "--model", "local-completions", "--model_args", arguments]
    command += ["--tasks", "letters", "--include_path", ".", "--output_path", "out", "--log_samples"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, **offline}, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr[-3000:]
    samples = [json.loads(line) for path in tmp_path.glob("out/**/samples_*.jsonl") for line in path.open()]
    assert len(samples) == len(rows)
    for sample in samples:
        pairs = [(row["arg_0"], row["arg_1"]) for row in sample["arguments"].values()]
        own = loglikelihood(evaluated.model, evaluated.tokenizer, pairs)
        found = [float(response[0][0]) for response in sample["resps"]]
        assert found == pytest.approx([one.total for one in own], abs=1e-6)
