"""The sandbox: every published attack is contained, on each kind of machine that this one can show; limits; its end."""

from __future__ import annotations

import itertools
import os
import platform
import signal
import subprocess
import sys
import textwrap
import threading
import time
import tomllib
from pathlib import Path

import _attacks
import pytest

from llmanac.sandbox import _linux
from llmanac.sandbox.pool import Result, Sandbox, SandboxError

pytestmark = pytest.mark.skipif(platform.system() != "Linux", reason="the sandbox is for Linux")
# the others are slow
QUICK = ("as root" if os.geteuid() == 0 else "as a user", "as a user, no user namespaces")


@pytest.fixture(scope="module")
def sandbox():
    try:
        with Sandbox(2) as made:
            yield made
    except SandboxError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(
    "profile", [pytest.param(p, marks=() if p in QUICK else pytest.mark.slow) for p in _attacks.PROFILES]
)
def test_every_attack_is_contained(profile: str) -> None:
    if reason := _attacks.cannot(profile):
        pytest.skip(reason)
    assert len(_attacks.names()) >= 40
    found = _attacks.run_profile(profile, _attacks.names())
    escaped = {name: text for name, (_, text) in found["attacks"].items() if text}
    if profile == "as root, in user namespaces":  # the kernel counts no threads of root, as `missing` says
        escaped.pop("threads", None)
    assert escaped == {}
    assert found["after"] == ""
    left_out, by_user = _attacks.PROFILES[profile]
    assert found["protection"]["namespaces"] == ("namespaces" not in left_out)
    assert (found["protection"]["landlock"] > 0) == ("landlock" not in left_out)
    assert not by_user or found["protection"]["user"] is None


def test_refuses_to_run_without_seccomp_or_without_both_others() -> None:
    for without in (["seccomp"], ["landlock", "namespaces"]):
        with pytest.raises(SandboxError, match=r"seccomp"), Sandbox(1, without=without):
            pass
    with pytest.raises(SandboxError, match=r"without: 'x' is not one of"):
        Sandbox(without=["x"])
    with pytest.raises(SandboxError, match="not open"):
        Sandbox().run("pass")


def test_refuses_a_machine_whose_system_calls_it_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_linux, "supported", lambda: False)
    with pytest.raises(SandboxError, match="needs Linux on x86_64 or aarch64"), Sandbox(1):
        pass


def test_says_what_the_machine_does_not_allow() -> None:
    with Sandbox(1, without=["namespaces"]) as made:
        assert not made.protection.namespaces
        assert any("namespaces" in line for line in made.protection.missing)


ENDS = {
    "x = 1": "passed",
    "": "passed",
    "assert 1 == 2, 'two'": "failed",
    "x = (": "failed",
    "raise SystemExit": "failed",
    "import numpy": "failed",
    "\0": "failed",
    "if __name__ == '__main__': raise ValueError": "failed",
    "import sys\nassert sys.modules['__main__'].__dict__ is globals()": "passed",
    "x = 'a\\": "failed",
    "# no line end": "passed",
    "open('a', 'w').write('x'); assert open('a').read() == 'x'": "passed",
    "import tempfile; tempfile.TemporaryFile().write(b'x'); tempfile.mkdtemp()": "passed",
    "import threading\nt = [threading.Thread(target=print) for _ in range(20)]\nfor x in t: x.start()": "passed",
    "import asyncio\nasync def f(): await asyncio.sleep(0.001)\nasyncio.run(f())": "passed",
    "import ctypes, decimal, hashlib, sqlite3, zlib, json, unittest": "passed",
    "from typing import *\nimport math, re, collections\nassert math.pi": "passed",
    "import io, sys\nsys.stdout = io.StringIO()\nprint('x')": "passed",
    "import signal\nsignal.alarm(0); signal.setitimer(signal.ITIMER_REAL, 0)": "passed",
    "from concurrent.futures import ThreadPoolExecutor\nlist(ThreadPoolExecutor(4).map(abs, range(9)))": "passed",
}


def test_ends_of_ordinary_programs(sandbox: Sandbox) -> None:
    results = sandbox.run_many(ENDS)
    assert {code: r.status for code, r in zip(ENDS, results, strict=True)} == ENDS
    assert results[2].stderr == "AssertionError: two\n"


HONEST = tomllib.loads((Path(_attacks.__file__).with_name("honest.toml")).read_text("utf-8"))


def test_honest_programs_pass(sandbox: Sandbox) -> None:
    assert len(HONEST) >= 40
    results = dict(zip(HONEST, sandbox.run_many(HONEST.values()), strict=True))
    assert {name: r.stderr for name, r in results.items() if not r.passed} == {}
    assert "bye" not in results["exit-hook"].stdout  # it ends before hooks of the interpreter


def test_tests_that_fail_or_end_too_early_do_not_pass(sandbox: Sandbox) -> None:
    for wrong in (HONEST["unittest"].replace("1 + 1", "1 + 2"), HONEST["unittest"] + "assert False", "assert False"):
        assert sandbox.run(wrong).status == "failed"
    assert sandbox.run("import unittest\nunittest.main()\nassert 1 == 2, 'after'").stderr.endswith("Error: after\n")


def test_guesses_at_which_run_it_is_never_pass(sandbox: Sandbox) -> None:
    guesses = [name for name in _attacks.names() if name.startswith("guess-by-")]
    assert len(guesses) >= 24
    with Sandbox(1, wall=0.3) as quick:  # some wait where they guess otherwise
        for name in guesses:
            code = _attacks.PRELUDE + _attacks.ATTACKS[name]["code"]
            found = {quick.run(code).status for _ in range(3 if "waits" in name else 12)}
            assert found <= {"cheated", "failed", "killed", "timeout"}, name


def test_both_ends_come_first_in_some_runs(sandbox: Sandbox) -> None:
    """What a program sees of the order tells it nothing: the end that must fail is as often the first."""
    if not sandbox.protection.namespaces:
        pytest.skip("process ids are the machine's")
    forged = "import os; os.write(3, os.read(3, 32) + b'passed'); os._exit(0)"
    first = "import os; os.write(1, str(os.getpid()).encode()); " + forged
    with Sandbox(1) as one:
        ids = [int(one.run(first).stdout) for _ in range(40)]
    steps = {after - before for before, after in itertools.pairwise(ids)}
    assert {1, 2} <= steps  # a pass that must not be is seen after one run or after two


def test_output_is_kept_up_to_its_limit(sandbox: Sandbox) -> None:
    result = sandbox.run("import sys\nprint('out'); print('err', file=sys.stderr)\nassert 0, 'ä'")
    assert (result.stdout, result.stderr) == ("out\n", "err\nAssertionError: ä\n")
    result = sandbox.run("for _ in range(10**5): print('ä' * 10)")
    assert result.passed
    assert 8000 < len(result.stdout) <= 1 << 14
    assert sandbox.run("import os; os.write(1, b'\\xff\\xfe')").stdout == "\ufffd\ufffd"


def test_what_cannot_be_run_is_refused(sandbox: Sandbox) -> None:
    assert sandbox.run("x = '\ud800'").status == "refused"
    assert sandbox.run("#" * (1 << 23)).status == "refused"
    with pytest.raises(SandboxError, match="memory"):
        sandbox.run("pass", memory=1000)
    with pytest.raises(SandboxError, match="seconds"):
        sandbox.run("pass", seconds=0)


def test_memory_and_time_are_the_callers(sandbox: Sandbox) -> None:
    takes = "x = bytearray(150 << 20)"
    assert sandbox.run(takes).passed
    assert "MemoryError" in sandbox.run(takes, memory=128 << 20).stderr
    busy = "import time\nwhile time.process_time() < 0.4: pass"
    assert sandbox.run(busy, seconds=0.2).status == "timeout"
    result = sandbox.run(busy, seconds=2)
    assert result.passed
    assert 0.35 < result.seconds < 1


def test_a_pass_is_run_again_with_an_end_that_must_fail(sandbox: Sandbox) -> None:
    forged = "import os; os.write(3, os.read(3, 32) + b'passed'); os._exit(0)"
    assert sandbox.run(forged).status == "cheated"
    assert sandbox.run(forged.replace("passed", "failed")).status == "failed"


def test_threads_may_share_one_sandbox(sandbox: Sandbox) -> None:
    found: dict[int, Result] = {}

    def ask(number: int) -> None:
        found[number] = sandbox.run(f"print({number}); assert {number} % 2")

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {i: (r.stdout, r.passed) for i, r in found.items()} == {i: (f"{i}\n", i % 2 == 1) for i in range(12)}


def test_a_worker_that_dies_is_replaced(sandbox: Sandbox) -> None:
    for worker in sandbox._all:
        os.kill(worker.process.pid, signal.SIGKILL)
    assert all(r.passed for r in sandbox.run_many(["pass"] * 4))
    assert len(sandbox._all) == 2


def alive(word: str) -> list[int]:
    """Processes whose command line has a word in it, zombies left out."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and word in (folder / "cmdline").read_bytes().decode("utf-8", "replace"):
                found += [int(folder.name)] if "\nState:\tZ" not in (folder / "status").read_text() else []
        except OSError:
            continue
    return found


def gone(word: str) -> bool:
    until = time.monotonic() + 30
    while alive(word) and time.monotonic() < until:
        time.sleep(0.05)
    return not alive(word)


@pytest.mark.parametrize("without", [[], ["namespaces"]])
def test_nothing_is_left_after_closing_or_after_the_owner_was_killed(without: list[str], tmp_path: Path) -> None:
    program = f"""
        import sys, threading, time
        from llmanac.sandbox.pool import Sandbox, SandboxError
        with Sandbox(2, without={without!r}) as s:
            said = []
            def ask():
                try:
                    s.run("while True: pass", seconds=100)
                except SandboxError as error:
                    said.append(error)
            threads = [threading.Thread(target=ask, daemon=True) for _ in range(2)]
            [t.start() for t in threads]
            time.sleep(0.3)
            if sys.argv[1] == "killed":
                print("ready", flush=True)
                time.sleep(100)
        [t.join(20) for t in threads]
        assert len(said) == 2, said
        print("closed", flush=True)
        sys.stdin.read()
    """
    for how in ("closed", "killed"):
        folder = tmp_path / f"sandbox-{how}-{os.getpid()}"  # the workers' command lines name it
        folder.mkdir()
        (folder / "llmanac").symlink_to(_attacks.SOURCE / "llmanac")
        owner = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(program), how],
            env=os.environ | {"PYTHONPATH": str(folder), "TMPDIR": str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert owner.stdout
        try:
            assert owner.stdout.readline() == (b"ready\n" if how == "killed" else b"closed\n")
            assert len(alive(str(folder))) == (6 if how == "killed" else 0)
        finally:
            owner.kill()
            owner.communicate()
        assert gone(str(folder))
        assert [p.name for p in folder.iterdir()] == ["llmanac"]


def test_a_fork_of_the_owner_cannot_use_it(sandbox: Sandbox) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            sandbox.run("pass")
        except SandboxError:
            sandbox.close()  # does nothing: the workers are the parent's
            os._exit(0)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert sandbox.run("pass").passed


def test_the_tables_of_both_machines_are_complete() -> None:
    from llmanac.sandbox._linux import ALLOWED, CONDITIONAL, SETUP

    needed = {"read", "write", "openat", "mmap", "futex", "exit_group", "clone", "kill", "tgkill", "ppoll", "fstat"}
    both = ALLOWED | CONDITIONAL
    assert all(both[name][1] is not None for name in needed)
    assert all(arm is not None for _, arm in SETUP.values())
    assert not set(both) & {"fork", "vfork", "execve", "socket", "connect", "mount", "ptrace", "unshare", "truncate"}
    for column in (0, 1):
        numbers = [n[column] for n in both.values() if n[column] is not None]
        assert len(numbers) == len(set(numbers))
