"""What commands say of a .gguf file: memory against a measured process, limits, types, and which runner answers."""

import json
import signal
import subprocess
import sys

import pytest

import llmanac
from llmanac.cli import main
from llmanac.core.errors import RequestError
from llmanac.evaluate.answering import load_answerer
from llmanac.generate.bench import rates
from llmanac.generate.load import load_engine
from llmanac.guide import calculate
from llmanac.kernels.gguf import GGUF
from llmanac.kernels.text import COMPILES
from llmanac.models.gguf.write import TYPES, export_gguf
from llmanac.tokenizers.load import train_tokenizer


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A folder and a Q8_0 file of one model, large enough for the native runner."""
    tokenizer = train_tokenizer("bpe", ["the cat sat on the mat"] * 3, vocab_size=264, pattern="gpt2")
    model = llmanac.build("lm", "transformer", dim=256, layers=2, max_length=256, tied=True, vocab_size=264)
    root = tmp_path_factory.mktemp("files")
    llmanac.save_model(model, root / "model")
    tokenizer.save(root / "model")
    export_gguf(model, tokenizer, root / "model.gguf", "q8_0")
    return root


def run(*words):
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    assert not stop.value.code


@pytest.mark.skipif(sys.platform != "linux", reason="counts the pages of a Linux process")
@pytest.mark.parametrize("runner", ["native", "torch"])
def test_memory_that_is_calculated_is_what_a_process_takes(runner, places):
    path = str(places / "model.gguf")
    told = calculate.bytes_of(calculate.read(path), length=32).peak
    code = """import sys
from llmanac.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert not end.code
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")), file=sys.stderr)
"""  # not ru_maxrss, which begins with what the test's own process holds
    command = [sys.executable, "-c", code, "generate", path, "--prompt", "the", "--max-new-tokens", "4"]
    for _ in range(2):  # the first may compile
        done = subprocess.run([*command, "--runner", runner], check=True, capture_output=True, text=True)
        if COMPILES not in done.stderr:
            break
    # libraries take 450 MB here and up to 140 MB more on other processors; without torch about 230 MB
    assert (0.6 if runner == "torch" else 0.3) < int(done.stderr.split()[-1]) * 1024 / told < 1.6


def test_a_limit_of_float32_is_of_float32_products_alone(places, capsys):
    """Compiled code multiplies the codes of a packed file."""
    limits = (1e10, 1e10)
    for path, runner, bounded in (
        ("model.gguf", "native", False),
        ("model.gguf", "torch", True),
        ("model", "native", True),
    ):
        found = rates(load_engine(places / path, runner=runner), rows=(1,), context=8, limits=limits)
        assert (found["read_limit"] is not None) == bounded, (path, runner)
        assert found["decode_limit"] == limits[0] / found["weights_bytes"]
    run("bench", places / "model.gguf", "--runner", "native", "--context", 8, "--rows", 1)
    lines = capsys.readouterr().out.splitlines()
    assert "float32" not in "".join(lines) and any("GB/s allow" in line for line in lines)


@pytest.mark.parametrize("kind", TYPES)
def test_convert_says_what_it_wrote(kind, places, tmp_path, capsys):
    target = tmp_path / "m.gguf"
    run("convert", places / "model", target, "--type", kind)
    said = capsys.readouterr().out.splitlines()[0]
    counts = GGUF(target).kinds()
    assert said.startswith(f"{target}: {kind} (") and sum(counts.values()) == len(GGUF(target).names)
    assert all(f"{count} {name}" in said for name, count in counts.items())


@pytest.mark.skipif(sys.platform == "win32", reason="kills a process")
def test_what_a_killed_process_wrote_is_no_file_and_goes_with_the_next_try(places, tmp_path):
    target, beside = tmp_path / "m.gguf", tmp_path / "other.gguf"
    killed = f"""
import os, signal
from llmanac.core import files
held = [files.atomic_file(name) for name in {[str(target), str(beside)]}]
for file in held:
    file.__enter__().write(bytes(99))
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", killed], check=False).returncode == -signal.SIGKILL
    left = sorted(path.name for path in tmp_path.iterdir())
    assert len(left) == 2 and not target.exists()
    run("convert", places / "model", target, "--type", "q8_0")
    assert GGUF(target).names and sorted(path.name for path in tmp_path.iterdir()) == [left[1], target.name]


def test_quantize_says_what_it_wrote(places, tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat " * 400)
    run("quantize", places / "model", "-m", "q4_k_m", "-o", tmp_path / "m.gguf", "--text", text)
    assert "; q4_k_m (" in (said := capsys.readouterr().out) and " Q4_K" in said and " F32" in said


@pytest.mark.parametrize("name", ["native:", "torch:", "auto:", "torch:float16", "nativ", "", ":", "native:float64"])
def test_runners_that_do_not_exist_are_refused_with_those_that_do(name, places):
    with pytest.raises(RequestError, match=r"runner: .*float32, .*float16, .*q8_0"):
        llmanac.Engine(llmanac.load_model(places / "model", device="cpu"), runner=name)


def test_a_file_is_evaluated_natively_as_it_is_generated_from(places, monkeypatch, capsys):
    """One rule: what is left open is left to `load_engine`."""
    monkeypatch.setattr("llmanac.generate.engine.SMALL", 0)
    assert load_answerer(str(places / "model.gguf")).engine.native is not None
    assert load_answerer(str(places / "model")).engine.native is None
    assert load_answerer(str(places / "model.gguf"), runner="torch").engine.native is None
    seen = []
    monkeypatch.setattr("llmanac.generate.load.load_engine", lambda path, **given: seen.append(given) or 1 / 0)
    data = places / "own.jsonl"
    data.write_text(json.dumps({"question": "a", "options": ["b"]}))
    (places / "own.toml").write_text(
        'title = "Own"\nprompt = "{{question}}"\n[data]\nfiles = ["own.jsonl"]\n[generation]\nstop = ["\\n"]\n'
        'length = 3\nreferences = "options"\nmetrics = ["squad"]\n'
    )
    with pytest.raises(ZeroDivisionError):
        main(["evaluate", str(places / "model.gguf"), "--benchmarks", str(places / "own.toml"),
              "--data", str(places), "-o", str(places / "out")])  # fmt: skip
    assert seen == [{"dtype": None, "device": "auto", "runner": None}]


def test_a_calibration_that_nothing_uses_is_refused(places, tmp_path, capsys):
    (tmp_path / "text.txt").write_text("some words")
    with pytest.raises(SystemExit):
        main(["convert", str(places / "model"), str(tmp_path / "m.gguf"), "--calibration", str(tmp_path / "text.txt")])
    assert "--calibration: f16 rounds each number by itself" in capsys.readouterr().err
    assert not (tmp_path / "m.gguf").exists()


def test_a_table_shows_text_as_it_is(tmp_path, capsys):
    """Nothing of it is taken for the name of a picture."""
    with pytest.raises(SystemExit):
        main(["memory", "add", str(tmp_path / "m.sqlite"), "door [bold] 12:b:34 :warning:"])
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["memory", "list", str(tmp_path / "m.sqlite")])
    assert "12:b:34 :warning:" in capsys.readouterr().out
