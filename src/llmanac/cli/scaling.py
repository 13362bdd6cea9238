"""`llmanac scaling`: fit a law to runs of several sizes, and plan the next one with it."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from llmanac.cli.options import AsJson, Force, Patches, Seed, group
from llmanac.core.errors import SpecError
from llmanac.core.outputs import check_output

app = group("Scaling laws: fit them to runs, and choose size and tokens for a budget.")
YEAR = 365.25 * 86400
Count = Annotated[str, typer.Option(metavar="[total|non-embedding]", help="Which parameters N counts.")]


@app.command("fit")
def fit_command(
    runs: Path, count: Count = "total", drop_highest: int = 0, samples: int = 1000, seed: Seed = 0,
    output: Path | None = None, force: Force = False, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Fit L(N, D) = E + A / N^alpha + B / D^beta to finished runs, with intervals and the best size by compute.

    Args:
        runs: A .csv, .tsv or .jsonl: parameters, tokens (or flops), loss.
        drop_highest (from 0): Leave out this many of the highest losses.
        samples (20 to 10000): Resamples for the intervals.
        output (-o): JSON of the fit, for scaling plan.
    """
    from llmanac.core import files
    from llmanac.lab.scaling.law import FEWEST, NAMES, fit_law
    from llmanac.lab.scaling.optimum import approaches, compute_laws, read_points

    _check_output(output, force)
    points = read_points(runs, _counted(count)).without_highest(drop_highest)
    fit = fit_law(points.parameters, points.tokens, points.loss, counted=points.counted, samples=samples, seed=seed)
    optima, (with_floor, without) = approaches(points, fit), compute_laws(points)
    if output is not None:
        files.write_json(output, {**fit.as_json(), "largest": float(points.flops.max())})
    if as_json:
        document: dict[str, Any] = {k: v for k, v in fit.as_json().items() if k not in ("samples", "residuals")}
        document["best size"] = [vars(one) for one in optima]
        document["compute"] = {
            "with floor": with_floor and vars(with_floor), "without floor": without and vars(without),
            "of the law": fit.law.compute_exponent,
        }  # fmt: skip
        print(json.dumps(document, indent=1))
        return
    from llmanac.cli.tables import print_table

    rows = []
    for name in NAMES:
        interval, error = fit.interval(lambda law, n=name: getattr(law, n)), fit.error(name)
        sure = ["", ""]
        if interval is not None and error is not None:
            sure = [f"{_short(interval[0])} to {_short(interval[1])}", _short(error)]
        rows.append([name, _short(getattr(fit.law, name)), *sure])
    skipped = f", {points.skipped} without a loss left out" if points.skipped else ""
    print(f"L = E + A / N^alpha + B / D^beta, {fit.points} runs{skipped}; N counts {_words(fit.counted)}")
    print_table("", ("", "value", "95% interval", "standard error"), rows)
    if fit.points < FEWEST:
        print(f"no intervals: {fit.points} runs say too little of how sure they are; give at least {FEWEST}")
    print(f"objective (Huber 1e-3 of log loss): {fit.objective:.5e}\n")
    print_table(
        "best size: N grows as C^a, tokens as C^(1 - a)", ("approach", "a", "95% interval", "points", ""),
        [
            [one.approach, "" if one.exponent is None else f"{one.exponent:.3f}",
             "" if one.low is None or one.high is None else f"{one.low:.3f} to {one.high:.3f}", str(one.found), one.why]
            for one in optima
        ], left=(0, 4),
    )  # fmt: skip
    print("\nalpha of L = E + K / C^alpha over the runs that are best for their compute:")
    for words, law in (("with the floor E", with_floor), ("without it", without)):
        found = "too few runs" if law is None else f"{law.alpha:.4f}" + (f" (E {law.E:.3f})" if law.E else "")
        print(f"  {words:<17} {found}")
    print(f"  {'of the law above':<17} {fit.law.compute_exponent:.4f}; Kaplan et al. 2020 give 0.050 without a floor")
    print(f"Next: llmanac scaling plan --budget 1e15 --fit {output or 'fit.json'}" + ("" if output else
          f"   (after llmanac scaling fit {runs} --output fit.json)"))  # fmt: skip


@app.command("compute")
def compute_command(
    names: list[str] | None = None, dim: int = 64, length: int = 128, vocabulary: int = 512, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Count the FLOPs of training on a token, and how far 6 N is from them.

    Args:
        names (argument): Models, mixers or ffns, such as mamba [all].
        dim (8 to 4096): Width.
        length (8 to 65536): Tokens of a row.
        vocabulary (16 to 1048576): Tokens of the vocabulary.
    """
    from llmanac.lab.scaling.compute import APART, compare

    found = compare(names or (), dim=dim, length=length, vocabulary=vocabulary)
    if as_json:
        print(json.dumps([{**vars(one), "error": one.error, "stated": one.stated} for one in found], indent=1))
        return
    from llmanac.cli.tables import print_table

    print("FLOPs of training on a token: counted matrix products, and the error of 6 N (all parameters)")
    rows = [
        [one.name, f"{one.parameters:,}", f"{one.counted:,.0f}", f"{one.formula / one.counted - 1:+.1%}",
         f"{one.error:+.1%}", f"{one.stated:+.1%}"] for one in found
    ]  # fmt: skip
    print_table("", ("", "N", "counted", "formula", "6 N", "6 N, stated"), rows)
    for one in found:
        if reason := APART.get(one.name.partition("{")[0]):
            print(f"{one.name}: {reason}")
    print("Next: llmanac scaling plan --budget 1e15")


@app.command("run")
def run_command(
    recipe: str | None = None, budget: str = "40m", folder: Path = Path( "scaling/ladder" ), set_: Patches = None,
) -> Any:  # fmt: skip
    """Train a ladder of small models, fit the law, and test its prediction on a larger run.

    Args:
        recipe (argument): Recipe [a small model on the documentation of Python].
        budget: Time for all runs, e.g. 40m.
        folder: Where everything goes; a ladder that is there is continued.
    """
    from llmanac.cli.tables import print_table
    from llmanac.core.ranges import seconds
    from llmanac.core.spec import parse_patches
    from llmanac.lab.compare import BASE
    from llmanac.lab.scaling.ladder import FIT, RUNS, run_ladder
    from llmanac.recipes.spec import load_recipe

    resolved = load_recipe(recipe or BASE, parse_patches(set_ or ())).spec
    result = run_ladder(resolved, folder, seconds(budget, "--budget"))
    rows = [
        [row["name"], f"{row['parameters']:,}", f"{row['tokens']:,}", f"{row['epochs']:.1f}", f"{row['loss']:.4f}"]
        for row in result["runs"]
    ]
    print_table("", ("width x layers - steps", "N", "tokens", "epochs", "loss"), rows)
    print(f"runs: {folder / RUNS}")
    print(f"Next: llmanac scaling fit {folder / RUNS}, or llmanac scaling plan --budget 2h --fit {folder / FIT}")
    return result


@app.command("plan")
def plan_command(
    budget: str, fit: Path | None = None, recipe: str | None = None, tokens_per_parameter: float = 20.0,
    set_: Patches = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Propose size, tokens, batch and learning rate for a budget.

    Args:
        budget (--budget): A time here (90s, 2h) or FLOPs (1e15).
        fit: JSON of scaling fit or scaling run [20 tokens a parameter].
        recipe (--base): Recipe whose size is chosen [a small model].
        tokens_per_parameter (0.01 to 1000000.0): Without a fit.
    """
    from llmanac.core.files import read_table
    from llmanac.core.spec import parse_patches
    from llmanac.lab.budget import format_duration
    from llmanac.lab.compare import BASE
    from llmanac.lab.scaling.law import Fit
    from llmanac.lab.scaling.planning import propose
    from llmanac.recipes.spec import load_recipe

    flops, time = _budget(budget)
    data = None if fit is None else read_table(fit)
    law = None if data is None else Fit.from_json(data, str(fit))
    largest = None if data is None or not isinstance(data.get("largest"), float) else data["largest"]
    spec = load_recipe(recipe or BASE, parse_patches(set_ or ())).spec
    vocabulary = spec.tokenizer.vocab_size or 1024
    found = propose(
        spec, vocabulary, flops=flops, seconds=time, fit=law, tokens_per_parameter=tokens_per_parameter, largest=largest
    )
    if as_json:
        print(json.dumps({**vars(found), "seconds": found.seconds}, indent=1))
        return
    from llmanac.cli.tables import print_table

    patches = found.patches
    moved = patches.get("train.optimizer.base_dim")
    took = format_duration(found.seconds) if found.seconds < YEAR else f"{found.seconds / YEAR:,.0f} years"
    carried = f"at width {moved}, carried by base_dim" if moved else "of the recipe, for its own width"
    rows = [
        ["compute", f"{found.flops:.3g} FLOPs", f"{took} at {found.rate / 1e9:,.1f} GFLOP/s"],
        ["best size", f"{found.best_parameters:,.0f}", "" if found.size_interval is None else
         f"95% {found.size_interval[0]:,.0f} to {found.size_interval[1]:,.0f}; N counts {_words(found.counted)}"],
        ["best tokens", f"{found.best_tokens:,.0f}", f"{found.best_tokens / found.best_parameters:.1f} a parameter"],
        ["model", f"{found.parameters:,}",
         f"width {patches['model.dim']}, {patches['model.layers']} layers{_off(found)}"],
        ["tokens", f"{found.tokens:,}", f"{patches['train.steps']:,} steps of {patches['train.batch_tokens']:,}"],
        ["learning rate", f"{patches['train.optimizer.lr']:g}", f"{spec.train.optimizer.name}, {carried}"],
    ]  # fmt: skip
    if found.loss is not None:
        value, interval = found.loss
        sure = "" if interval is None else f"95% {interval[0]:.4f} to {interval[1]:.4f} "
        rows.append(["loss", f"{value:.4f}", f"{sure}nats a token"])
    print_table("", ("", "", ""), rows, left=(0, 2))
    if found.beyond is not None and found.beyond > 10:
        print(f"note: {found.beyond:,.0f} times the compute of the largest run that was fitted: an extrapolation")
    if law is None:
        print(
            f"note: {tokens_per_parameter:g} tokens a parameter are assumed; `llmanac scaling run` measures a law here"
        )
    flags = " ".join(f"-s {path}={value}" for path, value in patches.items())
    print(f"Next: llmanac run {recipe or 'YOUR_RECIPE'} {flags}")


def _off(found: Any) -> str:
    """What the nearest size that can be built costs."""
    if abs(found.off - 1) < 0.02:
        return ""
    cost = "" if found.excess is None else f", {found.excess:+.4f} nats a token by the fit"
    return f"; {found.off:.2f} times the best size{cost}"


def _budget(text: str) -> tuple[float | None, float | None]:
    """FLOPs, or seconds."""
    from llmanac.core.ranges import seconds

    try:
        flops = float(text)
    except ValueError:
        return None, seconds(text, "--budget")
    if not 1e6 <= flops <= 1e30:
        raise SpecError(f"--budget: {text!r} is neither a time (90s, 2h) nor a compute from 1e6 to 1e30 FLOPs (1e15)")
    return flops, None


def _counted(text: str) -> Any:
    if text not in ("total", "non-embedding"):
        raise SpecError(f"--count: {text!r} is not one of total, non-embedding")
    return text


def _words(counted: str) -> str:
    return "every parameter" if counted == "total" else "parameters outside embeddings"


def _check_output(output: Path | None, force: bool) -> None:
    if output is None:
        return
    if output.suffix != ".json":
        raise SpecError(f"--output: {output} should end in .json")
    check_output(output, "--output", force=force)


def _short(value: float) -> str:
    return f"{value:,.4f}" if abs(value) < 10 else f"{value:,.4g}"
