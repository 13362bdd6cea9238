"""Checkpoints of every family against transformers: logits, gradients, files in both directions."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from _families import (
    CASES,
    EAGER,
    ENCODERS,
    POOLED,
    READING,
    SOURCE,
    auto,
    double_norms,
    kind_of,
    ours_batch,
    ours_of,
    ours_on,
    ragged,
    theirs,
    theirs_on,
)
from _small_models import gradients, randomise, tokens, transformer
from safetensors.torch import load_file, save_file
from test_wordpiece import PROCESSORS, both
from transformers import AutoModelForCausalLM

from llmanac.cli import main
from llmanac.core.errors import RequestError
from llmanac.core.types import IGNORE, LAST, Batch
from llmanac.generate.engine import Engine
from llmanac.generate.load import load_engine
from llmanac.models.families import FAMILIES, family
from llmanac.models.families._table import canonical
from llmanac.models.load import load_model
from llmanac.models.save import export_model

FIRST = {kind_of(case): case for case in reversed(CASES)}
# files are looked at for one model of each family, the others in the slow tests; numbers are for all
ONE_OF_EACH = [pytest.param(case, marks=() if case in FIRST.values() else pytest.mark.slow) for case in CASES]


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_within_1e_6(case, tmp_path, monkeypatch):
    """Not 1e-12, since transformers' norms, softmax and scans are float32 in places even in a float64 model.

    Its rows are computed one by one: where a window has padding alone, it gives NaN. The shortest comes first, since
    its `dynamic` scaling remembers a longer one.
    """
    model = theirs(case)
    if kind_of(case).startswith("gemma"):  # scaled embeddings are large, and so is the rounding of the norms
        double_norms(model, case, monkeypatch)
    ours = ours_of(model, tmp_path)
    ids, real = ragged(case)
    rows = list(enumerate(zip(ids, real, strict=True)))[::-1]
    expected = torch.cat([theirs_on(model, case, row[keep][None], first=i)[0] for i, (row, keep) in rows][::-1])
    actual = ours_on(ours, case, ids, lengths=real.sum(1))[real]
    assert expected.std() > (0.1 if kind_of(case) in READING else 0.5)
    assert (actual - expected).abs().max() < 1e-6 * expected.abs().max()
    other = randomise(ours, seed=1)  # other weights give other logits
    assert (ours_on(other, case, ids)[real] - expected).abs().max() > 0.1 * expected.abs().max()


@pytest.mark.parametrize("case", [case for case in CASES if kind_of(case) not in ENCODERS])
def test_ragged_rows_with_a_state_equal_one_pass(case, tmp_path):
    """Chunks of rows of different lengths, and then token by token."""
    ours = ours_of(theirs(case), tmp_path)
    rows = [tokens(1, n, seed=n)[0] for n in (31, 18, 25)]
    with torch.inference_mode():
        source = ours_batch(case, tokens(3, 1)).source
        alone = [None if source is None else Batch(ids=source.ids[[i]], lengths=source.lengths[[i]]) for i in range(3)]
        expected = [ours(Batch(ids=row[None], source=alone[i])).logits[0, -1] for i, row in enumerate(rows)]
        state = ours.start(3)
        state.plan([len(row) for row in rows])  # counts where frequencies depend on a row's length
        for first, last in ((0, 11), (11, 17), *((i, i + 1) for i in range(17, 31))):
            parts = [row[first:last] for row in rows]
            lengths = torch.tensor([len(part) for part in parts])
            ids = torch.stack([F.pad(part, (0, last - first - len(part))) for part in parts])
            logits = ours(Batch(ids=ids, lengths=lengths, source=None if first else source), state, LAST).logits
            for i, row in enumerate(rows):
                if first < len(row) <= last:
                    torch.testing.assert_close(logits[i, -1], expected[i], rtol=1e-9, atol=1e-9)


# transformers computes them in float32 in places that no argument reaches: softmax, routers and scans
SINGLE = ("mamba", "mixtral", "qwen3_moe", "bloom", "mpt", "mamba2", "minimax", "modernbert", "t5", "mt5", "deberta-v2")
SINGLE += ("marian", "pegasus")  # whose sines are float32
SINGLE += ("cohere", "cohere2", "olmo", "gpt_neo", "qwen2_moe", "granitemoe", "ernie4_5", "olmoe")
BY_ROW = ("gemma2", "gpt_oss", "deepseek_v3", "glm4_moe")  # these without padding
EAGERLY = ("mamba", "bloom", "mpt", "mamba2", "gpt_neo", "mpnet", "deberta-v2")
ATTENTION = dict.fromkeys(EAGERLY, "eager")  # else torch's own


@pytest.mark.parametrize("case", [case for case in CASES if kind_of(case) in SINGLE])
def test_gradients_equal_where_transformers_is_float32_in_places(case, tmp_path):
    compare_gradients(theirs(case, ATTENTION.get(kind_of(case), "sdpa")), case, tmp_path, 1e-5, 1e-4)


@pytest.mark.parametrize("case", [case for case in CASES if kind_of(case) not in SINGLE + BY_ROW])
def test_logits_and_gradients_equal_in_float64_throughout(case, tmp_path, monkeypatch):
    """With its float32 islands lifted: torch's own SDPA and rms_norm inside transformers' model."""
    model = theirs(case, ATTENTION.get(kind_of(case), "sdpa"))
    double_norms(model, case, monkeypatch)
    compare_gradients(model, case, tmp_path, 1e-9, 1e-8)


def compare_gradients(model, case, folder, exact, close):
    """Logits, losses and the gradient of every parameter, of padded rows."""
    ours = ours_of(model, folder)
    ids, real = ragged(case)
    targets = ids.roll(-1, 1).masked_fill(~real, IGNORE)
    logits = theirs_on(model, case, ids, real).double()
    lengths = real.sum(1) if kind_of(case) in ENCODERS + READING else None  # a decoder's padding comes after
    torch.testing.assert_close(ours_on(ours, case, ids, lengths=lengths)[real], logits[real], rtol=exact, atol=exact)
    if "bare" in case:
        return
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="sum")
    actual = ours.nll(ours_batch(case, ids, targets=targets, lengths=lengths))
    torch.testing.assert_close(actual, expected, rtol=exact / 10, atol=exact / 10)
    expected.backward()
    actual.backward()
    found = {name: p.grad for name, p in model.named_parameters(remove_duplicate=False)}  # a tied one by both names
    shapes = {name: tuple(p.shape) for name, p in ours.named_parameters()}
    layouts = [names.place(shapes, ours.spec) for names in family(kind_of(case)).stored(ours.spec)[0]]
    sources = max(layouts, key=lambda sources: sum(source.name in found for source in sources.values()))
    for name, gradient in gradients(ours).items():
        if sources[name].name == "final_logits_bias":  # is not trained there
            continue
        scale = found[sources[name].name].abs().max().clamp(min=0.01)  # that of a router with one expert is 0
        assert (gradient - sources[name].take(found[sources[name].name])).abs().max() < close * scale, name
    assert len(gradients(ours)) == len(list(ours.parameters()))


@pytest.mark.parametrize("case", [case for case in CASES if kind_of(case) in BY_ROW])
def test_gradients_equal_row_by_row(case, tmp_path, monkeypatch):
    model = theirs(case)
    double_norms(model, case, monkeypatch)
    ours = ours_of(model, tmp_path)
    ids, real = ragged(case)
    targets = ids.roll(-1, 1).masked_fill(~real, IGNORE)
    for row, wanted, keep in zip(ids, targets, real, strict=True):
        F.cross_entropy(model(row[keep][None]).logits[0], wanted[keep], reduction="sum").backward()
    ours.nll(Batch(ids=ids, targets=targets, lengths=real.sum(1))).backward()
    found = gradients(model)
    shapes = {name: tuple(p.shape) for name, p in ours.named_parameters()}
    layouts = [names.place(shapes, ours.spec) for names in family(kind_of(case)).stored(ours.spec)[0]]
    sources = max(layouts, key=lambda sources: sum(source.name in found for source in sources.values()))
    for name, gradient in gradients(ours).items():
        expected = sources[name].take(found[sources[name].name])
        assert (gradient - expected).abs().max() < 1e-4 * found[sources[name].name].abs().max() + 1e-6, name
    trained = [name for name, p in ours.named_parameters() if p.requires_grad]
    assert trained == list(gradients(ours)) and len(trained) >= len(shapes) - 3


@pytest.mark.parametrize("case", ONE_OF_EACH)
def test_what_we_save_transformers_loads(case, tmp_path):
    ours = ours_of(theirs(case), tmp_path / "theirs")
    export_model(ours, tmp_path / "ours", family=kind_of(case))
    options = {"add_pooling_layer": False} if "bare" in case and kind_of(case) in POOLED else {}
    again, info = auto(case).from_pretrained(
        tmp_path / "ours", dtype=torch.float64, output_loading_info=True, **EAGER, **options
    )
    computed = family(kind_of(case)).stored(ours.spec)[1]  # buffers that follow from the config
    assert all(key.endswith(computed) for key in info["missing_keys"]) and not info["unexpected_keys"]
    ids = tokens(2, 40)
    assert torch.equal(theirs_on(again.eval(), case, ids), theirs_on(theirs(case), case, ids))
    assert canonical(load_model(tmp_path / "ours", device="cpu").spec) == canonical(ours.spec)
    again.config.save_pretrained(tmp_path / "ours")  # as transformers' own class writes it
    assert canonical(load_model(tmp_path / "ours", device="cpu").spec) == canonical(ours.spec)


@pytest.mark.parametrize("case", ONE_OF_EACH)
def test_names_of_a_state_dict_are_read_too(case, tmp_path):
    """Where experts are stacked, and a tied head is written twice."""
    model = theirs(case)
    ids = tokens(2, 20)
    expected = ours_on(ours_of(model, tmp_path), case, ids)
    save_file({name: tensor.clone() for name, tensor in model.state_dict().items()}, tmp_path / "model.safetensors")
    assert torch.equal(ours_on(load_model(tmp_path, dtype="float64", device="cpu"), case, ids), expected)


@pytest.mark.parametrize("case", ["llama, dynamic rope", "llama, longrope", "phi3, longrope", "llama, yarn rope"])
def test_a_short_prompt_after_a_long_one_is_as_it_is_alone(case, tmp_path):
    """In one model object, in one batch and in the engine; trained at 16 tokens."""
    model = theirs(case)
    ours, (short, long) = ours_of(model, tmp_path), (tokens(1, 7), tokens(1, 40, seed=5))
    alone = [ours_of(model, tmp_path)(ids).logits for ids in (short, long)]
    for ids, expected in ((long, alone[1]), (short, alone[0]), (long, alone[1])):
        assert torch.equal(ours(ids).logits, expected)
    both = ours(Batch.padded([long[0].tolist(), short[0].tolist()])).logits
    torch.testing.assert_close(both[1:, :7], alone[0], rtol=0, atol=1e-12)
    prompts = [long[0].tolist(), short[0].tolist(), long[0, 3:].tolist()]
    engine = Engine(ours)
    together = [answer.ids for answer in engine.generate(prompts, max_new_tokens=6)]
    assert together == [engine.generate(prompt, max_new_tokens=6)[0].ids for prompt in prompts]


def test_embeddings_of_gemma_are_scaled_in_their_own_dtype(tmp_path):
    """sqrt(32) is 5.65625 in bfloat16, which the models were trained with; given embeddings are scaled already."""
    model = theirs("gemma")
    model.save_pretrained(tmp_path)
    ours = load_model(tmp_path, dtype="bfloat16", device="cpu")
    ids = tokens(1, 9)
    peer = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert torch.equal(ours.embed(ids), peer.get_input_embeddings()(ids))
    assert torch.equal(ours(Batch(embeddings=ours.embed(ids))).logits, ours(ids).logits)


@pytest.mark.parametrize("kind", FAMILIES)
def test_each_family_saves_as_itself_or_as_a_simpler_one(kind, tmp_path):
    case = next(case for case in CASES if kind_of(case) == kind)
    ours = ours_of(theirs(case), tmp_path / "theirs")
    ours.save_pretrained(tmp_path / "ours")
    written = json.loads((tmp_path / "ours" / "config.json").read_text())["model_type"]
    assert written == {"phi3": "llama", "xlm-roberta": "roberta", "mt5": "t5"}.get(kind, kind)
    again = load_model(tmp_path / "ours", dtype="float64", device="cpu")
    assert torch.equal(ours_on(again, case, tokens(2, 20)), ours_on(ours, case, tokens(2, 20)))


def test_what_we_train_from_scratch_transformers_loads(tmp_path):
    """Specs that leave sizes open, as a recipe does."""
    for name, choices in (
        ("llama", {"blocks": [{"name": "pre-norm", "mixer": "grouped-query", "ffn": "swiglu"}]}),
        (
            "gpt2",
            {
                "blocks": [
                    {
                        "name": "pre-norm",
                        "mixer": {"name": "multi-head", "biases": "all"},
                        "ffn": {"name": "gelu-tanh", "biases": "all"},
                    }
                ],
                "position": "learned",
                "norm": "layernorm",
            },
        ),
    ):
        model = transformer(**choices)
        model.generation = {"bos_token_id": 3, "eos_token_id": [4, 5]}
        model.save_pretrained(tmp_path / name)
        config = json.loads((tmp_path / name / "config.json").read_text())
        assert config["model_type"] == name and config["bos_token_id"] == 3
        peer = AutoModelForCausalLM.from_pretrained(tmp_path / name, dtype=torch.float64, attn_implementation="eager")
        ids = tokens(2, 30)
        expected = peer.eval()(ids).logits
        assert (model(ids).logits - expected).abs().max() < 1e-6 * expected.abs().max()
        assert peer.generation_config.eos_token_id == [4, 5]
        again = load_model(tmp_path / name, dtype="float64", device="cpu")
        assert torch.equal(again(ids).logits, model(ids).logits) and again.generation == model.generation


@pytest.mark.parametrize("case", ["llama, grouped", "gpt2"])
def test_shards_are_read_and_written(case, tmp_path):
    model = theirs(case)
    ours = ours_of(model, tmp_path / "shards", max_shard_size="20KB")
    assert (tmp_path / "shards" / "model.safetensors.index.json").is_file()
    ids = tokens(2, 20)
    single = ours_of(model, tmp_path / "single")
    assert torch.equal(ours(ids).logits, single(ids).logits)
    export_model(ours, tmp_path / "again", family=kind_of(case), shard_bytes=20_000)
    assert len(list((tmp_path / "again").glob("model-*.safetensors"))) > 3
    again = load_model(tmp_path / "again", dtype="float64", device="cpu")
    assert torch.equal(again(ids).logits, ours(ids).logits)
    peer = AutoModelForCausalLM.from_pretrained(tmp_path / "again", dtype=torch.float64, attn_implementation="eager")
    assert torch.equal(peer.eval()(ids).logits, model(ids).logits)
    ours.save_pretrained(tmp_path / "again")  # the same folder as one file: no shard is left behind
    assert [p.name for p in (tmp_path / "again").glob("model*")] == ["model.safetensors"]


def test_hub_files_of_gpt2(tmp_path):
    """The hub's own file: no prefix, no head, and the causal masks stored with the weights."""
    model = theirs("gpt2")
    expected = ours_of(model, tmp_path)(tokens(1, 9)).logits
    state = load_file(tmp_path / "model.safetensors")
    state = {k.removeprefix("transformer."): v for k, v in state.items() if k != "lm_head.weight"}
    for layer in range(3):
        state[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 64, 64).tril()
        state[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(state, tmp_path / "model.safetensors")
    assert torch.equal(load_model(tmp_path, dtype="float64", device="cpu")(tokens(1, 9)).logits, expected)


def test_types_of_tokens_tell_a_pair_apart(tmp_path):
    model = theirs("bert")
    ours = ours_of(model, tmp_path)
    ids, real = ragged("bert")
    kinds = (torch.arange(48) > 3).long().expand(3, -1)
    expected = model(ids, attention_mask=real.long(), token_type_ids=kinds).logits[real]
    actual = ours_on(ours, "bert", ids, lengths=real.sum(1), token_types=kinds)[real]
    assert (actual - expected).abs().max() < 1e-6 * expected.abs().max()
    assert (actual - ours_on(ours, "bert", ids, lengths=real.sum(1))[real]).abs().max() > 1e-3
    with pytest.raises(RequestError, match="token_types: must be from 0 to 1"):
        ours_on(ours, "bert", ids, token_types=kinds + 1)
    with pytest.raises(RequestError, match="token_types: this model has none"):
        transformer()(Batch(ids=ids, token_types=kinds))


def test_hub_files_of_bert(tmp_path):
    """The hub's own file: a pooler, a next-sentence layer, positions, and gamma and beta for the norms' parameters."""
    model = theirs("bert")
    expected = ours_on(ours_of(model, tmp_path), "bert", tokens(1, 9))
    state = load_file(tmp_path / "model.safetensors")
    state = {k.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): v for k, v in state.items()}
    state |= {"bert.pooler.dense.weight": torch.ones(32, 32), "bert.pooler.dense.bias": torch.ones(32)}
    state |= {"cls.seq_relationship.weight": torch.ones(2, 32), "cls.seq_relationship.bias": torch.ones(2)}
    save_file({**state, "bert.embeddings.position_ids": torch.ones(1, 64)}, tmp_path / "model.safetensors")
    assert torch.equal(ours_on(load_model(tmp_path, dtype="float64", device="cpu"), "bert", tokens(1, 9)), expected)


@pytest.mark.parametrize("case", ["bert", "roberta", "modernbert, untied, biases, other layers", "t5"])
def test_a_training_step_reaches_every_parameter(case, tmp_path):
    """With the initial weights, whose blocks are identities; and the loss goes down."""
    ours = ours_of(theirs(case), tmp_path).initialise(0)
    ids = tokens(3, 48).clamp(min=6)
    batch = ours_batch(case, ids, targets=ids.masked_fill(torch.arange(48) % 5 > 0, IGNORE))
    optimizer, losses = torch.optim.SGD(ours.parameters(), lr=1e-4), []
    for _ in range(3):
        optimizer.zero_grad()
        loss = ours.nll(batch)
        loss.backward()
        assert gradients(ours).keys() == dict(ours.named_parameters()).keys()
        losses.append(loss.item())
        optimizer.step()
    assert losses[2] < losses[1] < losses[0]
    assert all(g.abs().max() > 0 for name, g in gradients(ours).items() if not name.endswith("k_proj.bias"))


@pytest.mark.parametrize("kind", ["bert", "t5"])
def test_the_command_continues_no_text_that_only_an_encoder_reads(kind, tmp_path, capsys):
    theirs(kind).save_pretrained(tmp_path)
    both(tmp_path, post_processor=PROCESSORS["bert"])
    with pytest.raises(SystemExit) as done:
        main(["generate", str(tmp_path), "--prompt", "a", "--max-new-tokens", "2"])
    out, err = capsys.readouterr()
    if kind == "bert":
        assert (out, done.value.code) == ("", 2) and f"llmanac embed {tmp_path}" in err
    else:
        assert not done.value.code, err
        assert out == f"{load_engine(tmp_path).generate('a', max_new_tokens=2)[0].text}\n"


def test_t5_writes_what_transformers_generates(tmp_path):
    """Greedy, with a cache, for rows of different lengths; a text is given to the encoder with its end."""
    model = theirs("t5, gated, tied without a scale")
    model.save_pretrained(tmp_path)
    tokenizer, _ = both(tmp_path, post_processor=PROCESSORS["bert"])
    ours = load_model(tmp_path, dtype="float64", device="cpu")
    engine = Engine(ours, tokenizer)
    sources = [SOURCE[0][i, :n].tolist() for i, n in enumerate(SOURCE[1].tolist())]
    found = engine.generate(sources, max_new_tokens=12, stop_ids=())
    for source, completion in zip(sources, found, strict=True):
        options = {"do_sample": False, "max_new_tokens": 12, "min_new_tokens": 12, "eos_token_id": None}
        options["decoder_start_token_id"] = 0
        assert [0, *completion.ids] == model.generate(torch.tensor([source]), **options)[0].tolist()
    assert len({tuple(completion.ids) for completion in found}) > 1
    framed = [2, *tokenizer.encode("a"), 3]
    by_text, by_ids = (engine.generate([prompt], max_new_tokens=5, stop_ids=())[0].ids for prompt in ("a", framed))
    assert by_text == by_ids
