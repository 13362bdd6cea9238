"""Clients that are no part of [test], each in an environment of its own: `make clients` installs and runs them all.

Each program of tests/clients asks a server what its client exists for, and fails where an answer is not what it must
be. The versions that were last run, and when, are in docs/serve.md, which `make clients` writes.
"""

from __future__ import annotations

import datetime
import json
import os
import re
import subprocess
import sys
import venv
from pathlib import Path

from llmanac.core.files import cache_folder

ROOT = Path(__file__).parents[1]
PACKAGES = {  # client -> what is installed; the first names the version in the table
    "openai": "openai",
    "litellm": "litellm",
    "instructor": "instructor",
    "outlines": "outlines openai",
    "langchain": "langchain-openai",
    "llama-index": "llama-index-llms-openai-like",
    "haystack": "haystack-ai",
    "pydantic-ai": "pydantic-ai-slim[openai]",
    "dspy": "dspy",
    "smolagents": "smolagents[openai]",
    "crewai": "crewai",
    "autogen": "autogen-ext[openai] autogen-agentchat",
    "guidance": "guidance openai",
    "lm-eval": "lm-eval[api] requests",
    "inspect": "inspect-ai openai",
    "ollama": "ollama",
    "ragas": "ragas langchain-community<0.4",  # it imports what later ones moved
    "deepeval": "deepeval",
    "aider": "aider-chat",
    "ai": "ai @ai-sdk/openai-compatible zod",  # of npm
}
BEGIN, END = "<!-- clients: written by make clients -->", "<!-- end of clients -->"


def folder_of(name: str) -> Path:
    return cache_folder() / "test-clients" / name


def runner_of(name: str) -> list[str]:
    """The command that runs a client's program; empty where the client is not installed."""
    if name == "ai":
        installed = (folder_of(name) / "node_modules" / "ai").is_dir()
        return ["node", str(folder_of(name) / "ai_client.mjs")] if installed else []
    python = folder_of(name) / "bin" / "python"
    return [str(python), str(program_of(name))] if (folder_of(name) / "installed").exists() else []


def program_of(name: str) -> Path:
    return Path(__file__).with_name("clients") / f"{name.replace('-', '_')}_client.{'mjs' if name == 'ai' else 'py'}"


def install(name: str) -> None:
    """Make the environment of a client, where it is not there."""
    folder, packages = folder_of(name), PACKAGES[name].split()
    if name == "ai":
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text('{"private": true}')
        subprocess.run(["npm", "install", "--silent", *packages], cwd=folder, check=True)
    elif not (folder / "installed").exists():
        venv.create(folder, with_pip=True)
        subprocess.run([folder / "bin" / "python", "-m", "pip", "install", "-q", *packages], check=True)
        (folder / "installed").touch()


def version_of(name: str) -> str:
    package = re.split(r"[\[ ]", PACKAGES[name])[0]
    if name == "ai":
        return str(json.loads((folder_of(name) / "node_modules" / "ai" / "package.json").read_text("utf-8"))["version"])
    find = f"from importlib.metadata import version; print(version({package!r}))"
    return subprocess.run(
        [folder_of(name) / "bin" / "python", "-c", find], check=True, capture_output=True, text=True
    ).stdout.strip()


def run(name: str, url: str, model: str) -> str:
    """What a client's program says it did. Raises AssertionError with its output where it failed."""
    if name == "ai":  # modules are found beside the program
        (folder_of(name) / "ai_client.mjs").write_text(program_of(name).read_text("utf-8"), "utf-8")
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "HF_HUB_OFFLINE")}
    clean |= {"NO_COLOR": "1", "HOME": str(folder_of(name))}
    done = subprocess.run([*runner_of(name), url, model], capture_output=True, text=True, timeout=600, env=clean)
    assert done.returncode == 0, f"{name}: {(done.stdout + done.stderr)[-4000:]}"
    return done.stdout.rpartition("done: ")[2].strip()


def write_table(did: dict[str, str]) -> None:
    """Put what was run into docs/serve.md, between its marks."""
    page = ROOT / "docs" / "serve.md"
    text = page.read_text("utf-8")
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    rows = [f"| {name} {version_of(name)} | {said} |" for name, said in did.items()]
    told = f"Last run on {datetime.date.today().isoformat()}, with Qwen2.5-Coder-0.5B-Instruct (Q4_K_M):"
    table = "\n".join([BEGIN, told, "", "| client | what it did |", "|---|---|", *rows, END])
    page.write_text(before + table + after, "utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    from _published import published
    from _servers import running

    from llmanac.generate.load import load_writer

    wanted = sys.argv[1:] or list(PACKAGES)
    failed, did = [], {}
    with running(load_writer(published("qwen"), runner="native"), model_name="qwen") as server:
        for each in wanted:
            try:
                install(each)
                did[each] = run(each, server.url, "qwen")
                print(f"{each} {version_of(each)}: {did[each]}", flush=True)
            except (AssertionError, subprocess.SubprocessError) as error:
                failed.append(each)
                did[each] = "failed"
                print(f"{each}: failed\n{error}", flush=True)
    if len(did) == len(PACKAGES):
        write_table(did)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")
