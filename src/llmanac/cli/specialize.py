"""`llmanac specialize`: rows to a served model; `verify`: an exported file against it; `lint`: others' artefacts."""

import json
from pathlib import Path
from typing import Any

from llmanac.cli.documented import Failed
from llmanac.cli.options import AsJson, Patches, SomeModel, stopping


def verify_command(
    tuned: SomeModel, exported: list[str], rows: str | None = None, base: str | None = None, runner: str = "all",
    as_json: AsJson = False, *, changes: dict[str, Any],
) -> None:  # fmt: skip
    """Compare exported files and servers with the tuned model; name why they differ. Exit status 1 where they do.

    Args:
        exported: Folders, .gguf files, or addresses of OpenAI-compatible servers.
        rows: Held-out rows [those of the tuning, else built-in prompts].
        base: The model before the tuning [the one that an adapter names].
        runner ([all|llmanac]): Where .gguf files are asked: here, and in llama.cpp where llama_cpp is installed.
        limit (int sets limit): Held-out prompts that are asked [50].
        length (int sets length): Tokens of an answer [48, or what the longest right one needs].
        identical (float sets identical): Bound: share of identical answers, of 8 bits and more [0.95].
        kl (float sets kl): Bound: KL, nats a token, of 8 bits and more [0.02].
        kl_coarse (float sets kl_coarse): The same, of fewer bits [0.3].
        score (float sets score): Bound: how far the share of right answers may fall [0.02].
    """
    from llmanac.core.errors import SpecError
    from llmanac.core.spec import make
    from llmanac.recipes.verifying import CheckBounds, verify

    if runner not in ("all", "llmanac"):
        raise SpecError(f"--runner: {runner!r} is not one of all, llmanac")
    with_peer, bounds = runner == "all", make(CheckBounds, changes)
    found = verify(tuned, exported, rows=rows, base=base, bounds=bounds, with_llama_cpp=with_peer)
    if as_json:
        print(json.dumps({"tuned": tuned, "exports": [one.as_json() for one in found]}, ensure_ascii=False))
    else:
        _print_verified(tuned, found)
    raise SystemExit(0 if all(one.faithful for one in found) else 1)


def _print_verified(tuned: str, found: list[Any]) -> None:
    from llmanac.cli.tables import print_table
    from llmanac.recipes.verifying.page import HEAD, cells

    print_table(f"compared with {tuned}", HEAD, [cells(one.as_json()) for one in found])
    for one in found:
        where = f"{one.name} ({one.runner})"
        for said in [*(f"{found.cause}: {found.said}" for found in one.findings), *one.beyond]:
            print(f"{where}: {said}.")
    print("All are the tuned model." if all(one.faithful for one in found) else "Not all are the tuned model.")


def lint_command(
    place: str, model: str | None = None, held_out: str | None = None, length: int | None = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Look for silent faults in rows, a model, an adapter or a trainer's checkpoint. Exit status 1 for any.

    Args:
        place: A file of rows (also of input_ids and labels), a model, an adapter, or a checkpoint's folder.
        model: Of rows: who reads them, for templates and lengths; of an adapter: its base.
        held_out: Of rows: a file that must not be among them.
        length (from 1): Of rows: tokens that training keeps [what the model reads].
    """
    from dataclasses import asdict

    from llmanac.recipes.linting import lint

    found = lint(place, model=model, held_out=held_out, length=length)
    if as_json:
        print(json.dumps({"place": place, "found": [asdict(one) for one in found]}, ensure_ascii=False))
    else:
        for one in found:
            print(f"{one.name}: {one.said} [{one.thread}]")
        print(f"{place}: {len(found)} faults." if found else f"{place}: nothing found.")
    raise SystemExit(1 if found else 0)


def specialize_command(
    model: SomeModel, data: str, output: Path = Path("specialist"), auto: bool = False, set_: Patches = None,
    resume: bool = False, *, changes: dict[str, Any],
) -> Any:  # fmt: skip
    """Tune a small model on rows or documents by LoRA, export it to .gguf files, and verify that they are the model.

    Args:
        data: Rows as `llmanac tune` takes them, or a folder of documents.
        output (-o): A new folder, or with --resume the one to go on with.
        auto: Choose rate and rank by a short paired sweep.
        budget (text sets budget): Time to spend, e.g. 20m; 0.6 of it to tune, 0.2 for --auto.
        epochs (float sets epochs): How often each row is read, at most [3].
        lr (float sets train.optimizer.lr): Learning rate [1e-3].
        export (texts sets exports): A type of .gguf file; repeatable [q4_k_m and q8_0].
        test (float sets test): Share of the rows that is asked before and after [0.1].
        questions (int sets questions): Rows that are made of a folder of documents [400].
        seed (int sets seed): Random seed [0].
        resume: Go on with the run in --output.
    """
    from llmanac.cli.results import print_run
    from llmanac.core import spec
    from llmanac.recipes.run import run
    from llmanac.recipes.specialize import SpecializeSpec

    fields = {"model": model, "data": data, "choose": "sweep" if auto else "stated"}
    asked = spec.patch(spec.patch(spec.make(SpecializeSpec, fields), changes), spec.parse_patches(set_ or ()))
    with stopping("the same command and --resume"):
        done = run(asked, folder=output, resume=resume, flag="--output")
    found = print_run(done)
    if not all(one["faithful"] for one in done.results["verified"]):
        raise Failed(found)
    return found
