"""The same text cut by every tokenizer of the kind, each learned from the same prose with the same number of tokens,
and by the tokenizer of the demos' model. A token's number is shown where the pointer rests on it."""

from typing import Any

from markupsafe import Markup

from llmanac.core import registry
from llmanac.core.errors import LlmanacError
from llmanac.guide.demos import Field, _html, _model, in_time

CARD = {"title": "Tokenizers side by side", "kinds": ["tokenizer"]}
FIELDS = (Field("text", "Text", "Unbelievable: naïve café costs 37 €, 日本語 too.", most=400, area=True),)


def run(values: dict[str, Any], models: Any, until: float) -> list[Markup]:
    """A row of tokens for each tokenizer, and how many there are."""
    text = values["text"]
    known = [(name, name) for name in registry.methods("tokenizer")]
    rows: list[tuple[object, ...]] = []
    out, size = [], len(text.encode())
    for label, name in [*known, ("the model's", "")]:
        in_time(until)
        if not name and models.small:
            continue
        words = _model.tokenizer(name) if name else models.held.tokenizer
        try:
            ids = [int(i) for i in words.encode(text)]
        except LlmanacError as error:
            rows.append((label, words.vocab_size, "", "", str(error)))
            continue
        back = words.decode(ids)
        same = "the text" if back == text else "another text"
        rows.append((label, f"{words.vocab_size:,}", len(ids), f"{size / max(1, len(ids)):.2f}", same))
        held = [(words.token_bytes(i).decode("utf-8", "backslashreplace") or f"<{i}>", f"token {i}") for i in ids]
        row = _html.tokens((piece, title, (n % 2) * 0.3) for n, (piece, title) in enumerate(held))
        out.append(Markup("<h3>{}</h3>{}").format(label, row))
    heads = ("tokenizer", "vocabulary", "tokens", "bytes a token", "decoded")
    note = f"{size} bytes. Learned here from {_model.CHARACTERS:,} characters of the evidence pages."
    return [_html.table(note, heads, rows), *out]
