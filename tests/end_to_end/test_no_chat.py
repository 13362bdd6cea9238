"""A model that never read a chat does not pretend to chat: not in its files, on the terminal, or over HTTP."""

from __future__ import annotations

import io
import json
from pathlib import Path

import httpx
import pytest
from _runs import recipe
from _servers import running

import llmanac
from llmanac.cli import chat as console
from llmanac.core.errors import RequestError
from llmanac.generate.load import load_engine


def test_only_a_model_that_read_chats_has_a_chat_template(finished, text: Path, tmp_path: Path, monkeypatch) -> None:
    assert llmanac.load_tokenizer(finished.folder / "tokenizer").chat_template is not None
    assert llmanac.load_tokenizer(finished.folder / "model").chat_template is None
    turns = [{"role": "user", "content": "count"}, {"role": "assistant", "content": "3 cats"}]
    pairs = tmp_path / "chats.jsonl"
    pairs.write_text((json.dumps({"messages": turns}) + "\n") * 30, "utf-8")
    asked = recipe(text, finetune={"pairs": str(pairs), "steps": 2, "objective": "chat"})
    done = llmanac.run(asked, folder=tmp_path / "tuned")
    assert any(line.startswith("llmanac chat ") for line in done.results["next"])
    base, model = (llmanac.load_tokenizer(done.folder / name) for name in ("base", "model"))
    assert base.chat_template is None and model.chat_template is not None
    assert base.fingerprint() == model.fingerprint() == done.load_tokenizer().fingerprint()
    seen, engine = [], load_engine(done.folder)
    monkeypatch.setattr(engine, "stream", lambda ids, **options: seen.append((ids, options)) or iter(()))
    console.chat(engine, lines=io.StringIO("count\n"), system="Be brief.", temperature=0.2, max_new_tokens=3)
    console.chat(engine, lines=io.StringIO("count\n"))
    assert len(seen[0][0]) > len(seen[1][0])
    assert (seen[0][1]["temperature"], seen[0][1]["max_new_tokens"]) == (0.2, 3)
    qwen = {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.1, "min_p": 0}
    engine.model.generation = {**qwen, "no_repeat_ngram_size": 3, "eos_token_id": 2, "typical_p": None}
    kept = {"temperature": 0.6, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.1, "no_repeat_ngram": 3}
    assert console.sampling(engine) == kept
    engine.request([1], **console.sampling(engine))  # which the engine knows
    engine.model.generation = {"temperature": 0.6}
    assert console.sampling(engine) == {"temperature": 0.0}


def test_a_run_that_only_read_text_says_so_instead_of_chatting(finished, capsys) -> None:
    with pytest.raises(RequestError, match=r"not tuned to chat.*llmanac generate.*\[finetune\]") as caught:
        console.chat_command(finished.folder)
    assert str(finished.folder) in str(caught.value)
    with running(load_engine(finished.folder)) as server:
        sent = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
        error = httpx.post(f"{server.url}/v1/chat/completions", json=sent).json()["error"]
        assert (error["param"], error["code"]) == ("messages", "no_chat_template")
        assert "/v1/completions" in error["message"] and "[finetune]" in error["message"]
        assert not server.client.models.list().data[0].llmanac["chat"]
        assert httpx.post(f"{server.url}/v1/completions", json={"model": "tiny", "prompt": "the"}).status_code == 200
