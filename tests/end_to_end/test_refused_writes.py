"""Places that cannot be written, and disks that are full: one sentence and exit status 2, never a traceback."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from _small_models import transformer

from llmanac.adapters.load import save_adapter
from llmanac.cli import main
from llmanac.core.spec import make_method
from llmanac.recipes import merge, quantize, specialize
from llmanac.recipes.vocabulary import texts
from llmanac.tokenizers.load import train_tokenizer

TEXTS = [f"text number {n} " + " ".join(f"{n * k % 997} words" for k in range(60)) for n in range(3000)]


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    (tmp_path / "recipe.toml").write_text(f'inputs = ["{path}"]\nstages = ["clean"]\n')
    return path


def commands(inputs: Path, out: Path) -> dict[str, list[str]]:
    recipe = str(inputs.with_name("recipe.toml"))
    return {
        "dedup": ["dedup", str(inputs), "--out", str(out)],
        "exact": ["dedup", str(inputs), "--out", str(out), "--method", "exact"],
        "one file": ["dedup", str(inputs), "--out", f"{out}.jsonl", "--method", "exact"],
        "build": ["data", "build", recipe, "--folder", str(out), "--workers", "1"],
    }


def sentence(errors: str) -> str:
    """What a refused command says, which is one line on what is refused and why."""
    said = [line for line in errors.splitlines() if line.startswith("llmanac: ")]
    assert len(said) == 1, errors
    assert "Traceback" not in errors
    return said[0]


@pytest.mark.parametrize("name", ["dedup", "exact", "one file", "build"])
@pytest.mark.parametrize("place", ["/proc/nowhere", "/dev/full", "/dev/full/below", "file/below"])
def test_a_place_that_takes_no_files(
    inputs: Path, name: str, place: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(inputs.parent)
    Path("file").write_text("no folder")
    if place.startswith("/") and not Path(place).parent.exists() and not Path("/dev/full").exists():
        pytest.skip("this system has no such place")
    if (name, place) == ("one file", "/dev/full"):
        pytest.skip("beside /dev/full there is room")
    with pytest.raises(SystemExit) as found:
        main(commands(inputs, Path(place))[name])
    assert found.value.code == 2
    assert place in sentence(capsys.readouterr().err) or name == "one file"


@pytest.mark.parametrize("name", ["dedup", "exact", "one file", "build"])
def test_a_disk_that_is_full(inputs: Path, name: str) -> None:
    """The system lets no file grow past 100 kB."""
    resource = pytest.importorskip("resource", reason="this system limits no files")
    out = inputs.with_name("out")

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    def run(**more: Any) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        command = [sys.executable, "-m", "llmanac.cli", *commands(inputs, out)[name]]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, **more)

    done = run(preexec_fn=limit)
    assert done.returncode == 2
    assert "cannot write (File too large)" in sentence(done.stderr)
    assert not list(inputs.parent.rglob("*.jsonl.gz"))
    assert run().returncode == 0, "with room it goes on"


@pytest.mark.parametrize("name", ["dedup", "build"])
@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_whatever_the_system_refuses(
    inputs: Path, name: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Folders below the output are refused, as where its rights were taken away since."""
    made, out = Path.mkdir, inputs.with_name("out")
    out.mkdir()

    def mkdir(self: Path, *given: Any, **choices: Any) -> None:
        if self.name in ("work", ".work"):
            raise OSError(code, os.strerror(code), str(self))
        made(self, *given, **choices)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with pytest.raises(SystemExit) as found:
        main(commands(inputs, out)[name])
    assert found.value.code == 2
    assert os.strerror(code) in sentence(capsys.readouterr().err)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read and write everything")
@pytest.mark.parametrize("name", ["dedup", "build"])
def test_folders_without_rights(inputs: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for rights in (0o000, 0o500):
        locked = inputs.with_name(f"locked-{rights}")
        locked.mkdir(mode=rights)
        with pytest.raises(SystemExit) as found:
            main(commands(inputs, locked / "out")[name])
        assert found.value.code == 2
        assert "Permission denied" in sentence(capsys.readouterr().err)


@pytest.mark.parametrize(
    "command", ["convert", "quantize", "merge", "convert.gguf", "quantize.gguf", "train", "extend"]
)
def test_a_folder_that_another_command_wrote_meanwhile_is_kept(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both find the place free and the other one ends first: its files are not replaced."""
    tokenizer = train_tokenizer("bpe", ["some words to learn " * 9], vocab_size=270)
    model = transformer(vocab_size=270, dtype=torch.float32)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save(tmp_path / "model")
    change = make_method("adapter", {"name": "lora", "rank": 2}).build(seed=0).apply(model)
    save_adapter(change, tmp_path / "adapter", base=str(tmp_path / "model"))
    text, target = tmp_path / "text.txt", tmp_path / f"target{'.gguf' * command.endswith('.gguf')}"
    text.write_text("some words to learn " * 400)
    other = target if target.suffix else target / "other"
    words = {
        "convert": ["convert", str(tmp_path / "model"), str(target)],
        "quantize": ["quantize", str(tmp_path / "model"), "-m", "int8", "-o", str(target), "--text", str(text)],
        "convert.gguf": ["convert", str(tmp_path / "model"), str(target)],
        "quantize.gguf": ["quantize", str(tmp_path / "model"), "-m", "q8_0", "-o", str(target), "--text", str(text)],
        "merge": ["merge", str(tmp_path / "adapter"), "-o", str(target)],
        "train": ["tokenizer", "train", "bpe", str(text), "-s", "vocab_size=262", "-o", str(target)],
        "extend": ["tokenizer", "extend", str(tmp_path / "model"), str(text), "--tokens", "1", "-o", str(target)],
    }[command]

    def meanwhile(*given: Any) -> Any:
        other.parent.mkdir(exist_ok=True)
        other.write_text("of the other command")
        return really(*given)

    used = {"convert": specialize, "quantize": quantize, "merge": merge}.get(command.partition(".")[0], texts)
    name = "labelled" if used is texts else "load_tokenizer"
    really = getattr(used, name)
    monkeypatch.setattr(used, name, meanwhile)
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2 and "is there already" in capsys.readouterr().err
    assert other.read_text() == "of the other command" and (other == target or [*target.iterdir()] == [other])
    assert not list(tmp_path.glob(".tmp*"))
