"""`llmanac list`, `show`, `convert`, `doctor` and `warm-up`."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from llmanac.cli.options import AsJson, IgnoreConfig, SomeModel
from llmanac.core.errors import SpecError

MEANING = {
    "done": "a test against an outside reference, and a page of evidence",
    "reference": "such a test, no page yet",
    "built": "code only",
    "planned": "not built",
}
VERDICTS = {
    "shown": "every part of the claim", "contradicted": "a part of it", "exact": "a formula, or counted",
    "inconclusive": "too few replicates, or an interval that holds both",
}  # fmt: skip


def list_command(kind: str | None = None, as_json: AsJson = False, status: str | None = None) -> None:
    """List every method with its status and what its evidence shows.

    Args:
        kind (argument): Only rows and methods of this kind, e.g. position.
        status: Only done, reference, built or planned.
    """
    from llmanac.core import catalogue, registry
    from llmanac.core.errors import nearest

    entries = catalogue.entries()
    kinds = sorted({e.id.partition("/")[0] for e in entries} | set(registry.KINDS))
    if kind in ("family", "families"):
        from llmanac.models.families import FAMILIES

        print("\n".join([*FAMILIES, "gguf"]))
        print("\nFamilies of checkpoints, read, and written by `llmanac convert --to`; docs/models.md has more.")
        return
    if kind and kind not in kinds:
        raise SpecError(f"no kind named {kind!r}{nearest(kind, kinds)} (known: {', '.join(kinds)})")
    if status and status not in catalogue.STATUSES:
        raise SpecError(f"--status: {status!r} is not one of {', '.join(catalogue.STATUSES)}")
    if kind:
        entries = catalogue.of_kind(kind)
    if status:
        entries = [e for e in entries if e.status == status]
    if as_json:
        print(json.dumps([e.as_json() for e in entries], indent=1))
        return
    width = max((len(e.id) for e in entries), default=0)
    for entry in entries:
        other = f" ({entry.method})" if entry.method not in ("", entry.id) else ""
        print(f"{entry.id:<{width}}  {entry.status:<9}  {entry.verdict.get('verdict', ''):<12}  {entry.title}{other}")
    counts = Counter(word for e in entries for word in (e.status, e.verdict.get("verdict")) if word)
    print(
        f"\n{len(entries)} entries: "
        + ", ".join(f"{counts[s]} {s} ({what})" for s, what in MEANING.items() if counts[s])
    )
    if found := [f"{counts[v]} {v} ({what})" for v, what in VERDICTS.items() if counts[v]]:
        print("What their evidence shows: " + ", ".join(found))
    if entries:
        example = next((e.id for e in entries if e.status != "planned"), entries[0].id)
        print(f"Next: llmanac show {example}")


def show_command(name: str) -> Any:
    """Show one method: what it is, its fields, its reference test and its measured effect.

    Args:
        name: kind/name, as `llmanac list` prints it, or a name alone.
    """
    from llmanac.core import catalogue
    from llmanac.core.describe import describe
    from llmanac.lab.axis import AS_THEY_ARE

    found = catalogue.named(name)
    if len(found) == 1:
        print(describe(found[0].id, AS_THEY_ARE))
        return found[0].as_json()
    width = max(len(e.id) for e in found)
    print("\n".join(f"{e.id:<{width}}  {e.title}" for e in found))
    print(f"Next: llmanac show {found[0].id}")
    return [one.as_json() for one in found]


def convert_command(
    source: SomeModel, target: Path, family: str | None = None, kind: str | None = None,
    calibration: str | None = None, ignore: IgnoreConfig = None,
) -> Any:  # fmt: skip
    """Write a model and its tokenizer in the layout of a Hugging Face family, or as a GGUF file.

    Args:
        target: Output folder, or a .gguf file; it must not exist.
        family (--to, --family): gguf, or a Hugging Face family such as gpt2; `llmanac list family` names them
            [the source's own; llama where it has none].
        kind (--type): Weights of a .gguf file: f32, f16, bf16, q8_0, q6_k, q5_k_m, q4_k_m, q4_1 or q4_0 [f16].
        calibration: A file of text that a .gguf file weighs rounding errors on.
    """
    from llmanac.cli.quantize import stored
    from llmanac.cli.score import texts_of
    from llmanac.core.types import capabilities
    from llmanac.recipes.specialize import convert

    family = family or ("gguf" if target.suffix == ".gguf" else None)
    for flag, value in (("--type", kind), ("--calibration", calibration)):
        if value is not None and family != "gguf":
            raise SpecError(f"{flag}: is for a .gguf file")
    if calibration is not None and (kind or "f16") in ("f16", "bf16", "f32"):
        raise SpecError(
            f"--calibration: {kind or 'f16'} rounds each number by itself; leave it out, or give --type q4_k_m"
        )
    texts = None if calibration is None else list(texts_of((), calibration, "text"))
    model = convert(source, target, family, kind or "f16", ignore or (), texts)
    family = family or model.family or "llama"
    form = f"{family} layout" if family != "gguf" else stored(target, kind or "f16")
    print(f"{target}: {form}, {model.parameter_count():,} parameters")
    if capabilities(model).writes:
        reader = "llama.cpp" if family == "gguf" else "transformers.AutoModelForCausalLM.from_pretrained"
        print(f"Next: llmanac generate {target} --prompt 'Once'   (or {reader})")
    else:
        print(f"Next: llmanac embed {target} --text 'Once'   (or transformers.AutoModel.from_pretrained)")
    return {"path": target, "form": form, "parameters": model.parameter_count()}


def doctor_command(as_json: AsJson = False) -> None:
    """Report versions, cores, instruction sets, measured speed, and what is missing."""
    from llmanac.lab.words import plural
    from llmanac.recipes.doctor import examine

    found = examine()
    if as_json:
        print(json.dumps(found, indent=1))
        return
    machine = found["machine"]
    lines = {
        "llmanac": f"{found['versions']['llmanac']} on Python {machine['python']}, {machine['system']}",
        "packages": ", ".join(f"{k} {v}" for k, v in found["versions"].items() if v and k != "llmanac"),
        "processor": f"{machine['cpu']}, {plural(machine['cores'], 'core')}, "
        f"{plural(machine['threads'], 'thread')}, {machine['isa']}",
        "text": f"{plural(found['text']['threads'], 'thread')}, {found['text']['vector_bits']}-bit vectors, "
        f"compiled code in {found['text']['compiled_code']}",
        "compiler": found["cxx_compiler"] or "none",
        "sandbox": found["sandbox"],
        "disk free": f"{found['disk_free_bytes'] / 1e9:.1f} GB",
    }
    if "device" in found:
        lines |= {
            "gpu": machine["gpu"] or "none",
            "will use": f"{found['device']}, {found['dtype']}",
            "matrix products": ", ".join(f"{k} {v / 1e9:.0f} GFLOP/s" for k, v in found["gemm_flops"].items()),
            "memory reads": f"{found['read_bytes_per_second'] / 1e9:.1f} GB/s",
        }
    width = max(map(len, lines))
    for name, value in lines.items():
        print(f"{name:<{width}}  {value}")
    for one in found["missing"]:
        print(f"missing for {one['use']}: {', '.join(one['packages'])}   ({one['install']})")
    for note in found["notes"]:
        print(f"note: {note}")
    # without torch nothing is trained
    print(f"Next: llmanac {'run quickstart --budget 60s' if 'device' in found else 'ask FOLDER QUESTION'}")


def warm_up_command(uses: list[str] | None = None) -> list[dict[str, Any]]:
    """Compile ahead what the first use of a command compiles, once for this machine.

    Args:
        uses (argument, USE...): text, generate (also for chat, serve, ask), documents, ngrams, training [these, but
            training only with torch]; tokenizers, files, models (all methods and kinds).
    """
    from llmanac.recipes.warm_up import warm_up

    found = []
    for one in warm_up(uses or ()):
        found.append({"use": one.use, "kernels": list(one.kernels), "seconds": round(one.seconds, 1)})
        print(f"{one.use:10} {one.seconds:5.1f} s  {', '.join(one.kernels) or 'all kept'}", flush=True)
    print("Next: llmanac chat FILE.gguf")
    return found
