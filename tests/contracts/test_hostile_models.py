"""A model's folder from a stranger: what its small files claim costs no memory, and is refused by file and field."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from _hostile_models import DEEP, DIGITS, KINDS, change, copied, refusal, write_models, written

import llmanac
from llmanac.core.errors import CheckpointError, DataError, TokenizerError
from llmanac.core.registry import build

NOT_FINITE = [float("nan"), float("inf"), float("-inf")]
VALUES = [
    None, {}, [], "", "x", "1", True, -1, 0, 1, 1.5, 1e308, 1e-308, *NOT_FINITE, 2**62, 2**70, 10**400, 2_000_000_000,
    ["a"], {"a": 1}, "@deep", "@digits",
]  # fmt: skip
SCALED = {
    "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def llama(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A sound checkpoint that a test may spoil."""
    return copied(folders["llama"], tmp_path)


def leaves(data: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of every field, tables and lists included."""
    for key, value in data.items() if isinstance(data, dict) else enumerate(data):
        yield (*at, key)
        if isinstance(value, (dict, list)):
            yield from leaves(value, (*at, key))


@pytest.mark.parametrize("kind", [*KINDS, "llama, scaled", "generation"])
def test_every_field_with_every_value(kind: str, folders: dict[str, Path], tmp_path: Path) -> None:
    file = KINDS.get(kind, ("generation_config.json" if kind == "generation" else "config.json",))[0]
    source = folders[kind if kind in folders else "llama"]
    copied(source, tmp_path)
    data = json.loads((tmp_path / file).read_text())
    if kind == "llama, scaled":
        data |= {"rope_parameters": SCALED, "rope_scaling": None}
    if kind == "generation":
        data = {"bos_token_id": 1, "eos_token_id": [1, 2], "pad_token_id": 0, "temperature": 0.5}
    places = [place for place in leaves(data) if kind != "llama, scaled" or place[0] == "rope_parameters"]
    loaded = 0
    for place in places:
        for value in VALUES:
            changed = json.loads(json.dumps(data))
            table = changed
            for key in place[:-1]:
                table = table[key]
            table[place[-1]] = value
            (tmp_path / file).write_text(written(changed))
            before = time.process_time()
            try:
                model = llmanac.load_model(tmp_path, device="cpu")
            except CheckpointError as error:
                assert str(tmp_path) in str(error) and "\n" not in str(error) and len(str(error)) < 1500, place
            else:
                loaded += 1
                model(torch.tensor([[1, 2, 3]]))
                if kind == "generation":  # what is kept as it is must be JSON that can be written again
                    model.save_pretrained(tmp_path / "again")
            assert time.process_time() - before < 10, (place, value)  # against hangs; it takes milliseconds
    assert 0 < loaded < len(places) * len(VALUES)


@pytest.mark.parametrize(
    ("kind", "fields", "says"),
    [
        ("llama", {"head_dim": 2_000_000_000}, r"embed|q_proj.*head_dim"),
        ("llama", {"vocab_size": 41}, r"\(40, 16\) .*\(41, 16\) \(vocab_size\)"),
        ("llama", {"vocab_size": 2**70}, "vocab_size is 1180591620717411303424"),
        ("llama", {"vocab_size": 2**31 - 1}, r"asks for \(2147483647, 16\) \(vocab_size\)"),
        ("llama", {"max_position_embeddings": 2**62}, "max_position_embeddings is 4611686018427387904"),
        ("llama", {"intermediate_size": 2_000_000_000}, r"gate_proj.*\(intermediate_size\)"),
        ("llama", {"num_hidden_layers": 10**9}, "num_hidden_layers asks for 1,000,000,000 layers"),
        ("llama", {"num_hidden_layers": 1}, "no place in the model.*num_hidden_layers is 1"),
        ("llama", {"num_attention_heads": 3, "num_key_value_heads": 2}, "num_key_value_heads"),
        ("llama", {"hidden_size": 2**31 - 2, "head_dim": 2**31 - 2}, "is 2,147,483,646, which asks for larger tensors"),
        ("llama", {"attention_bias": True}, "q_proj.bias.*attention_bias"),
        ("llama", {"attention_bias": "no"}, "attention_bias is 'no', expected true or false"),
        ("llama", {"hidden_act": {}}, r"hidden_act = \{\} is not supported"),
        ("llama", {"rms_norm_eps": float("inf")}, "rms_norm_eps is inf"),
        ("llama", {"rms_norm_eps": float("nan")}, "rms_norm_eps is nan"),
        ("llama", {"model_type": {}}, r"model_type is \{\}"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5 is not supported"),
        ("llama", {"hidden_size": "@long"}, r"config\.json: holds a number of more digits"),
        ("llama", {"anything": "@deep"}, r"config\.json: not JSON .*nested"),
        ("gpt2", {"n_positions": 10**9}, r"wpe\.weight .*\(n_positions\)"),
        ("gpt2", {"n_inner": 10**9}, r"c_fc\.weight .*\(n_inner\)"),
        ("gpt2", {"n_layer": 10**9}, "n_layer asks for 1,000,000,000 layers"),
        ("gpt2", {"tie_word_embeddings": False}, "tie_word_embeddings"),
        ("llmanac", {"vocab_size": 1e400}, "vocab_size is inf"),
        ("llmanac", {"vocab_size": 2_000_000_000}, r"\(vocab_size\)"),
    ],
)
def test_a_config_and_its_weights(
    kind: str, fields: dict[str, Any], says: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    copied(folders[kind], tmp_path)
    change(tmp_path / KINDS[kind][0], **fields)
    with pytest.raises(CheckpointError, match=says):
        llmanac.load_model(tmp_path, device="cpu")
    refusal(tmp_path)


def test_sizes_of_our_own_format_are_compared_too(folders: dict[str, Path], tmp_path: Path) -> None:
    copied(folders["llmanac"], tmp_path)
    record = json.loads((tmp_path / "llmanac.json").read_text())
    spec = record["spec"]
    for fields, says in [
        ({"layers": 2**40}, "spec.layers asks for 1,099,511,627,776 layers"),
        ({"dim": 2**40}, "spec.dim is 1,099,511,627,776"),
        ({"dim": 2**62, "head": "pointer"}, "spec.dim is 4,611,686,018,427,387,904, which asks for larger tensors"),
        ({"layers": 10**30}, "layers: 1000000000000000000000000000000 is more than 64 bits hold"),
        ({"layers": 50_000, "blocks": ["pre-norm"] * 50_000}, "spec.blocks lists 50,000"),
        ({"norm": {"name": "rmsnorm", "eps": float("inf")}}, "spec.norm.eps: inf is not finite"),
        ({"position": {"name": "rope", "theta": float("nan")}}, "spec.position.theta: nan is not finite"),
        ({"position": {"name": "learned", "rows": 2**40}}, "position.embeddings.weight"),
    ]:
        change(tmp_path / "llmanac.json", spec={**spec, **fields})
        with pytest.raises(CheckpointError, match=says):
            llmanac.load_model(tmp_path, device="cpu")
    change(tmp_path / "llmanac.json", spec={"name": "ngram", "order": 3}, vocab_size=2**31 - 1)
    assert "spec.name is 'ngram'" in refusal(tmp_path)


def pipe(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def sparse(path: Path) -> None:
    with open(path, "wb") as handle:
        handle.truncate(8 << 30)


SPOILED: dict[str, tuple[Callable[[Path], object], str]] = {
    "pipe": (pipe, "a folder, a pipe or a device"),
    "endless": (endless, "a folder, a pipe or a device"),
    "folder": (Path.mkdir, "a folder, a pipe or a device"),
    "sparse": (sparse, "8,589,934,592|not a whole safetensors file"),
    "not UTF-8": (lambda path: path.write_bytes(b'{"a": "\xff"}'), "not UTF-8 at byte 7|not a whole"),
    "twice": (lambda path: path.write_text('{"a": 1, "a": 2}'), "'a' is given twice|not a whole"),
    "list": (lambda path: path.write_text("[]"), "expected a table|not a whole"),
    "empty": (lambda path: path.write_text(""), "not JSON|not a whole"),
    "deep": (lambda path: path.write_text('{"a":' + DEEP + "}"), "nested|not a whole"),
    "a little deep": (
        lambda path: path.write_text('{"a":' + "[" * 200 + "]" * 200 + "}"),
        "not JSON.*nested|not a whole",
    ),
    "digits": (lambda path: path.write_text('{"a":' + DIGITS[:1_000_000] + "}"), "more digits|not a whole"),
}
READ = ["config.json", "generation_config.json", "model.safetensors", "model.safetensors.index.json"]


@pytest.mark.parametrize("how", SPOILED)
@pytest.mark.parametrize("name", READ)
def test_files_that_are_none(name: str, how: str, llama: Path) -> None:
    spoil, says = SPOILED[how]
    (llama / name).unlink(missing_ok=True)
    spoil(llama / name)
    with pytest.raises(CheckpointError, match=rf"{name}.*({says})"):
        llmanac.load_model(llama, device="cpu")


@pytest.mark.parametrize("how", ["pipe", "endless", "sparse", "folder", "digits"])
def test_convert_and_the_other_files(how: str, llama: Path, folders: dict[str, Path], tmp_path: Path) -> None:
    from llmanac.cli import main

    (llama / "config.json").unlink()
    SPOILED[how][0](llama / "config.json")
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as ended:
        main(["convert", str(llama), str(out)])
    assert ended.value.code not in (0, None) and not out.exists()
    own = llama / "llmanac.json"
    own.unlink()
    SPOILED[how][0](own)
    (llama / "config.json").rmdir() if how == "folder" else (llama / "config.json").unlink()
    (llama / "config.json").write_text('{"model_type": "llmanac"}')
    assert "llmanac.json" in refusal(llama)


def test_it_takes_no_memory(folders: dict[str, Path], llama: Path) -> None:
    """A process that may take 256 MiB more than it has after a sound load refuses all of these by a sentence."""
    script = """
        import json, resource, sys
        from pathlib import Path
        import llmanac
        from llmanac.core.errors import CheckpointError, DataError, TokenizerError

        folder = Path(sys.argv[1])
        llmanac.load_model(folder, device="cpu")
        pages = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (pages + (256 << 20),) * 2)
        path = folder / "config.json"
        sound = json.loads(path.read_text())
        for key in ("head_dim", "hidden_size", "intermediate_size", "vocab_size", "num_hidden_layers"):
            for value in (2_000_000_000, 300_000_000, 10**12):
                path.write_text(json.dumps({**sound, key: value}))
                try:
                    llmanac.load_model(folder, device="cpu")
                except CheckpointError as error:
                    assert key in str(error), (key, error)
                else:
                    raise AssertionError(key)
        path.write_text("[" + "[]," * 1_000_000 + "[]]")
        try:
            llmanac.load_model(folder, device="cpu")
        except CheckpointError:
            print("refused")
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(llama)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout.strip() == "refused", done.stderr[-2000:]


def test_a_skeleton_holds_nothing() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with torch.device("meta"):
        model = build("position", "rope", dim=16, heads=1, head_dim=2_000_000_000, max_length=8)
    assert model.frequencies.is_meta and resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000
    with torch.device("meta"):
        small = build("position", "rope", dim=16, heads=1, head_dim=8, max_length=8)
    direct = build("position", "rope", dim=16, heads=1, head_dim=8, max_length=8)
    assert torch.equal(small.to("cpu").frequencies, direct.frequencies)


@pytest.mark.parametrize("how", ["pipe", "endless", "folder", "not UTF-8"])
def test_one_reader_serves_all_folders(how: str, tmp_path: Path) -> None:
    from llmanac.core import files
    from llmanac.models.classifiers.load import load_classifier
    from llmanac.tokenizers.load import load_tokenizer
    from llmanac.train.checkpoint import Checkpoints

    says = SPOILED[how][1]
    for name, error, read in [
        ("recipe.toml", DataError, lambda: files.read_toml(tmp_path / "recipe.toml")),
        ("run.json", DataError, lambda: files.read_table(tmp_path / "run.json")),
        ("tokenizer_config.json", TokenizerError, lambda: load_tokenizer(tmp_path)),
        ("classifier.json", CheckpointError, lambda: load_classifier(tmp_path)),
        ("step-00000001/state.json", CheckpointError, lambda: Checkpoints(tmp_path).load(1)),
    ]:
        (tmp_path / "tokenizer.json").write_text("{}")
        (tmp_path / name).parent.mkdir(exist_ok=True)
        SPOILED[how][0](tmp_path / name)
        with pytest.raises(error, match=f"{name}.*({says})"):
            read()


def test_a_saved_classifier_is_compared_before_it_is_built(tmp_path: Path) -> None:
    from llmanac.core.spec import make_method
    from llmanac.models.classifiers.load import load_classifier

    fitted = make_method("classifier", {"name": "cbow", "dim": 4, "epochs": 1}).build().fit(["a b", "c d"], ["x", "y"])
    fitted.save(tmp_path / "saved")
    path = tmp_path / "saved" / "classifier.json"
    assert list(load_classifier(path.parent).predict(["a b"])) == list(fitted.predict(["a b"]))
    record = json.loads(path.read_text())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    words = [str(number) for number in range(20_000)]
    next(path.parent.glob("voc*.json")).write_text(json.dumps(words))
    path.write_text(json.dumps({**record, "words": len(words), "spec": {**record["spec"], "dim": 16_384}}))
    with pytest.raises(CheckpointError, match="does not fit this classifier"):
        load_classifier(path.parent)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


@pytest.mark.parametrize(
    "text", ["a." * 200_000 + "b=1", '[ "a" . ' + '"a" . ' * 50_000 + "b]", f"a = {DIGITS[:5_000]}"]
)
def test_toml_without_end(text: str, tmp_path: Path) -> None:
    from llmanac.core.files import read_toml

    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(DataError, match=r"a\.toml: not TOML"):
        read_toml(tmp_path / "a.toml")
