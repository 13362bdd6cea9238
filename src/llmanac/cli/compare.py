"""`llmanac compare`: run a study and print it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmanac.cli.documented import Failed
from llmanac.cli.options import Patches, stopping
from llmanac.core.errors import SpecError
from llmanac.rewards import read_rewards

if TYPE_CHECKING:
    from rich.console import Console


def compare_command(
    kind: str, arms: str | None = None, reward: list[str] | None = None, set_: Patches = None, *,
    changes: dict[str, Any],
) -> Any:  # fmt: skip
    """Compare methods at equal budget over paired seeds, with intervals and verdicts.

    Args:
        kind: The kind to vary (position, ffn, ...), or the path of a study.toml.
        arms: Comma-separated methods, e.g. rope,learned,none.
        budget (text sets budget): Total time, e.g. 5m [5m].
        seeds (text sets seeds): Paired seeds, at least 5 for a verdict; auto adds them until there is one [5].
        hold (text sets hold): What to hold equal: params, flops, tokens or time.
        tune (text sets tune): Same sweep for every arm, e.g. lr=3.
        margin (float sets margin): Relative margin of equivalence [0.01].
        baseline (text sets baseline): Arm that the others are compared with [the first].
        base (text sets base): Recipe that all arms start from.
        artefact (text sets artefact): Run, model or folder of documents that arms are applied to, or align.
        probe (text sets probe): Labelled texts to probe different objectives with.
        on (text sets on): Questions of retrievers, labelled texts of classifiers, text of tokenizers.
        data (text sets data): Rows that objectives align --artefact on, or classifiers learn from.
        reward: exact-match, FILE.py:function, a reward model's folder, ...; repeatable, with =WEIGHT.
        judge (text sets judge): Model that scores what they write [a 5-gram].
        folder (file sets folder): Output folder [studies/<name>].
    """
    from llmanac.core.spec import parse_patches
    from llmanac.lab.compare import compare, run_study, studies

    patches = parse_patches(set_ or ())
    rewards = read_rewards(reward)
    changes |= {} if rewards is None else {"reward": rewards}
    with stopping(kept="every finished run is kept"):
        if kind in studies() or kind.endswith(".toml"):
            done = run_study(kind, arms=arms, patches=patches, **changes)
        elif arms is None:
            known = ", ".join(studies())
            raise SpecError(f"--arms: name the methods, for example --arms rope,learned; or run a study: {known}")
        else:
            done = compare(kind, arms, patches=patches, **changes)
    print_study(done)
    found = {**done.data, "page": done.page}
    if done.data.get("baseline") in done.data.get("failed", ()):
        raise Failed(found)  # the summary says that nothing can be compared
    return found


def print_study(done: Any, console: Console | None = None) -> None:
    """Print the verdicts, the costs, warnings and the path of the page."""
    from llmanac.cli import tables
    from llmanac.lab import report, words

    console = console or tables.console()
    result = done.data
    metric = words.primary(result)
    title = f"{words.label(metric)} ({metric['better']} is better), {words.held_words(result)}"
    tables.print_page_table(report.verdict_table(result, metric), title, console)
    if further := report.further_table(result):
        tables.print_page_table(further, "also measured, means", console)
    for arm, text in result.get("shown", {}).items():
        if "\n" not in text:  # else on the page alone
            console.print(f"{arm}: {text}", markup=False)
    tables.print_page_table(report.cost_table(result), "costs, means over the runs", console)
    for note in filter(None, [*words.warnings(result), words.worse_than_uniform(result), words.adjusted(result)]):
        console.print(f"note: {note}", markup=False)
    console.print(words.summary(result), markup=False)
    for line in words.transfer(result["kind"]):
        console.print(line, markup=False)
    console.print(f"page: {done.page}", markup=False)
