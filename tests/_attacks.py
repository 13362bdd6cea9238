"""Runs the attacks of attacks.toml in a sandbox; `python tests/_attacks.py` prints them as a table.

Each way to run them (PROFILES) is a kind of machine: some protections are left out, as if the machine did not allow
them. Root runs those of a normal user too: in a process that has given up root, with a Python that a user can read.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).resolve().parent.parent / "src"
ATTACKS: dict[str, dict[str, Any]] = tomllib.loads(Path(__file__).with_name("attacks.toml").read_text("utf-8"))
WORD = "swordfish-7741"
USER = 54321
# what is left out; whether by a normal user
PROFILES: dict[str, tuple[list[str], bool]] = {
    "as root": ([], False),
    "as root, in user namespaces": (["root-namespaces"], False),
    "as root, no namespaces": (["namespaces"], False),
    "as root, no landlock": (["landlock"], False),
    "as a user": ([], True),
    "as a user, no user namespaces": (["namespaces"], True),
    "as a user, no landlock": (["landlock"], True),
}
PRELUDE = """
import ctypes, os, sys
_libc = ctypes.CDLL(None, use_errno=True)
def attempt(f, *arguments):
    try:
        value = f(*arguments)
    except (OSError, ImportError, ValueError, RuntimeError) as error:
        return
    print('ESCAPED', value)
def word():
    frame = sys._getframe()
    while frame:
        if 'nonce' in frame.f_locals:
            return frame.f_locals['nonce']
        frame = frame.f_back
    return os.read(3, 32)
def syscall(number, *arguments):
    value = _libc.syscall(*[ctypes.c_long(a) if isinstance(a, int) else a for a in (number, *arguments)])
    if value < 0:
        raise OSError(ctypes.get_errno(), 'refused')
    return value
"""


@contextlib.contextmanager
def outside() -> Iterator[dict[str, Any]]:
    """Things that attacks go for, each with what is true of it while nobody harms it."""
    folder = Path(tempfile.mkdtemp(prefix="llmanac-attacked-"))
    folder.chmod(0o755)
    (folder / "secret").write_text(WORD)
    (folder / "keep").write_text("keep")
    victim = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as local:
        local.bind(str(folder / "socket"))
        try:
            yield {
                "OUTSIDE": str(folder), "SECRET": str(folder / "secret"), "KEEP": str(folder / "keep"),
                "SOCKET": str(folder / "socket"), "PORT": server.getsockname()[1], "VICTIM": victim.pid,
                "OWNER": os.getpid(), "victim": victim,
            }  # fmt: skip
        finally:
            victim.kill()
            victim.wait()
            shutil.rmtree(folder, ignore_errors=True)


def harm(things: dict[str, Any]) -> str:
    """What has happened to the things outside; empty if nothing."""
    folder, keep = Path(things["OUTSIDE"]), Path(things["KEEP"])
    if sorted(p.name for p in folder.iterdir()) != ["keep", "secret", "socket"]:
        return "files outside were made or removed"
    if keep.read_text() != "keep" or keep.stat().st_mode & 0o777 != 0o644 or keep.stat().st_mtime < 1e9:
        return "a file outside was changed"
    if things["victim"].poll() is not None:
        return "another process was killed"
    return ""


def run(without: list[str], names: list[str]) -> dict[str, Any]:
    """Run attacks here: what protects, and for each attack its status and what is wrong (empty: contained)."""
    from llmanac.sandbox.pool import Sandbox

    found: dict[str, Any] = {}
    with outside() as things, Sandbox(2, wall=2.5, without=without) as sandbox:
        given = "".join(f"{k} = {v!r}\n" for k, v in things.items() if k.isupper())
        programs = [PRELUDE + given + ATTACKS[name]["code"] for name in names]
        for name, result in zip(names, sandbox.run_many(programs, seconds=0.3, memory=1 << 28), strict=True):
            wrong = ""
            if "ESCAPED" in result.stdout + result.stderr or WORD in result.stdout + result.stderr:
                wrong = result.stdout[:300]
            elif result.status not in ATTACKS[name]["expect"]:
                wrong = f"{result.status}: {result.stderr[-300:]}"
            found[name] = [result.status, wrong]
        after = [sandbox.run("import os, random; assert os.listdir('.') == []; random.random()") for _ in range(4)]
        rest = harm(things) or next((f"afterwards: {r.status} {r.stderr}" for r in after if not r.passed), "")
        protection = vars(sandbox.protection) | {"missing": list(sandbox.protection.missing)}
    return {"attacks": found, "after": rest, "protection": protection}


def names() -> list[str]:
    """The attacks that are for this machine."""
    return [name for name, attack in ATTACKS.items() if attack.get("machine", platform.machine()) == platform.machine()]


def python_for_users() -> str | None:
    """A Python, new enough, that a normal user can start; None where there is none."""
    for path in dict.fromkeys([sys.executable, shutil.which("python3", path="/usr/bin:/usr/local/bin")]):
        if path is None:
            continue
        program = "import sys; sys.path.insert(0, sys.argv[1]); import tomllib, llmanac.sandbox.pool"
        with contextlib.suppress(OSError):
            as_user = {"user": USER, "group": USER, "extra_groups": []} if os.geteuid() == 0 else {}
            done = subprocess.run([path, "-c", program, str(SOURCE)], capture_output=True, cwd="/", **as_user)
            if done.returncode == 0:
                return path
    return None


def cannot(profile: str) -> str:
    """Why this machine cannot show a profile; empty if it can."""
    _, user = PROFILES[profile]
    if not user and os.geteuid() != 0:
        return "not run as root"
    if user and python_for_users() is None:
        return "no Python 3.11 that a normal user could start"
    return ""


def run_profile(profile: str, chosen: list[str]) -> dict[str, Any]:
    """`run` under a profile, in a process of its own."""
    without, user = PROFILES[profile]
    python = (python_for_users() if user else sys.executable) or sys.executable
    as_user = {"user": USER, "group": USER, "extra_groups": []} if user and os.geteuid() == 0 else {}
    done = subprocess.run(
        [python, __file__, "--run", json.dumps([without, chosen])],
        capture_output=True, text=True, cwd="/", env={"PYTHONPATH": str(SOURCE)}, **as_user,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{profile}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> int:
    """Print a table: a row an attack, a column a profile. Returns the number of attacks that were not contained."""
    columns, wrong = {}, 0
    for profile in PROFILES:
        if reason := cannot(profile):
            print(f"{profile}: skipped, {reason}")
            continue
        columns[profile] = found = run_profile(profile, names())
        bad = {name: text for name, (_, text) in found["attacks"].items() if text} | (
            {"afterwards": found["after"]} if found["after"] else {}
        )
        wrong += len(bad)
        count = len(found["attacks"])
        print(f"{profile}: {count - len(bad)} of {count} contained; {found['protection']}")
        for name, text in bad.items():
            print(f"    NOT CONTAINED {name}: {text}")
    print(f"\n{'attack':38}" + "".join(f"{i + 1:>10}" for i in range(len(columns))))
    for name in names():
        print(f"{name:38}" + "".join(f"{c['attacks'][name][0]:>10}" for c in columns.values()))
    print("\n" + "\n".join(f"{i + 1}: {profile}" for i, profile in enumerate(columns)))
    print(f"{len(names())} attacks, {len(columns)} ways to run them, {wrong} not contained")
    return wrong


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        print(json.dumps(run(*json.loads(sys.argv[2]))))
    else:
        sys.exit(min(main(), 1))
