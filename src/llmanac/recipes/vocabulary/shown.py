"""Tokens as readable text: blanks and incomplete characters are made visible."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmanac.tokenizers._base import Tokenizer
from llmanac.tokenizers._bpe import BPE
from llmanac.tokenizers._reachable import unreachable
from llmanac.tokenizers._word import WordLevel

MARKS = {" ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍"}
LONGEST, FIRST = 10, 20


def shown(data: bytes) -> str:
    """The bytes of a token: blanks, newlines and tabs as signs, what cannot be printed as `<0x1B>`."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return "".join(f"<0x{byte:02X}>" if byte >= 0x80 else shown(bytes([byte])) for byte in data)
    return "".join(MARKS.get(c) or (c if c.isprintable() else _code(c)) for c in text)


def _code(character: str) -> str:
    return "".join(f"<0x{byte:02X}>" for byte in character.encode("utf-8"))


def pieces(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """The tokens of a text, each as it is shown."""
    return [shown(tokenizer.token_bytes(id)) for id in ids]


def facts(tokenizer: Tokenizer, text: str | None = None) -> dict[str, Any]:
    """What `llmanac tokenizer inspect` says, as JSON data."""
    special = dict(sorted(tokenizer.special_tokens.items(), key=lambda item: item[1]))
    control = set(special.values())
    table = [(id, data) for id, data in enumerate(tokenizer._bytes) if data is not None and id not in control]
    never = unreachable(tokenizer) if isinstance(tokenizer, (BPE, WordLevel)) else None  # else the context decides
    longest = sorted(table, key=lambda item: (-len(item[1]), item[0]))[:LONGEST]
    sizes = [len(data) for _, data in table]
    out: dict[str, Any] = {
        "class": type(tokenizer).__name__,
        "vocabulary": tokenizer.vocab_size,
        "tokens": len(table),
        "special_tokens": special,
        "roles": {role: getattr(tokenizer, f"{role}_id") for role in ("bos", "eos", "pad", "unknown")},
        "lossless": tokenizer.lossless,
        "merges": int(tokenizer.merges.shape[1]) if hasattr(tokenizer, "merges") else None,
        "mean_token_bytes": sum(sizes) / len(sizes) if sizes else 0.0,
        "longest": [{"id": id, "bytes": len(data), "token": shown(data)} for id, data in longest],
        "unreachable": None if never is None else len(never),
        "first_unreachable": [{"id": id, "token": shown(tokenizer.token_bytes(id))} for id in (never or [])[:FIRST]],
        "fingerprint": tokenizer.fingerprint(),
    }
    if text is not None:
        ids = tokenizer.encode(text)
        size = len(text.encode("utf-8", "replace"))
        out["text"] = {"ids": ids, "pieces": pieces(tokenizer, ids), "bytes_per_token": size / max(1, len(ids))}
        out["text"]["decoded"] = tokenizer.decode(ids)
    return out


def _never(found: dict[str, Any]) -> str:
    if found["unreachable"] is None:
        return "not counted: which tokens a text gives depends on the context"
    tokens = " ".join(item["token"] for item in found["first_unreachable"])
    return f"{found['unreachable']:,} tokens that no text gives" + (f": {tokens}" if tokens else "")


def described(found: dict[str, Any]) -> str:
    """The facts as a person reads them."""
    roles = ", ".join(f"{role} {id}" for role, id in found["roles"].items() if id is not None) or "none"
    lines = [
        f"{found['class']}, {found['vocabulary']:,} ids: {found['tokens']:,} tokens and {len(found['special_tokens'])} "
        f"special ones" + (f", {found['merges']:,} merges" if found["merges"] is not None else ""),
        f"roles          {roles}",
        "special        " + (", ".join(f"{id} {text}" for text, id in found["special_tokens"].items()) or "none"),
        f"comes back     {'every text as it was' if found['lossless'] else 'what is known, in the normal form'}",
        f"mean length    {found['mean_token_bytes']:.2f} bytes a token",
        "longest        " + ", ".join(f"{item['token']} ({item['bytes']})" for item in found["longest"]),
        "unreachable    " + _never(found),
        f"fingerprint    {found['fingerprint'][:16]}",
    ]
    if "text" in found:
        text = found["text"]
        lines += [
            "",
            f"{len(text['ids'])} tokens, {text['bytes_per_token']:.2f} bytes each: " + " ".join(text["pieces"]),
        ]
        lines.append("ids: " + " ".join(map(str, text["ids"])))
    return "\n".join(lines)
