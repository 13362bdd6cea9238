"""`llmanac tokenizer`: learn, extend, encode and back, inspect, compare, as a user calls it."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
from pathlib import Path

import pytest
from _forked import executables

from llmanac.cli import main
from llmanac.tokenizers.load import load_tokenizer, train_tokenizer

EN = "The cat sat on the mat and looked at the theatre, there and everywhere. "
DE = "Die Katze saß auf der Matte und schaute überall das Theater an. "
CODE = "def area(width, height):\n    return width * height\n\n"


def run(*arguments: str, given: str | bytes | None = None, status: int = 0) -> tuple[str, str]:
    """What a command writes to standard output and error: in this process, or in one of its own to read its input."""
    if given is None:
        out, error = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            try:
                stopped = main(["tokenizer", *arguments]) or 0
            except SystemExit as end:
                stopped = end.code
        assert stopped == status, error.getvalue()
        return out.getvalue(), error.getvalue()
    data = given.encode("utf-8") if isinstance(given, str) else given
    done = subprocess.run(
        [executables() / "llmanac", "tokenizer", *arguments], input=data, capture_output=True, timeout=300
    )
    assert done.returncode == status, done.stderr.decode()
    assert b"Traceback" not in done.stderr
    return done.stdout.decode("utf-8"), done.stderr.decode("utf-8")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tokenizers")
    (root / "en.txt").write_text(EN * 600, "utf-8")
    (root / "code").mkdir()
    (root / "code" / "a.py").write_text(CODE * 300, "utf-8")
    with open(root / "de.jsonl", "w", encoding="utf-8") as out:
        for i in range(40):
            out.write(json.dumps({"text": f"{DE} {i}"}) + "\n")
    run("train", "bpe", f"en={root}/en.txt", f"de={root}/de.jsonl", "--alpha", "0.3", "-s", "vocab_size=340",
        "-o", str(root / "bpe"))  # fmt: skip
    run("train", "word", str(root / "en.txt"), "-s", "vocab_size=12", "-o", str(root / "word"))
    return root


def test_train_writes_what_the_library_learns(place):
    from llmanac.recipes.vocabulary.texts import Reading
    from llmanac.tokenizers import Mixture

    paths = {"en": f"{place}/en.txt", "de": f"{place}/de.jsonl"}
    mixed = Mixture(lambda: ((name, text) for name, path in paths.items() for text in Reading().cut([path])), alpha=0.3)
    assert load_tokenizer(place / "bpe").fingerprint() == train_tokenizer("bpe", mixed, vocab_size=340).fingerprint()
    about = json.loads((place / "bpe" / "training.json").read_text("utf-8"))
    assert about["tokenizer"]["vocab_size"] == 340 and about["files"] == {k: [v] for k, v in paths.items()}
    assert [group["group"] for group in about["mixture"]] == ["en", "de"] and about["mixture"][1]["times"] > 5
    out, _ = run("train", "word", f"{place}/en.txt", "-s", "vocab_size=12", "-o", f"{place}/word-again")
    assert "12 ids" in out and "out of vocabulary: " in out and "Next: llmanac tokenizer inspect" in out
    assert json.loads((place / "word-again" / "training.json").read_text("utf-8"))["bytes"] == len(EN) * 600


@pytest.mark.parametrize("name", ["bpe", "word", "utf8"])
def test_encode_and_back_a_line_each(place, name, tmp_path):
    folder = place / name
    if name == "utf8":
        folder = tmp_path / "utf8"
        run("train", "utf8", f"{place}/en.txt", "-o", str(folder))
    tokenizer = load_tokenizer(folder)
    text = "The cat sat\n\n  überall 中\r\n<|end|> x\n"
    lines = text.split("\n")[:-1]
    ids, said = run("encode", str(folder), given=text)
    assert [list(map(int, line.split())) for line in ids.split("\n")[:-1]] == [tokenizer.encode(line) for line in lines]
    assert f"{sum(len(tokenizer.encode(line)) for line in lines)} tokens" in said
    back, _ = run("encode", str(folder), "--decode", given=ids)
    assert back == "".join(tokenizer.decode(tokenizer.encode(line)) + "\n" for line in lines)
    if tokenizer.lossless:
        assert back == text


def test_encode_forms_files_and_special_tokens(place):
    (place / "two.txt").write_text("The cat\nDie Katze", "utf-8")
    tokenizer = load_tokenizer(place / "bpe")
    out, _ = run("encode", f"{place}/bpe", f"{place}/two.txt", f"{place}/two.txt")
    assert len(out.splitlines()) == 4
    out, _ = run("encode", f"{place}/bpe", f"{place}/two.txt", "--whole")
    assert list(map(int, out.split())) == tokenizer.encode("The cat\nDie Katze")
    out, _ = run("encode", f"{place}/bpe", "--text", "The cat<|end|>\x01", "--form", "pieces")
    assert out.startswith("The ␣cat") and "<0x01>" in out
    found = json.loads(run("encode", f"{place}/bpe", "--text", "é<|end|>", "--form", "json", "--special", "all")[0])
    assert found["ids"] == tokenizer.encode("é<|end|>", special="all") and found["pieces"][-1] == "<|end|>"
    out, _ = run("encode", f"{place}/bpe", "--text", "[1, 2,3]", "--decode")
    assert out == "<|pad|><|system|><|user|>\n"


def test_inspect(place):
    out, _ = run("inspect", f"{place}/bpe", "--text", "The catfish")
    assert "340 ids" in out and "unreachable    13 tokens" in out and "longest" in out and "The ␣cat" in out
    found = json.loads(run("inspect", f"{place}/bpe", "--json")[0])
    assert found["vocabulary"] == 340 and found["special_tokens"]["<|end|>"] == 0 and found["lossless"] is True
    assert len(found["longest"]) == 10 and found["longest"][0]["bytes"] >= found["longest"][1]["bytes"]
    words = json.loads(run("inspect", f"{place}/word", "--json")[0])
    assert words["roles"]["unknown"] == 0 and words["unreachable"] == 0 and words["merges"] is None


def test_extend(place):
    out, _ = run("extend", f"{place}/bpe", f"{place}/code", "--tokens", "50", "-o", f"{place}/larger")
    old, new = load_tokenizer(place / "bpe"), load_tokenizer(place / "larger")
    assert old.vocab_size < new.vocab_size <= 390 and "of them new" in out
    assert len(new.encode(CODE)) < len(old.encode(CODE)) and new.encode(EN) == old.encode(EN)


@pytest.mark.parametrize("name", ["bpe", "unigram", "sentencepiece-bpe", "word"])
def test_a_number_of_tokens_beyond_the_text(place, name):
    """Memory follows what the text can give, whatever is asked for."""
    folder = place / f"huge-{name}"
    run("train", name, f"{place}/en.txt", "-s", "vocab_size=1000000000", "-o", str(folder))
    out, _ = run("extend", str(folder), f"{place}/code", "--tokens", "1000000000", "-o", f"{folder}-larger")
    assert "fewer than the 1,000,000,000 asked for: this text has no more to learn" in out
    assert load_tokenizer(folder).vocab_size < load_tokenizer(f"{folder}-larger").vocab_size < 100_000


@pytest.mark.parametrize("name", ["unigram", "sentencepiece-bpe"])
def test_extend_a_model_file(place, name):
    folder = place / name
    run("train", name, f"{place}/en.txt", "-s", "vocab_size=300", "-o", str(folder))
    out, _ = run("extend", f"{folder}/tokenizer.model", f"{place}/code", "--tokens", "20", "-o", f"{folder}-larger")
    old, new = load_tokenizer(folder), load_tokenizer(f"{folder}-larger/tokenizer.model")
    assert old.vocab_size < new.vocab_size <= old.vocab_size + 20 and "of them new" in out
    assert new.pieces[: len(old.pieces)] == old.pieces and len(new.encode(CODE)) < len(old.encode(CODE))
    assert out.splitlines()[-1] == (
        f"Next: llmanac tokenizer compare {folder}/tokenizer.model {folder}-larger --on {place}/code"
    )
    said, _ = run("inspect", f"{folder}-larger", "--text", "it's a cat")
    assert said.splitlines()[-1] == (
        f"Next: llmanac tokenizer encode {folder}-larger --form pieces --text 'it'\"'\"'s a cat'"
    )


def test_compare(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "studies" / "page"
    out, _ = run(
        "compare", f"{place}/bpe", f"{place}/word", "utf8", "bpe{vocab_size=290}", "--on", f"en={place}/en.txt",
        "--on", f"code={place}/code", "--train", f"{place}/en.txt", "-o", str(page), "--sentence", "The cat <x>",
    )  # fmt: skip
    assert "bytes per token" in out
    found = json.loads((page / "study.json").read_text("utf-8"))
    assert any("which they are measured on" in note for note in found["notes"])
    assert [arm["label"] for arm in found["arms"]] == [f"{place}/bpe", f"{place}/word", "utf8", "bpe{vocab_size=290}"]
    tokenizer, costs = load_tokenizer(place / "bpe"), found["costs"]
    from llmanac.recipes.vocabulary.texts import Reading

    tokens = sum(len(tokenizer.encode(text)) for text in Reading().cut([f"{place}/en.txt"]))
    assert costs[f"{place}/bpe"]["bytes_per_token of en"] == pytest.approx(len(EN) * 600 / tokens)
    assert costs["utf8"]["bytes_per_token of code"] == 1.0 and costs[f"{place}/word"]["unknown"] > 0.1
    assert costs[f"{place}/bpe"]["lossless"] == 1.0 and costs["bpe{vocab_size=290}"]["vocabulary"] == 290
    verdicts = {c["arm"]: c["verdict"] for c in found["comparisons"]["bytes_per_token"]}
    assert verdicts[f"{place}/word"] == "loses text" and verdicts["utf8"] == "worse"
    html = (page / "study.html").read_text("utf-8")
    assert "<svg" in html and "⟨" not in html and "␣cat" in html
    again, _ = run("compare", "word{vocab_size=30}", "--on", f"en={place}/en.txt", "-o", str(page), "--json")
    assert "Measured on one part in 10" in json.loads(again)["notes"][0]
    assert list(json.loads(again)["values"]["bytes_per_token"]) == ["word{vocab_size=30}", "utf8"]  # one, against bytes


def test_compare_finished_tokenizers(place, tmp_path, monkeypatch):
    """Nothing is trained, so all of the text is measured, there are no frequencies, and the page says what was read."""
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "studies" / "page"
    asked = ["compare", f"{place}/bpe", f"{place}/word", "-o", str(page), "--on"]
    out, _ = run(*asked, f"{place}/code", "--json")
    found = json.loads(out)
    assert found["notes"] == ["Measured on all of the text."] and "bits_per_byte" not in found["values"]
    assert found["runs"][0]["cached"] is False and found["command"].startswith("llmanac compare tokenizer --arms")
    assert all(run["cached"] for run in json.loads(run_again(asked, f"{place}/code"))["runs"])
    (place / "copy").mkdir(exist_ok=True)
    (place / "copy" / "tokenizer.json").write_bytes((place / "bpe" / "tokenizer.json").read_bytes())
    notes = json.loads(
        run("compare", f"{place}/copy", f"{place}/bpe", "-o", str(page), "--json", "--on", f"{place}/en.txt")[0]
    )["notes"]
    assert "unknown training text" in notes[1] and f"learned from {place}/en.txt" in notes[2]


def run_again(asked, on):
    return run(*asked, on, "--json")[0]


WRONG = [
    (["train", "bpee", "{0}/en.txt", "-o", "{0}/x"], "no tokenizer named 'bpee'; did you mean 'bpe'"),
    (["train", "bpe", "{0}/none.txt", "-o", "{0}/x"], "none.txt: no such file or folder"),
    (["train", "bpe", "{0}/en.txt", "-o", "{0}/bpe"], "--folder: {0}/bpe is there already"),
    (["train", "bpe", "{0}/en.txt", "--alpha", "0.3", "-o", "{0}/x"], "write label=path for every file"),
    (["train", "bpe", "en={0}/en.txt", "--weight", "de=1", "-o", "{0}/x"], "weights: there is no group 'de'"),
    (["train", "bpe", "{0}/en.txt", "-s", "vocab=9", "-o", "{0}/x"], "no such field; did you mean 'vocab_size'"),
    (["encode", "{0}/none"], "none: no such file or folder"),
    (["encode", "{0}/bpe", "{0}/none.txt"], "none.txt: no such file"),
    (["encode", "{0}/bpe", "--text", "a", "--form", "words"], "--form: 'words' is not ids, pieces or json"),
    (["encode", "{0}/bpe", "--text", "1 x", "--decode"], "--text: 'x' is no token id"),
    (["encode", "{0}/bpe", "--text", "999999", "--decode"], "--text: token 999999: not in the vocabulary"),
    (["encode", "{0}/bpe", "--text", "a", "--special", "<|ende|>"], "special: '<|ende|>' is no special token; did you"),
    (["inspect", "{0}/en.txt"], "expected a folder, a tokenizer.json, a .model, a .gguf or a .tiktoken file"),
    (["compare", "{0}/bpe", "bpee", "--on", "en={0}/en.txt", "-o", "{0}/x"], "no tokenizer named 'bpee'"),
    (["compare", "bpe", "--on", "en={0}/en.txt", "--every", "1", "-o", "{0}/x"], "there is no text for it"),
    (["extend", "{0}/bpe", "{0}/none.txt", "-o", "{0}/x"], "none.txt: no such file or folder"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=[str(i) for i in range(len(WRONG))])
def test_errors_are_one_sentence(place, arguments, message):
    _, error = run(*[part.format(place) for part in arguments], status=2)
    assert message.format(place) in error and len(error.strip().splitlines()) == 1 and error.startswith("llmanac: ")
    assert not (place / "x").exists()


def test_broken_input_names_the_line(place):
    _, error = run("encode", f"{place}/bpe", given=b"good\nbad \xff\n", status=2)
    assert "standard input:2: not UTF-8 at byte 9" in error
    (place / "broken.txt").write_bytes(b"\xc3(")
    _, error = run("train", "bpe", f"{place}/broken.txt", "-o", f"{place}/x", status=2)
    assert "broken.txt" in error and "not UTF-8 at byte 0" in error
