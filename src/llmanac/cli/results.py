"""What a finished run of any form prints: its results as tables, and the next commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmanac.recipes.spec import Run


def print_run(done: Run) -> None:
    """Print the results as tables, and the next commands."""
    forms = {"RecipeSpec": print_pretraining, "RlhfSpec": print_stages, "MultimodalRecipe": print_pictures,
             "SpecializeSpec": print_specialist}  # fmt: skip
    forms.get(type(done.recipe).__name__, print_tuned)(done)
    if (done.folder / "report.html").is_file():
        print(f"report: {done.folder / 'report.html'}")
    commands = done.results["next"]
    print(f"Next: {commands[0]}" if len(commands) == 1 else "\n  ".join(["Next:", *commands]))


def print_pretraining(done: Run) -> None:
    """Bits per byte next to the baselines; what an assistant answers; what a scaling law says of the size."""
    from llmanac.cli.tables import print_section
    from llmanac.recipes.report import measured

    for section in measured(done.results):
        print_section(section)
    if planned := done.results.get("pretrain"):
        from llmanac.lab.scaling.planning import for_a_run

        train, model = planned["train"], done.results["model"]
        read = train["steps"] * train["batch_tokens"]
        if words := for_a_run(done.recipe, done.results["tokens"]["vocabulary"], model["parameters"], read):
            print(words)


def print_tuned(done: Run) -> None:
    """What became of the rows, what was trained, what was measured before and after."""
    from llmanac.cli.tables import print_table
    from llmanac.train._alarms import heard

    found = done.results
    held, log = found["held_out"], done.folder / "rollouts.jsonl"
    moved, total = found["parameters"]["trained"], found["parameters"]["total"]
    rows = [
        *found["rows"].items(),
        ("parameters trained", f"{moved:,} of {total:,} ({moved / total:.2%})"),
        ("steps, tokens", f"{found['steps']:,}, {found['tokens']:,}"),
    ]
    if found["tokens_per_second"]:
        rows.append(("tokens a second", f"{found['tokens_per_second']:,.0f}"))
    if held is not None:
        rows += [(f"before: {held['measures']}", f"{held['before']:.4f}"), ("after", f"{held['after']:.4f}")]
        if change := held["change"]:
            between = f"{change['mean']:+.4f} ({change['low']:+.4f} to {change['high']:+.4f})"
            rows.append(("change, with its 95% interval", between))
        if answers := held.get("answer_loss"):
            rows.append(("loss of the answers, before and after", f"{answers[0]:.4f}, {answers[1]:.4f}"))
    rows += [(f"alarm, {count} {'time' if count == 1 else 'times'}", text) for text, count in heard(log).items()]
    print_table(str(done.folder), ("", ""), rows)


def print_stages(done: Run) -> None:
    """Each policy on the held-out prompts."""
    from llmanac.cli.tables import print_section
    from llmanac.recipes.rlhf_results import policies
    from llmanac.train._alarms import heard

    print_section(policies(done.results))
    for arm in done.results["held_out"]["scores"]:
        for text, count in heard(done.folder / arm / "rollouts.jsonl").items():
            print(f"{arm}: alarm, {count} {'time' if count == 1 else 'times'}: {text}")


def print_pictures(done: Run) -> None:
    """The scores of a run of images by side."""
    from llmanac.cli.tables import print_section
    from llmanac.recipes.multimodal_report import scores

    print_section(scores(done.results), done.results["name"])


def print_specialist(done: Run) -> None:
    """Scores before and after, and whether each export is the tuned model."""
    from llmanac.cli.tables import print_section
    from llmanac.recipes.specialist import sections

    for section in filter(None, sections(done.results)[:2]):
        print_section(section)
