"""`llmanac embed`: a vector for each text, into a file, and the nearest pairs as a table."""

import io
import json
import sys
from pathlib import Path
from typing import Any, cast, get_args

from llmanac.cli.options import Column, Force, Include, SomeModel
from llmanac.cli.score import Texts, _short, texts_of
from llmanac.core.errors import DataError, SpecError
from llmanac.core.outputs import check_output

PAIRS = 5  # in the table


def embed_command(
    path: SomeModel, file: Texts = None, text: list[str] | None = None, output: str | None = None,
    pooling: str | None = None, normalize: bool | None = None, on_long: str = "cut", column: Column = "text",
    include: Include = None, dtype: str | None = None, prompt: str | None = None, prefix: str = "",
    force: Force = False,
) -> Any:  # fmt: skip
    """A vector for each text, for search and comparison.

    Args:
        text: Embed this text; repeatable.
        output (-o): A .npy or .jsonl file for the vectors.
        pooling: mean, cls or last [as the model's folder says, or mean].
        normalize (--normalize/--no-normalize): Vectors of length 1 [as the folder says].
        on_long ([cut|refuse]): What is done with a text that is longer than the model reads.
        dtype: float32, float64 or bfloat16 [float32].
        prompt: What texts are: query, passage, or a prompt that the model's folder names.
        prefix: Text before each, for a model whose folder names no prompts: "query: ".
    """
    import numpy as np

    from llmanac.cli.tables import print_table
    from llmanac.core import files
    from llmanac.evaluate.embed import Embedder, OnLong, nearest

    kind = "" if output is None else Path(output).suffix
    if output is not None and kind not in (".npy", ".jsonl"):
        raise SpecError(f"--output: {output} is neither a .npy nor a .jsonl file")
    if output is not None:
        check_output(Path(output), "--output", force=force)
    if on_long not in get_args(OnLong):
        raise SpecError(f"--on-long: {on_long!r} is not one of {', '.join(get_args(OnLong))}")
    texts = list(texts_of(text or (), file, column, include or ()))
    if not texts:
        raise DataError(f"{file or 'standard input'}: holds no text")
    model = Embedder.load(path, pooling=pooling, normalize=normalize, dtype=dtype)  # type: ignore[arg-type]
    if prefix and prompt:
        raise SpecError("--prefix: is the prompt itself; leave --prompt out")
    found = model.texts(
        [prefix + text for text in texts], on_long=cast(OnLong, on_long), prompt="" if prefix else prompt
    )
    if found.cut:
        first = f"text {found.cut[0] + 1}" if len(found.cut) == 1 else f"{len(found.cut)} texts"
        print(f"{first}: longer than the {model.most} tokens that the model reads, and cut", file=sys.stderr)
    if kind == ".npy":
        data = io.BytesIO()
        np.save(data, found.vectors, allow_pickle=False)
        files.write_bytes(output or "", data.getvalue())
    elif kind == ".jsonl":
        lines = zip(texts, found.vectors.tolist(), strict=True)
        files.write_text(
            output or "", "".join(json.dumps({"text": t, "vector": v}, ensure_ascii=False) + "\n" for t, v in lines)
        )
    pairs = [(f"{cosine:.3f}", _short(texts[i]), _short(texts[j])) for cosine, i, j in nearest(found.vectors, PAIRS)]
    if pairs:
        print_table("Nearest pairs", ("cosine", "text", "text"), pairs, left=(1, 2))
    rows, width = found.vectors.shape
    print(f"{rows} vectors of {width} numbers ({model.pooling}){'' if output is None else f' in {output}'}")
    if output is None:
        print(f"Next: llmanac embed {path} ... -o vectors.npy")
    own = {"vectors": found.vectors} if output is None else {"output": output}
    return {"count": rows, "width": width, "pooling": model.pooling, "nearest": nearest(found.vectors, PAIRS), **own}
