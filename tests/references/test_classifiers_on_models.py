"""Fine-tuning beside a plain PyTorch loop and transformers' heads, prompting beside lm-eval's multiple choice."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from _labelled import accuracy, denied, easy, sst2
from _small_models import randomise
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from llmanac.core import registry
from llmanac.core.errors import CheckpointError, DataError, SpecError
from llmanac.core.types import ALL, HIDDEN, Batch, ModelOutput
from llmanac.data.examples import ExampleStream, batch_of
from llmanac.models.gguf.write import export_gguf
from llmanac.models.load import load_model
from llmanac.recipes.classification import small_language_model
from llmanac.recipes.classifying.use import make_classifier
from llmanac.tokenizers.load import train_tokenizer
from llmanac.train.metrics import read_metrics

pytestmark = pytest.mark.usefixtures("one_thread")
END = "<|endoftext|>"


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer("bpe", easy()[0] + denied()[0], vocab_size=300, special_tokens=[END])


def lm_of(vocab, seed=0, dtype=torch.float64, **choices):
    block = {"name": "pre-norm", "mixer": {"name": "grouped-query", "heads": 4, "kv_heads": 2}, "ffn": "swiglu"}
    fields = {"dim": 32, "layers": 2, "blocks": [block], "max_length": 64, **choices}
    return randomise(registry.build("lm", "transformer", vocab_size=vocab, **fields), seed).to(dtype).eval()


# --- fine-tuning ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("pool", "trained"), [("last", "all"), ("mean", "all"), ("last", "head")])
def test_the_loss_curve_is_that_of_a_plain_pytorch_loop(tokenizer, tmp_path, pool, trained):
    """Same weights, same batches in the same order: torch.optim.AdamW, F.cross_entropy and a loop of ten lines."""
    texts, labels = denied()
    choices = {"pool": pool, "trained": trained, "epochs": 2, "batch": 16, "lr": 1e-2, "weight_decay": 0.1}
    tuned = registry.build("classifier", "fine-tuning", model=lm_of(300), tokenizer=tokenizer, **choices)
    tuned.fit(texts, labels, seed=5, folder=tmp_path / "run")
    ours = [line["loss"] for line in read_metrics(tmp_path / "run")]

    plain = registry.build("classifier", "fine-tuning", model=lm_of(300), tokenizer=tokenizer, **choices)
    plain.prepare(texts, labels, 5)
    lm, head = plain.model, torch.nn.Parameter(plain.network.head.weight.detach().clone())
    stream = ExampleStream(plain.examples(texts, labels), rows=16, seed=5)
    trained_ones = [head] if trained == "head" else [head, *lm.parameters()]
    optimizer = torch.optim.AdamW(trained_ones, lr=1e-2, betas=(0.9, 0.999), weight_decay=0.1)
    steps, theirs = 60, []  # 96 texts twice in batches of 16 would be 12: few examples are trained for longer
    for step in range(steps):
        warm = round(0.1 * steps)
        share = (step + 1) / warm if step < warm else (1 + np.cos(np.pi * (step - warm) / (steps - warm))) / 2
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * share
        rows = next(stream)
        scores = []
        for i in range(len(rows)):  # one text at a time: no padding
            states = lm(Batch(ids=torch.from_numpy(rows[i].ids)[None]), want=HIDDEN).hidden[0]
            scores.append(F.linear(states[-1] if pool == "last" else states.mean(0), head))
        loss = F.cross_entropy(torch.stack(scores), torch.from_numpy(rows.classes))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        theirs.append(float(loss.detach()))
    np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-10)
    assert len(ours) == steps and abs(theirs[0] - theirs[-1]) > 0.01


def test_scores_equal_transformers_sequence_classification(tokenizer, tmp_path):
    """The same Llama with the same head: its last token's state decides."""
    tuned = registry.build("classifier", "fine-tuning", model=lm_of(300), tokenizer=tokenizer)
    texts, labels = denied()
    tuned.prepare(texts, labels, 0)
    with torch.no_grad():
        tuned.network.head.weight.normal_(0, 0.5, generator=torch.Generator().manual_seed(1))
    tuned.model.save_pretrained(tmp_path / "lm")
    config = LlamaConfig.from_pretrained(tmp_path / "lm", num_labels=2, pad_token_id=tokenizer.eos_id)
    config._attn_implementation = "eager"
    llama = LlamaForSequenceClassification.from_pretrained(tmp_path / "lm", config=config, dtype=torch.float64).eval()
    with torch.no_grad():
        llama.score.weight.copy_(tuned.network.head.weight)
        batch = batch_of(tuned.examples(texts), "padded")
        ids = batch.ids.clone()
        ids[torch.arange(ids.shape[1])[None] >= batch.lengths[:, None]] = tokenizer.eos_id
        mask = (torch.arange(ids.shape[1])[None] < batch.lengths[:, None]).long()
        # the start token is the end-of-text token too, which their head would take for padding: look it up by hand
        states = llama.model(input_ids=ids, attention_mask=mask).last_hidden_state
        theirs = llama.score(states)[torch.arange(len(ids)), batch.lengths - 1].numpy()
    np.testing.assert_allclose(tuned.scores(texts), theirs, rtol=1e-4, atol=1e-4)
    assert np.abs(theirs).max() > 0.5


def test_fine_tuning_learns_from_pairs_and_goes_to_disk(tokenizer, tmp_path):
    texts, labels = denied()
    tuned = registry.build(
        "classifier", "fine-tuning", model=lm_of(300, dtype=torch.float32), tokenizer=tokenizer, epochs=12, lr=3e-3
    )
    tuned.fit(texts, labels)
    assert accuracy(tuned, texts, labels) == 1.0  # negation, which no sum over words can do
    again = type(tuned).load(tuned.save(tmp_path / "saved"))
    assert np.array_equal(again.scores(texts), tuned.scores(texts))
    left_out = tuned.explain("the film is not good")
    assert not left_out.exact and {part.feature for part in left_out.parts} == {"the", "film", "is", "not", "good"}
    assert max(left_out.parts, key=lambda part: part.effect).feature == "not"
    (tmp_path / "saved" / "model.safetensors").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        type(tuned).load(tmp_path / "saved")


def test_a_linear_probe_leaves_the_language_model_alone(tokenizer):
    lm = lm_of(300, dtype=torch.float32)
    before = {name: p.clone() for name, p in lm.named_parameters()}
    tuned = registry.build("classifier", "fine-tuning", model=lm, tokenizer=tokenizer, trained="head", epochs=2)
    tuned.fit(*denied())
    assert all(torch.equal(p, before[name]) for name, p in lm.named_parameters())
    assert tuned.network.head.weight.abs().max() > 0


@pytest.mark.parametrize("by", ["path", "command"])
def test_the_matrices_of_a_packed_file_are_trained(tokenizer, by, tmp_path):
    path = str(export_gguf(lm_of(300, dtype=torch.float32, dim=64), tokenizer, tmp_path / "m.gguf", "q8_0"))
    if by == "path":
        tuned = registry.build("classifier", "fine-tuning", path=path, epochs=1)
    else:
        tuned = make_classifier("fine-tuning", ["epochs=1"], path)
    before = {name: p.clone() for name, p in tuned.model.named_parameters()}
    tuned.fit(*denied())
    assert not [name for name, p in tuned.model.named_parameters() if torch.equal(p, before[name])]


def test_a_long_text_is_cut_to_what_the_model_reads(tokenizer):
    tuned = registry.build("classifier", "fine-tuning", model=lm_of(300), tokenizer=tokenizer)
    tuned.prepare(*denied(), 0)
    long = "the film is good " * 600_000
    assert len(long) > 10_000_000
    assert int(tuned.examples([long]).lengths[0]) == 64
    assert np.array_equal(tuned.scores([long]), tuned.scores([long[: len(long) // 2]]))


class Counts:
    """A language model without weights or hidden states: uniform over its vocabulary."""

    vocab_size, max_length = 300, None

    def start(self, batch):
        return None

    def forward(self, batch, state=None, want=ALL):
        ids = batch.ids if isinstance(batch, Batch) else batch
        return ModelOutput(logits=torch.zeros(*ids.shape, 300))

    def nll(self, batch, reduction="sum"):
        kept = (batch.targets != -100).double() * np.log(300)
        return kept.sum() if reduction == "sum" else kept


def test_what_a_model_cannot_do_is_one_sentence(tokenizer):
    with pytest.raises(SpecError, match="no weights to train; use prompting"):
        registry.build("classifier", "fine-tuning", model=Counts(), tokenizer=tokenizer).fit(*easy())
    with pytest.raises(SpecError, match="needs a language model"):
        registry.build("classifier", "fine-tuning").fit(*easy())
    with pytest.raises(SpecError, match="together with its tokenizer"):
        registry.build("classifier", "prompting", model=Counts())
    with pytest.raises(SpecError, match="they do not fit"):
        registry.build("classifier", "prompting", model=lm_of(100), tokenizer=tokenizer)
    with pytest.raises(SpecError, match=r"must have \{text\} in one place"):
        registry.build("classifier", "prompting", template="no place")


# --- prompting -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def both(tokenizer, tmp_path_factory):
    """One GPT-2 in float64 with large weights: ours, and lm-eval's wrapper around transformers'."""
    huggingface = pytest.importorskip("lm_eval.models.huggingface")
    folder = tmp_path_factory.mktemp("gpt2")
    config = GPT2Config(
        vocab_size=tokenizer.vocab_size, n_embd=32, n_layer=2, n_head=4, n_positions=96, attn_pdrop=0.0, embd_pdrop=0.0,
        resid_pdrop=0.0, attn_implementation="eager",
    )  # fmt: skip
    gpt2 = randomise(GPT2LMHeadModel(config), std=0.5)
    gpt2.tie_weights()
    gpt2 = gpt2.double().eval()
    gpt2.save_pretrained(folder)
    tokenizer.save(folder)
    tokens = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), eos_token=END)
    theirs = huggingface.HFLM(
        pretrained=gpt2, tokenizer=tokens,
        device="cpu", batch_size=4, logits_cache=False, dtype="float64",
    )  # fmt: skip
    return load_model(folder, dtype="float64", device="cpu"), theirs


PAIRS = [
    ("the film is", " good"), ("the film is", " bad"), ("the film is ", "good"), ("the story is not  ", "boring"),
    ("", "great"), ("the music", " is awful and the plot is stupid"), ("naïve — 数 ", "été!"),
    ("the film is goo", "d"), ("the film is good " * 40, "indeed"),
]  # fmt: skip


def test_log_likelihoods_equal_lm_eval(both, tokenizer):
    """To 1e-9: blanks at the boundary, merges across it, an empty context, one longer than the model reads."""
    from lm_eval.api.instance import Instance

    model, theirs = both
    requests = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(PAIRS)]
    wanted = [value for value, _ in theirs.loglikelihood(requests, disable_tqdm=True)]
    prompting = registry.build("classifier", "prompting", model=model, tokenizer=tokenizer)
    found = prompting.log_likelihoods(PAIRS)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-9)
    assert len(set(np.round(found, 3))) == len(PAIRS) - 1  # two pairs are one text


@pytest.mark.parametrize(
    ("normalization", "metric"), [("sum", "acc"), ("length", "acc_norm"), ("unconditional", "acc_mutual_info")]
)
def test_labels_equal_lm_evals_multiple_choice(both, tokenizer, normalization, metric):
    """Its own task class decides who is right; every label is put to it as the right one in turn."""
    from lm_eval.api.instance import Instance
    from lm_eval.api.task import ConfigurableTask

    model, theirs = both
    said = sorted({tokenizer.decode([i]) for i in range(256, 299)})
    words = [[word, word] for word in (*[word for word in said if word.startswith(" ")][:8], " is the")]
    choices = [word for _, word in words]
    prompting = registry.build(
        "classifier",
        "prompting",
        model=model,
        tokenizer=tokenizer,
        template="well: {text}",
        verbalizer=words,
        normalization=normalization,
    )
    texts = denied()[0][::4]
    chosen = []
    for text in texts:
        contexts = [f"well: {text}"] * len(choices) + ([""] * len(choices) if normalization == "unconditional" else [])
        requests = [
            Instance("loglikelihood", {}, (c, w), i)
            for i, (c, w) in enumerate(zip(contexts, choices * 2, strict=False))
        ]
        results = theirs.loglikelihood(requests, disable_tqdm=True)
        right = [_is_right(ConfigurableTask, results, choices, gold, metric) for gold in range(len(choices))]
        assert sum(right) == 1
        chosen.append(words[right.index(1)][0])
    assert prompting.predict(texts) == chosen
    assert len(set(chosen)) > 1


def _is_right(task, results, choices, gold, metric):
    """What lm-eval's multiple-choice task makes of these log-likelihoods."""
    made = task.__new__(task)
    made.OUTPUT_TYPE, made.multiple_input, made.multiple_target, made._metric_fn_list = (
        "multiple_choice",
        0,
        0,
        {metric: None},
    )
    made.doc_to_choice = lambda doc: choices
    made.doc_to_text = lambda doc: ""
    made.doc_to_target = lambda doc: gold
    made._config = type(
        "Config", (), {"output_type": "multiple_choice", "doc_to_choice": None, "process_results": None}
    )()
    return int(made.process_results({}, results)[metric])


def test_prompting_needs_no_training_and_shows_examples(tokenizer, tmp_path):
    prompting = registry.build("classifier", "prompting", model=Counts(), tokenizer=tokenizer, shots=3)
    prompting.fit(["a good one", "another good one", "a bad one"], ["pos", "pos", "neg"])
    assert prompting.examples_shown == [("a bad one", "neg"), ("a good one", "pos"), ("another good one", "pos")]
    shown = "a bad one\nLabel: neg\n\na good one\nLabel: pos\n\nanother good one\nLabel: pos\n\nx\nLabel:"
    assert prompting.prompt("x") == shown
    said = [len(tokenizer.encode(shown + w)) - len(tokenizer.encode(shown)) for w in (" neg", " pos")]
    np.testing.assert_allclose(prompting.scores(["x"])[0], [-n * np.log(300) for n in said])
    with pytest.raises(CheckpointError, match="cannot be saved"):
        prompting.save(tmp_path / "saved")
    with pytest.raises(DataError, match="'odd' has no words"):
        registry.build(
            "classifier",
            "prompting",
            model=Counts(),
            tokenizer=tokenizer,
            verbalizer=[["neg", " bad"], ["pos", " good"]],
        ).fit(["a", "b"], ["neg", "odd"])


def test_a_saved_prompt_answers_the_same(both, tokenizer, tmp_path):
    words = [["neg", " bad"], ["pos", " good"]]
    prompting = registry.build("classifier", "prompting", model=both[0], tokenizer=tokenizer, verbalizer=words, shots=2)
    prompting.fit(*easy())
    texts = easy()[0][:6]
    again = type(prompting).load(prompting.save(tmp_path / "own"))
    np.testing.assert_allclose(again.scores(texts), prompting.scores(texts), rtol=0, atol=1e-9)
    both[0].save_pretrained(tmp_path / "lm")
    tokenizer.save(tmp_path / "lm")
    named = registry.build("classifier", "prompting", path=str(tmp_path / "lm"), verbalizer=words)
    named.save(tmp_path / "named")
    assert not (tmp_path / "named" / "model").exists()
    assert json.loads((tmp_path / "named" / "classifier.json").read_text())["spec"]["path"] == str(tmp_path / "lm")
    assert type(named).load(tmp_path / "named").predict(texts) == named.predict(texts)


@pytest.mark.slow
def test_a_small_language_model_is_a_start_for_sst2():
    """Read the training texts first, then fine-tune: well above chance on held-out sentences."""
    train, test = sst2("train"), sst2("dev")
    lm, tokenizer = small_language_model(train.texts, steps=60)
    tuned = registry.build("classifier", "fine-tuning", model=lm, tokenizer=tokenizer, epochs=2)
    tuned.fit(train.texts, train.labels)
    assert accuracy(tuned, test.texts, test.labels) > 0.7
