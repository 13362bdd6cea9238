"""`llmanac embed`: a vector for each text, into a file, and the nearest pairs as a table."""

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any, cast, get_args

from llmanac.cli.options import Column, Force, Include, OnEngine, SomeModel, Workers, on_ray, stopping
from llmanac.cli.score import Texts, _short, texts_of
from llmanac.core.errors import DataError, SpecError
from llmanac.core.outputs import check_output

PAIRS = 5  # in the table


def embed_command(
    path: SomeModel, file: Texts = None, text: list[str] | None = None, output: str | None = None,
    pooling: str | None = None, normalize: bool | None = None, on_long: str = "cut", column: Column = "text",
    include: Include = None, dtype: str | None = None, prompt: str | None = None, prefix: str = "",
    force: Force = False, engine: OnEngine = "local", workers: Workers = None,
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
    from llmanac.cli.tables import print_table
    from llmanac.core.cluster import Each, here
    from llmanac.core.parts import hashed, parts_for
    from llmanac.evaluate.embed import Embedder, OnLong, nearest
    from llmanac.evaluate.vectors import vectors_in_parts
    from llmanac.generate.prompts import stamps
    from llmanac.models.locate import on_cluster

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
    if prefix and prompt:
        raise SpecError("--prefix: is the prompt itself; leave --prompt out")
    asked = [prefix + text for text in texts], cast(OnLong, on_long), "" if prefix else prompt
    how: dict[str, Any] = {"pooling": pooling, "normalize": normalize, "dtype": dtype}
    each: Each
    with contextlib.ExitStack() as kept:
        if on_ray(engine, workers):
            if output is None:
                raise SpecError("--engine ray: needs an --output, beside which finished vectors are kept")
            each = kept.enter_context(on_cluster(Embedder.load, path, workers, **how)).results
        else:
            each = here(Embedder.load(path, **how))
        ((_, (rows, cut, pooling, most)),) = each(Embedder.prepared, [asked])
        if output is None:
            ((_, vectors),) = each(Embedder.vectors, [(rows,)])
        else:
            given = {"model": path, "files": stamps(path), "how": how, "texts": hashed(asked[0])}
            kept.enter_context(stopping(kept=f"what is done is kept next to {output}"))
            parts = kept.enter_context(parts_for(Path(output), {**given, "rows": cut}, force=force))
            vectors = vectors_in_parts(each, rows, parts)
            _write(Path(output), texts, vectors)
    if cut:
        first = f"text {cut[0] + 1}" if len(cut) == 1 else f"{len(cut)} texts"
        print(f"{first}: longer than the {most} tokens that the model reads, and cut", file=sys.stderr)
    pairs = [(f"{cosine:.3f}", _short(texts[i]), _short(texts[j])) for cosine, i, j in nearest(vectors, PAIRS)]
    if pairs:
        print_table("Nearest pairs", ("cosine", "text", "text"), pairs, left=(1, 2))
    count, width = vectors.shape
    print(f"{count} vectors of {width} numbers ({pooling}){'' if output is None else f' in {output}'}")
    if output is None:
        print(f"Next: llmanac embed {path} ... -o vectors.npy")
    own = {"vectors": vectors} if output is None else {"output": output}
    return {"count": count, "width": width, "pooling": pooling, "nearest": nearest(vectors, PAIRS), **own}


def _write(output: Path, texts: list[str], vectors: Any) -> None:
    import numpy as np

    from llmanac.core import files

    if output.suffix == ".npy":
        data = io.BytesIO()
        np.save(data, vectors, allow_pickle=False)
        files.write_bytes(output, data.getvalue())
    else:
        lines = zip(texts, vectors.tolist(), strict=True)
        files.write_text(
            output, "".join(json.dumps({"text": t, "vector": v}, ensure_ascii=False) + "\n" for t, v in lines)
        )
