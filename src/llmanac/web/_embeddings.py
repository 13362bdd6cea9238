"""POST /v1/embeddings: vectors of texts, by a model that is loaded for it (`--embedding-model`)."""

from __future__ import annotations

import base64
from typing import Any

from llmanac.web._errors import ApiError
from llmanac.web._prepare import blaming
from llmanac.web._service import Service
from llmanac.web._wire import EmbeddingBody, check_length, read

NONE = "this server has no embedding model; start it with --embedding-model"


def vectors(service: Service, data: bytes, until: float) -> tuple[dict[str, Any], list[str]]:
    """The reply, and what of the request was ignored; `cut` of the reply lists the texts that were longer than read."""
    body = read(EmbeddingBody, data)
    return vectors_asked(service, body), body.ignored()


def vectors_asked(service: Service, body: EmbeddingBody) -> dict[str, Any]:
    """The reply to a checked body."""
    body.check()
    embedder, name = service.embedder, service.embedding_name
    if embedder is None:
        raise ApiError(404, NONE, param="model", code="model_not_found")
    if body.model != name:
        message = f"model: {body.model!r} gives no vectors here; this server's embedding model is {name!r}"
        raise ApiError(404, message, param="model", code="model_not_found")
    single = isinstance(body.input, str) or (body.input and isinstance(body.input[0], int))
    given: list[Any] = [body.input] if single else list(body.input)
    check_length("input", given)
    with blaming("input"):
        if isinstance(given[0], str):
            found = embedder.texts(given, on_long=body.on_long or "cut")
            rows, counts, cut = found.vectors, found.tokens, found.cut
        else:
            rows, counts, cut = embedder.vectors(given), [len(ids) for ids in given], []
    if body.dimensions not in (None, rows.shape[1]):
        message = f"dimensions: the vectors of this model have {rows.shape[1]} numbers; leave it out"
        raise ApiError(400, message, param="dimensions", code="unsupported")

    def written(row: Any) -> Any:
        packed = body.encoding_format == "base64"
        return base64.b64encode(row.astype("<f4").tobytes()).decode() if packed else row.tolist()

    listed = [{"object": "embedding", "index": i, "embedding": written(row)} for i, row in enumerate(rows)]
    usage = {"prompt_tokens": sum(counts), "total_tokens": sum(counts)}
    reply = {"object": "list", "model": name, "data": listed, "usage": usage}
    return reply | ({"cut": cut} if cut else {})
