"""/openapi.json says what the server takes and answers, exactly."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from _engine_models import ByteTokenizer, HistoryModel
from _servers import running

from llmanac.generate.engine import Engine
from llmanac.web.server import create_app

NOT_PAGES = {"/openapi.json"}


@pytest.fixture(scope="module")
def document(server):
    return httpx.get(f"{server.url}/openapi.json").json()


def references(part):
    if isinstance(part, dict):
        yield from ([part["$ref"]] if isinstance(part.get("$ref"), str) else [])
        part = list(part.values())
    for inner in part if isinstance(part, list) else ():
        yield from references(inner)


def test_every_reference_resolves(document):
    found = set(references(document))
    assert found
    for reference in found:
        place = document
        assert reference.startswith("#/")
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]


def test_it_has_every_page_and_no_other(document):
    routes = {
        (method.lower(), route.path.replace(":path", ""))
        for route in create_app(Engine(HistoryModel(), ByteTokenizer())).routes
        for method in route.methods - {"HEAD"}
        if route.path not in NOT_PAGES
    }
    assert {(m, p) for p, operations in document["paths"].items() for m in operations} == routes


def test_errors_are_declared_in_the_shape_they_have(document, server):
    url = server.url
    sent = {"content-type": "application/json"}
    answers = [
        ("/v1/completions", "post", httpx.post(f"{url}/v1/completions", content="{", headers=sent)),
        ("/v1/completions", "post", httpx.post(f"{url}/v1/completions", json={"model": "other"})),
        ("/tokenize", "post", httpx.post(f"{url}/tokenize", content="{}")),
        ("/tokenize", "post", httpx.post(f"{url}/tokenize", content=b" " * (9 * 2**20), headers=sent)),
        ("/v1/models/{name}", "get", httpx.get(f"{url}/v1/models/other")),
        ("/health", "get", httpx.get(f"{url}/health", headers={"host": "evil.example"})),
        ("/health", "get", httpx.post(f"{url}/health")),
    ]
    assert [a.status_code for _, _, a in answers] == [400, 404, 415, 413, 404, 403, 405]
    for path, method, answer in answers:
        declared = document["paths"][path][method]["responses"][str(answer.status_code)]
        assert declared["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Error"}
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    for path, method in (
        ("/v1/completions", "post"),
        ("/v1/chat/completions", "post"),
        ("/tokenize", "post"),
        ("/detokenize", "post"),
    ):
        declared = document["paths"][path][method]["responses"]
        assert {"200", "400", "404", "408", "413", "415", "429", "500", "503"} <= declared.keys()
        assert "422" not in declared


def test_bodies_have_this_servers_bounds(document):
    schemas = document["components"]["schemas"]
    assert schemas["CompletionBody"]["properties"]["model"]["enum"] == ["tiny"]
    forms = schemas["CompletionBody"]["properties"]["prompt"]["anyOf"]
    assert forms[2]["items"]["maximum"] == ByteTokenizer.vocab_size - 1
    assert schemas["ChatBody"]["properties"]["tools"]["enum"] == [None, []]
    assert schemas["TokenizeBody"]["required"] == ["prompt"]


class Librarian:
    def answer(self, question):
        return SimpleNamespace(text="A line.", citations=[], refused=False)


@pytest.mark.slow
@pytest.mark.parametrize("assistant", [None, Librarian()], ids=["model", "assistant"])
def test_schemathesis_finds_nothing(assistant, tmp_path):
    """Requests made from the document, valid and not, with every check that schemathesis has."""
    command = shutil.which("schemathesis", path=str(Path(sys.executable).parent)) or shutil.which("schemathesis")
    if command is None:
        pytest.skip("schemathesis is not installed (pip install 'schemathesis>=4.32')")
    engine = Engine(HistoryModel(max_length=512), ByteTokenizer())
    with running(engine, assistant=assistant) as server:
        words = [command, "run", f"{server.url}/openapi.json", "--checks", "all", "-n", "30", "--seed", "1"]
        words += ["--request-timeout", "600", "--max-response-time", "600"]  # some ask for a hundred long texts
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=1500)
    said = "\n".join(line[:300] for line in done.stdout.splitlines()[-80:])
    assert done.returncode == 0, said
