"""Small servers that speak the public forms of OpenAI, llama.cpp, vLLM, Ollama and Anthropic, and their faults."""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import threading

FORMS = {  # path of the address, of the models, of chats
    "openai": ("/v1", "/v1/models", "/v1/chat/completions"),
    "llama.cpp": ("/v1", "/v1/models", "/v1/chat/completions"),
    "vllm": ("/v1", "/v1/models", "/v1/chat/completions"),
    "old vllm": ("/v1", "/v1/models", "/v1/chat/completions"),
    "ollama": ("/api", "/api/tags", "/api/chat"),
    "anthropic": ("/v1/messages", "/v1/models", "/v1/messages"),
}


def allowed(form, body):
    """The answers that a request allows, as this form states them: a list of texts, or None."""
    schema = None
    if form == "openai" and "response_format" in body:
        assert body["response_format"]["type"] == "json_schema" and body["response_format"]["json_schema"]["strict"]
        schema = body["response_format"]["json_schema"]["schema"]
    elif form == "ollama":
        schema = body.get("format")
    elif form == "anthropic" and "output_config" in body:
        assert body["output_config"]["format"]["type"] == "json_schema"
        schema = body["output_config"]["format"]["schema"]
    elif form == "llama.cpp" and "grammar" in body:
        rule, _, rest = body["grammar"].partition(" ::= ")
        assert rule == "root"
        return re.findall(r'"([^"]*)"', rest)
    elif form == "vllm" and "structured_outputs" in body:
        return body["structured_outputs"]["choice"]
    elif form == "old vllm" and "guided_choice" in body:
        return body["guided_choice"]
    if schema is None:
        return None
    assert schema["required"] == ["answer"] and schema["additionalProperties"] is False
    return [json.dumps({"answer": one}) for one in schema["properties"]["answer"]["enum"]]


def reply_of(form, text):
    if form == "ollama":
        return {"model": "m", "message": {"role": "assistant", "content": text}, "done": True,
                "prompt_eval_count": 10, "eval_count": 3}  # fmt: skip
    if form == "anthropic":
        return {"type": "message", "role": "assistant", "content": [{"type": "text", "text": text}],
                "usage": {"input_tokens": 10, "output_tokens": 3}}  # fmt: skip
    return {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}}  # fmt: skip


@contextlib.contextmanager
def chat_server(form, answer, *, constrains=True, before=lambda number, handler, body: False):
    """A server over a socket; yields its address and the requests it got.

    answer: of (prompt, allowed texts or None) the text; before: of the request's number, from 0, the handler and the
    body: whether it has answered itself.
    """
    base, models, chats = FORMS[form]
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def reply(self, body, status=200, **headers):
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self):
            if self.path != models:
                return self.reply({"error": "no such path"}, 404)
            listed = [{"name": "m"}] if form == "ollama" else [{"id": "m"}]
            return self.reply({"models" if form == "ollama" else "data": listed})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((dict(self.headers), body))
            if before(len(asked) - 1, self, body):
                return None
            if self.path != chats:
                return self.reply({"error": "no such path"}, 404)
            if form == "anthropic" and (self.headers["anthropic-version"] is None or "max_tokens" not in body):
                return self.reply({"type": "error", "error": {"type": "invalid_request_error"}}, 400)
            if form == "ollama" and body.get("stream") is not False:
                return self.reply(b'{"message": {"content": "a"}}\n{"message": {"content": "b"}}\n')
            prompt = body["messages"][-1]["content"]
            texts = allowed(form, body) if constrains else None
            return self.reply(reply_of(form, answer(prompt, texts)))

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}{base}", asked
    finally:
        server.shutdown()
        server.server_close()
