"""`llmanac tune`: adapt a model to rows of text; `llmanac distill`: to what a teacher says about them."""

import codecs
from pathlib import Path
from typing import Any

from llmanac.cli.documented import sharing
from llmanac.cli.options import Patches, Processes, SomeModel, followed, on_processes, stopping
from llmanac.core.errors import SpecError


def _trained() -> None:
    """What commands that train a model which is there have in common.

    Args:
        output (-o): A new folder, or with --resume the one to go on with.
        adapter (-a): lora, rslora, prefix, ... (`llmanac list adapter`), or full.
        lr (float sets train.optimizer.lr): Learning rate [1e-3; with --adapter full 1e-4].
        epochs (float sets rows.epochs): How often each row is read [1].
        budget (text sets budget): Time to spend instead of epochs, e.g. 10m.
        length (int sets rows.length): Tokens of a packed row [what 98% of the rows need].
        held_out (float sets rows.held_out): Share of the rows that is only measured [0.05].
        seed (int sets seed): Random seed [0].
        resume: Go on with the tuning in --output.
    """


@sharing(_trained)
def _on_rows() -> None:
    """And those that read rows with answers.

    Args:
        data: A .jsonl, .csv or .parquet file: messages, prompt and completion, or text.
        on_error (text sets rows.on_error): A row that cannot be used: [fatal] stops, skip leaves it out.
        on (text sets objective.on): Tokens with loss: assistant, completion or all [assistant].
        preview (from 0): Print so many rows with their loss masks, and stop.
    """


@sharing(_on_rows)
def tune_command(
    model: SomeModel, data: str, output: Path = Path("tuned"), adapter: str = "lora", set_: Patches = None,
    preview: int = 0, resume: bool = False, processes: Processes = None, *, changes: dict[str, Any],
) -> Any:  # fmt: skip
    """Fine-tune a model on rows: an adapter (LoRA by default) or its own weights; loss before and after.

    Args:
        quantize (text sets quantizer): Quantizer of the frozen weights, e.g. nf4 (QLoRA).
    """
    return _tune({"model": model, "adapter": adapter}, data, output, changes, set_, preview, resume, processes)


def _tune(
    fields: dict[str, Any], data: str, output: Path, changes: dict[str, Any], set_: list[str] | None, preview: int,
    resume: bool, processes: int | None,
) -> Any:  # fmt: skip
    from llmanac.recipes.tune import TuneSpec

    if followed():
        return None
    asked = asked_by(TuneSpec, fields, data, changes, set_, processes)
    if preview:
        return print_preview(asked, preview)
    return tuned(asked, output, resume, processes)


def asked_by(
    kind: Any, fields: dict[str, Any], data: str, changes: dict[str, Any], set_: list[str] | None,
    processes: int | None = None,
) -> Any:  # fmt: skip
    """The recipe of a command line: the method's fields, then single options, then -s."""
    from llmanac.core import spec
    from llmanac.recipes.asked import asked_with

    return asked_with(kind, fields, data, changes, on_processes(spec.parse_patches(set_ or ()), processes))


def tuned(asked: Any, output: Path, resume: bool, processes: int | None = None) -> Any:
    """Carry out a tuning or an alignment, and print what it gave."""
    from llmanac.cli.results import print_run
    from llmanac.parallel import launch
    from llmanac.recipes.run import run

    with stopping("the same command and --resume"), launch.processes(processes or 1):
        done = run(asked, folder=output, resume=resume or launch.restarted(output), flag="--output")
    return print_run(done)


def print_preview(asked: Any, count: int) -> dict[str, str]:
    """Rows as the model reads them: tokens with loss marked, special tokens visible; then what becomes of all rows."""
    import tempfile
    from itertools import islice

    from rich.console import Console
    from rich.text import Text

    from llmanac.cli.tables import print_table
    from llmanac.data.command_problems import FLAG, CommandProblems
    from llmanac.models.load import load_model
    from llmanac.models.locate import locate
    from llmanac.recipes.chat_rows import can_chat
    from llmanac.recipes.tune_rows import encode_rows, prepare
    from llmanac.tokenizers.load import load_tokenizer

    place, tokens = locate(asked.model)
    tokenizer = can_chat(load_tokenizer(tokens), asked.rows.file)
    console = Console(highlight=False, emoji=False)
    objective = asked.objective.reader(tokenizer)
    skipping = CommandProblems(asked.rows.on_error, advice=FLAG)
    for line, _, (ids, mask) in islice(encode_rows(objective, asked.rows.file, skipping), count):
        console.rule(f"{asked.rows.file}:{line}  {len(ids)} tokens, {int(mask[1:].sum())} with loss", align="left")
        console.print(shown(tokenizer, ids.tolist(), mask.tolist(), Text))
    console.print(Text("loss", style="black on green"), Text("no loss", style="dim"), Text("special", style="bold red"))
    with tempfile.TemporaryDirectory() as folder:  # every row is read, so that one without loss is refused here too
        found = prepare(
            asked.rows, objective, tokenizer, Path(folder), seed=asked.seed,
            longest=lambda: load_model(place).max_length,
        )  # fmt: skip
    rows = {**dict(found.lines()), "tokens of a packed row": f"{found.length:,}"}
    print_table("", ("", ""), rows.items())
    return rows


def shown(tokenizer: Any, ids: list[int], mask: list[bool], text: Any) -> Any:
    """The tokens of a row as rich text; where colours are not shown, brackets `⟦ ⟧` are around what carries loss."""
    special = set(tokenizer.special_tokens.values()) if isinstance(tokenizer.special_tokens, dict) else set()
    out, before = text(), False
    decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a character may span tokens
    for at, (token, counts) in enumerate(zip(ids, mask, strict=True)):
        counts = counts and at > 0  # nothing predicts the first token
        if counts != before:
            out.append("⟦" if counts else "⟧", style="green")
        before = counts
        piece = decoder.decode(tokenizer.token_bytes(token))
        style = "black on green" if counts else "dim"
        out.append(piece, style=f"bold red{' on green' if counts else ''}" if token in special else style)
    if before:
        out.append("⟧", style="green")
    return out


@sharing(_on_rows)
def distill_command(
    teacher: str, student: str, data: str, level: str = "token", output: Path = Path("distilled"),
    adapter: str = "full", samples: int = 1, temperature: float = 0.0, max_tokens: int = 256, verify: str = "squad",
    set_: Patches = None, preview: int = 0, resume: bool = False, processes: Processes = None, *,
    changes: dict[str, Any],
) -> Any:  # fmt: skip
    """Train a student on what a teacher says: its distributions, its features, its texts, or its right answers.

    Args:
        teacher: The model to learn from: a folder, a .gguf file or a hub name.
        student: The model to train.
        level: token, feature, sequence or response.
        samples (1 to 256): Sequence and response: answers a prompt.
        temperature: Sequence and response: of the teacher's answers.
        max_tokens (from 1): Sequence and response: longest answer.
        on_policy (float sets objective.on_policy): Token: share of the rows that the student answers.
        verify: Response: how answers are compared, e.g. squad, gsm8k, math.
    """
    how: dict[str, Any] = {"samples": samples, "temperature": temperature, "max_tokens": max_tokens}
    from llmanac.recipes.asked import distilling

    if "objective.on_policy" in changes and level != "token":
        raise SpecError(f"--on-policy: is for --level token, where the teacher scores the student's texts, not {level}")
    fields = distilling(teacher, student, level, adapter, {**how, "verify": verify})
    return _tune(fields, data, output, changes, set_, preview, resume, processes)
