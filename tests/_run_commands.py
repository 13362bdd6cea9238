"""Runs commands of a JSON list in this process and prints what each gave: `[status, output, message]`.

    python _run_commands.py blocked|installed COMMANDS.json

`blocked`: torch cannot be imported. A command is a list of words, or `["serve", FILE, [[path, body], ...]]`, whose
requests are sent to a server of the file. The last item says whether torch was imported.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path


def command(words: list[str], said: str = "") -> list:
    from llmanac.cli import main

    out, error, status = io.StringIO(), io.StringIO(), 0
    sys.stdin = io.TextIOWrapper(io.BytesIO(said.encode()))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        try:
            main([str(word) for word in words])
        except SystemExit as end:
            status = end.code or 0
    return [status, out.getvalue(), error.getvalue()]


def served(file: str, requests: list) -> list:
    from starlette.testclient import TestClient

    from llmanac.generate.load import load_writer
    from llmanac.web.server import create_app

    app, found = create_app(load_writer(file, runner="native"), model_name="tiny"), []
    with TestClient(app, base_url="http://127.0.0.1:8000") as client:
        for path, body in requests:
            answer = client.post(path, json=body)
            lines = [answer.text] if not body.get("stream") else answer.text.replace("data: ", "").split("\n\n")
            pieces = [json.loads(line) for line in lines if line[:1] == "{"]
            for piece in pieces:
                for key in ("id", "created"):
                    piece.pop(key, None)
            found.append([answer.status_code, pieces])
    return [0, found, ""]


def run(commands: list) -> list:
    return [served(*words[1:]) if isinstance(words[-1], list) else command(words) for words in commands]


if __name__ == "__main__":
    if sys.argv[1] == "blocked":
        sys.modules["torch"] = None  # type: ignore[assignment]
    done = run(json.loads(Path(sys.argv[2]).read_text("utf-8")))
    print(json.dumps([*done, sys.modules.get("torch") is not None]))
