"""Paths of object stores: in memory, and on moto's S3 server with uploads that are killed."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import fsspec
import numpy as np
import pytest
from _builds import digests, make_inputs, small_recipe

from llmanac.core import stores
from llmanac.core.errors import LlmanacError
from llmanac.data.pipeline.build import build
from llmanac.data.pipeline.recipe import make_recipe
from llmanac.models.locate import locate


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMANAC_CACHE", str(tmp_path / "cache"))
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    return memory


def written(folder: Path, seed: int, count: int = 6) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "checkpoints").mkdir(exist_ok=True)
    for number in range(count):
        data = np.random.default_rng([seed, number]).bytes(50_000)
        (folder / "checkpoints" / f"{number}.bin").write_bytes(data)
    (folder / "metrics.jsonl").write_text(f"{seed}\n")
    return folder


def test_what_is_pushed_is_pulled_and_counts_from_its_manifest_on(tmp_path, cache, monkeypatch):
    place, folder = "memory://bucket/run", written(tmp_path / "run", 0)
    (folder / ".lock").write_text("")
    (folder / "copy.jsonl").write_bytes((folder / "metrics.jsonl").read_bytes())  # the same content twice
    stores.push(folder, place)
    assert digests(stores.pull(place)) == digests(folder)
    assert stores.pull("memory:/bucket/run").name == "run"  # as Path writes it
    first = digests(folder)
    written(folder, 1)
    put, calls = type(cache).put_file, []

    def failing(*given, **named):
        calls.append(given)
        if len(calls) == 4:
            raise OSError("the cable is out")
        return put(*given, **named)

    with monkeypatch.context() as patched:
        patched.setattr(type(cache), "put_file", failing)
        with pytest.raises(LlmanacError, match=r"memory://bucket/run: OSError: the cable is out"):
            stores.push(folder, place)
    assert digests(stores.pull(place)) == first != digests(folder)
    (folder / "metrics.jsonl").unlink()
    stores.push(folder, place)
    assert digests(stores.pull(place)) == digests(folder)
    named = {digest for _, digest in json.loads(cache.cat("/bucket/run/llmanac-manifest.json"))["files"].values()}
    assert {path.split("/")[-2] for path in cache.find("/bucket/run/files")} == named  # nothing else is left


def test_damage_and_names_outside_are_refused(tmp_path, cache):
    place, folder = "memory://bucket/run", written(tmp_path / "run", 0, 1)
    stores.push(folder, place)
    (path,) = [path for path in cache.find("/bucket/run/files") if path.endswith("0.bin")]
    cache.pipe_file(path, b"other")
    with pytest.raises(LlmanacError, match="is not what the manifest names"):
        stores.pull(place)
    cache.pipe_file("/bucket/run/llmanac-manifest.json", b'{"files": {"../up": [1, "a"]}}')
    with pytest.raises(LlmanacError, match="is no manifest"):
        stores.pull(place)
    with pytest.raises(LlmanacError, match=r"memory://bucket/none: nothing is there"):
        stores.pull("memory://bucket/none")
    with pytest.raises(LlmanacError, match="nosuch://a/b: "):
        stores.pull("nosuch://a/b")


def test_a_folder_of_plain_objects_is_a_source(tmp_path, cache):
    inputs = make_inputs(tmp_path / "in")
    for path in inputs.iterdir():
        cache.put_file(str(path), f"/bucket/in/{path.name}")
    for name, source in (("local", str(inputs)), ("store", "memory://bucket/in")):
        build(make_recipe({"inputs": [source], "stages": ["clean"]}), tmp_path / name, workers=1)
    data = [{n: d for n, d in digests(tmp_path / name).items() if "/" in n} for name in ("local", "store")]
    assert data[0] == data[1] and data[0]


def test_a_model_is_read_from_a_store(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / "tokenizer.json").write_text("{}")
    stores.push(tmp_path / "model", "memory://bucket/model")
    found, tokenizer = locate("memory://bucket/model")
    assert found == tokenizer and Path(found, "config.json").is_file() and str(tmp_path / "cache") in found


def test_nothing_of_it_is_imported_without_such_a_path():
    code = (
        "import llmanac.core.stores as s, sys; found = [bool(s.STORE.match(one)) for one in ('a/b', 's3:/b/c')]; "
        "print(found[0], 'fsspec' in sys.modules, found[1])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False False True\n", done.stderr


PUSHING = """
import os, signal, sys, threading
from pathlib import Path
import s3fs
from llmanac.core import stores
left, delay = int(sys.argv[3]), float(sys.argv[4])

def counted(name):
    does = getattr(s3fs.S3FileSystem, name)
    def method(*given, **named):
        global left
        left -= 1
        if not left:  # in the middle of this request, or just before or after it
            threading.Timer(delay, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
        return does(*given, **named)
    setattr(s3fs.S3FileSystem, name, method)

for name in ("put_file", "pipe_file", "find", "rm_file"):
    counted(name)
stores.push(Path(sys.argv[1]), sys.argv[2])
"""


@pytest.mark.slow
@pytest.mark.timeout(2400)
class TestS3:
    @pytest.fixture
    def bucket(self, monkeypatch):
        """moto's server; requests to it are those of s3fs."""
        server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0)
        server.start()
        host, port = server.get_host_and_port()
        for name, value in (("AWS_ENDPOINT_URL", f"http://{host}:{port}"), ("AWS_ACCESS_KEY_ID", "a"),
                            ("AWS_SECRET_ACCESS_KEY", "b"), ("AWS_DEFAULT_REGION", "us-east-1")):  # fmt: skip
            monkeypatch.setenv(name, value)
        fsspec.get_filesystem_class("s3").clear_instance_cache()  # of an earlier server
        name = f"bucket-{uuid.uuid4().hex}"
        fsspec.filesystem("s3", skip_instance_cache=True).mkdir(name)
        yield f"s3://{name}"
        server.stop()

    def test_killed_uploads_leave_a_folder_of_before_or_of_after(self, tmp_path, bucket):
        place, seen = f"{bucket}/run", set()
        stores.push(written(tmp_path / "0", 0), place)
        last = digests(tmp_path / "0")
        for number in range(1, 21):  # 16 requests write: 7 files, the manifest, a list, and 7 files less
            folder = written(tmp_path / str(number), number)
            command = [sys.executable, "-c", PUSHING, str(folder), place, str(number), str(number % 4 / 200)]
            ended = subprocess.run(command).returncode
            assert ended == (-signal.SIGKILL if number < 16 else ended)
            found = digests(stores.pull(place))
            assert found in (last, digests(folder)), number
            seen.add(found == last)
            last = found
        assert len(seen) == 2  # some were killed before their manifest, some after
        stores.push(folder, place)
        assert digests(stores.pull(place)) == digests(folder)

    def test_a_run_goes_on_from_a_store_on_another_machine(self, tmp_path, bucket, monkeypatch):
        """Killed after a push, what the machine kept gone: as a run that nothing disturbed."""
        monkeypatch.delenv("LLMANAC_CACHE")  # compiled kernels are kept there too
        (tmp_path / "text").mkdir()
        for n in range(12):
            words = hashlib.sha256(str(n).encode()).hexdigest()
            (tmp_path / "text" / f"{n}.txt").write_text(" ".join(words[i : i + 3] for i in range(60)) * 20)
        (tmp_path / "small.toml").write_text(small_recipe(30, 5))
        every = "import llmanac.core.stores as s; s.EVERY = 0.5; from llmanac.cli import main; main()"

        def start(folder: str, *more: str) -> subprocess.Popen[str]:
            command = [sys.executable, "-c", every, "run", "small.toml", "--folder", folder, *more]
            return subprocess.Popen(
                command, cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )  # fmt: skip

        system = fsspec.filesystem("s3", skip_instance_cache=True)
        first, stop = start(f"{bucket}/run"), time.monotonic() + 400
        while True:
            if time.monotonic() > stop or first.poll() is not None:
                first.kill()
                raise AssertionError(first.communicate()[0])
            system.invalidate_cache()
            if system.exists(f"{bucket}/run/llmanac-manifest.json"):
                names = json.loads(system.cat_file(f"{bucket}/run/llmanac-manifest.json"))["files"]
                if any("checkpoints" in name for name in names):
                    break
            time.sleep(0.05)
        first.kill()
        first.communicate()
        shutil.rmtree(stores.pull(f"{bucket}/run").parent)
        for process in (start(f"{bucket}/run", "--resume"), start("plain")):
            said = process.communicate(timeout=500)[0]
            assert process.returncode == 0, said
        pulled = stores.pull(f"{bucket}/run")
        weights = [
            hashlib.sha256((place / "model" / "model.safetensors").read_bytes()).hexdigest()
            for place in (pulled, tmp_path / "plain")
        ]
        assert weights[0] == weights[1]
        shutil.rmtree(pulled.parent)
