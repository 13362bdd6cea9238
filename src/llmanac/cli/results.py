"""What a finished run of any form prints: its results as tables, and the next commands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmanac.recipes.finished import Run


def print_run(done: Run) -> dict[str, Any]:
    """Print the results as tables, and the next commands; the results."""
    from llmanac.cli.tables import print_section
    from llmanac.recipes.finished import sections

    for section in sections(done):
        print_section(section)
    if planned := done.results.get("pretrain"):
        from llmanac.lab.scaling.planning import for_a_run

        train, model = planned["train"], done.results["model"]
        read = train["steps"] * train["batch_tokens"]
        if words := for_a_run(done.recipe, done.results["tokens"]["vocabulary"], model["parameters"], read):
            print(words)
    if (done.folder / "report.html").is_file():
        print(f"report: {done.folder / 'report.html'}")
    commands = done.results["next"]
    print(f"Next: {commands[0]}" if len(commands) == 1 else "\n  ".join(["Next:", *commands]))
    return {"folder": done.folder, **done.results}
