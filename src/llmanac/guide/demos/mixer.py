"""Where tokens look, and what is remembered, as a text is read and continued token by token.

For the demos' model: the attention weights of a layer and head, and the bytes of its key-value cache. For a method of
the kind: how much each earlier token changes each output, |d y_t / d x_s|, in one layer of it with random weights, so
that recurrent and linear mixers can be looked at in the same way; and the bytes of its state."""

from typing import Any

import torch
from markupsafe import Markup

from llmanac.core.errors import LlmanacError, SpecError
from llmanac.core.spec import make_method
from llmanac.core.types import Batch, OutputRequest, evaluating
from llmanac.guide.demos import Field, _html, _model, in_time
from llmanac.models.lm.transformer import Transformer

CARD = {
    "title": "Attention maps and the cache",
    "kinds": ["mixer", "attention", "score", "position"],
    "rows": ["serve/kv-cache", "context/", "lm/transformer"],
}
OWN = "attention of the model"
FIELDS = (
    Field("text", "Text", "The cat sat on the mat, and the dog"),
    Field("what", "What", "grouped-query", choices=(OWN,), kind="mixer"),
    Field("layer", "Layer", "0", low=0, high=200),
    Field("head", "Head", "0", low=0, high=200),
    Field("new", "Tokens to generate (for the model)", "4", low=0, high=12),
)
MOST, DIM = 28, 32


def run(values: dict[str, Any], models: Any, until: float) -> list[Markup]:
    """A map of tokens over tokens, and the bytes held after each."""
    if values["what"] == OWN:
        return _own(values, models.held, until)
    words, name = _model.tokenizer("bpe"), values["what"]
    ids = [int(i) for i in words.encode(values["text"])][:MOST]
    if not ids:
        raise SpecError("Text: it is empty")
    try:
        blocks = [{"name": "pre-norm", "mixer": name, "ffn": "none"}]
        choices = {"position": "none", "dim": DIM, "layers": 1, "blocks": blocks}
        spec = make_method("lm", {"name": "transformer", **choices})
        model = spec.build(vocab_size=words.vocab_size).initialise(0).eval()
        with torch.no_grad():
            for number, p in enumerate(model.parameters()):
                if p.dim() > 1:
                    p.copy_(0.2 * torch.randn(p.shape, generator=torch.Generator().manual_seed(number)))
        vectors = model.embedding(torch.tensor([ids])).detach().requires_grad_()
        with torch.enable_grad():
            hidden: Any = model(Batch(embeddings=vectors), want=OutputRequest(hidden=True)).hidden
            probe = torch.randn(DIM, generator=torch.Generator().manual_seed(1))
            rows = []
            for t in range(len(ids)):
                in_time(until)
                (slope,) = torch.autograd.grad(hidden[0, t] @ probe, vectors, retain_graph=True)
                rows.append(slope[0].norm(dim=-1))
        bytes_held = _bytes(model, ids, until)
    except LlmanacError as error:
        raise SpecError(f"{name}: it is not shown alone: {error}") from None
    shares = torch.stack(rows)
    shares = shares / shares.sum(1, keepdim=True).clamp(min=1e-12)
    labels = [words.token_bytes(i).decode("utf-8", "backslashreplace") for i in ids]
    note = "Random weights, width 32, no positions; the diagonal includes the residual path."
    return [Markup("<p>{}</p>").format(note), *_shown(labels, shares.tolist(), bytes_held, f"Influence in {name}")]


def _shown(labels: list[str], values: list[list[float]], held: list[int], title: str) -> list[Markup]:
    lines = []
    for t, row in enumerate(values):
        best = sorted(range(len(row)), key=lambda s: -row[s])[:3]
        top = ", ".join(f"{_html.visible(labels[s])} {100 * row[s]:.0f}%" for s in best)
        lines.append((_html.visible(labels[t]), top, f"{held[t]:,}"))
    heads = ("token (row)", "reads most from (columns)", "bytes held after it")
    return [_html.grid(labels, values, f"{title}: a row a token, a column an earlier token"),
            _html.table(title, heads, lines)]  # fmt: skip


def _bytes(model: Any, ids: list[int], until: float) -> list[int]:
    """Bytes of the decoding state after each token."""
    state, found = model.start(1), []
    with torch.inference_mode():
        for id in ids:
            in_time(until)
            model(Batch(ids=torch.tensor([[id]])), state, OutputRequest(logits="last"))
            found.append(int(state.nbytes))
    return found


def _own(values: dict[str, Any], held: Any, until: float) -> list[Markup]:
    """The model's own attention weights and cache."""
    model = held.engine.model
    if not isinstance(model, Transformer) or not model.model.layers[0].attends:
        raise SpecError(f"What: {held.name} has no attention; choose a method, or start the guide with --model FOLDER")
    layers = model.model.layers
    layer, head = values["layer"], values["head"]
    if layer >= len(layers):
        raise SpecError(f"Layer: the model has {len(layers)}, numbered from 0")
    mixer = layers[layer].self_attn
    if head >= mixer.heads:
        raise SpecError(f"Head: a layer has {mixer.heads}, numbered from 0")
    ids = [int(i) for i in held.tokenizer.encode(values["text"])][: MOST - values["new"]]
    if not ids:
        raise SpecError("Text: it is empty")
    if values["new"]:
        request = held.engine.request(ids, max_new_tokens=values["new"])
        ids = ids + _model.finish(held.engine, [request], until)[0].ids
    labels = [held.text(i) for i in ids]
    return _shown(labels, weights(model, mixer, ids, head), _bytes(model, ids, until), f"Layer {layer}, head {head}")


def weights(model: Any, mixer: Any, ids: list[int], head: int) -> list[list[float]]:
    """(T, T): what a layer's head reads for each token: unit vectors take the place of the values, with any score."""
    found, attend = [], mixer.score.attend

    def unit(q: Any, k: Any, v: Any, *rest: Any, **more: Any) -> Any:
        eye = torch.eye(k.shape[2], dtype=v.dtype).expand(v.shape[0], v.shape[1], -1, -1)
        found.append(attend(q, k, eye, *rest, **more)[0, head])
        return attend(q, k, v, *rest, **more)

    mixer.score.attend = unit
    try:
        with torch.inference_mode(), evaluating(model):
            model(Batch(ids=torch.tensor([ids])), want=OutputRequest(logits="last"))
    finally:
        del mixer.score.attend
    rows: list[list[float]] = found[0].tolist()
    return rows
