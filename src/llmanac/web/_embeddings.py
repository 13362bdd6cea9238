"""POST /v1/embeddings and /v1/rerank by a model that is loaded for it (`--embedding-model`): vectors of texts, and how
well texts answer a question, by their vectors' cosines or by a reranker's own number."""

from __future__ import annotations

import base64
import secrets
from typing import TYPE_CHECKING, Any

import numpy as np

from llmanac.web._errors import ApiError
from llmanac.web._prepare import blaming
from llmanac.web._service import Service, plain_name
from llmanac.web._wire import EmbeddingBody, RerankBody, check_length, read

if TYPE_CHECKING:
    from llmanac.evaluate.embed import Embedder

NONE = "this server has no embedding model; start it with --embedding-model"


def vectors(service: Service, data: bytes, until: float) -> tuple[dict[str, Any], list[str]]:
    """The reply, and what of the request was ignored; `cut` of the reply lists the texts that were longer than read."""
    body = read(EmbeddingBody, data)
    return vectors_asked(service, body), body.ignored()


def vectors_asked(service: Service, body: EmbeddingBody) -> dict[str, Any]:
    """The reply to a checked body."""
    body.check()
    embedder, name = _embedder_of(service, body.model), service.embedding_name
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
        raise ApiError(400, message, code="unsupported")

    def written(row: Any) -> Any:
        packed = body.encoding_format == "base64"
        return base64.b64encode(row.astype("<f4").tobytes()).decode() if packed else row.tolist()

    listed = [{"object": "embedding", "index": i, "embedding": written(row)} for i, row in enumerate(rows)]
    usage = {"prompt_tokens": sum(counts), "total_tokens": sum(counts)}
    reply = {"object": "list", "model": name, "data": listed, "usage": usage}
    return reply | ({"cut": cut} if cut else {})


def reranked(service: Service, data: bytes, until: float) -> tuple[dict[str, Any], list[str]]:
    """The reply to POST /v1/rerank, best document first, and what of the request was ignored."""
    body = read(RerankBody, data)
    body.check()
    embedder = _embedder_of(service, body.model)
    texts = [one if isinstance(one, str) else one.text for one in body.documents]
    check_length("documents", [body.query, *texts])
    with blaming("documents"):
        scores, tokens = embedder.related(body.query, texts)
    order = np.argsort(-scores, kind="stable")[: body.top_n]
    results = [
        {"index": int(i), "relevance_score": float(scores[i])}
        | ({} if body.return_documents is False else {"document": {"text": texts[i]}})
        for i in order
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    named = {"id": f"rerank-{secrets.token_hex(12)}", "model": service.embedding_name}
    return {**named, "results": results, "usage": usage}, body.ignored()


def _embedder_of(service: Service, model: str) -> Embedder:
    """The embedding model. Raises ApiError where there is none of this name."""
    if service.embedder is None:
        raise ApiError(404, NONE, param="model", code="model_not_found")
    if plain_name(model) != plain_name(service.embedding_name):
        message = (
            f"model: {model[:100]!r} gives no vectors here; this server's embedding model is {service.embedding_name!r}"
        )
        raise ApiError(404, message, code="model_not_found")
    return service.embedder
