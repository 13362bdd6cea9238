"""`llmanac act`: a model in a text environment, by tool calls; episodes are kept and can be replayed."""

import json
import shlex
from pathlib import Path
from typing import Any

from llmanac.cli.options import Seed, SomeModel, SomeRunner
from llmanac.core.errors import SpecError


def act_command(
    model: SomeModel, environment: str, episodes: int = 20, temperature: float = 1.0, free: bool = False,
    output: Path | None = None, replay_: Path | None = None, seed: Seed = 0, runner: SomeRunner = "auto",
) -> Any:  # fmt: skip
    """Play episodes of an environment by tool calls; the return of each is that of its replay.

    Args:
        environment (--environment): `llmanac list environment` names them; or FILE.py:Class.
        episodes (from 1): How many.
        temperature (from 0.0): Of the calls; 0 takes the most probable.
        free: Do not constrain what is written to calls of the tools.
        output (-o): A .jsonl file: an episode a row.
        replay_: Replay the episodes of such a file instead.
    """
    from llmanac.act import load_environment
    from llmanac.act.episodes import RandomPolicy, Success, play, replay
    from llmanac.act.training import ModelPolicy
    from llmanac.cli.tables import print_table
    from llmanac.core.outputs import check_output
    from llmanac.generate.load import load_writer

    world = load_environment(environment)
    if replay_ is not None:
        return _replay(world, replay_, environment)
    if output is not None and output.suffix != ".jsonl":
        raise SpecError(f"--output: {output} must end in .jsonl")
    if output is not None:
        check_output(output, "--output", [], force=True)
    policies = {"model": ModelPolicy(
        load_writer(model, runner=runner), world.tools, temperature=temperature, constrained=not free
    )}  # fmt: skip
    found = play(world, policies["model"], range(seed, seed + episodes), seed=seed)
    for episode in found:
        replay(world, episode)
    rows = [("model", found)]
    try:
        rows.append(("random calls", play(world, RandomPolicy(world.tools), range(seed, seed + 500), seed=seed)))
    except SpecError as error:
        print(f"note: no random policy ({error})")
    table, data = [], {}
    for name, played in rows:
        success = Success.of(played)
        low, high = success.interval
        mean = sum(episode.value for episode in played) / len(played)
        calls = sum(len(episode.rewards) for episode in played) / len(played)
        share = f"{success.share:.1%}"
        data[name] = {"episodes": success.total, "success": success.share, "interval": success.interval,
                      "return": mean, "calls": calls}  # fmt: skip
        table.append((name, f"{success.total}", share, f"{low:.1%} to {high:.1%}", f"{mean:.3f}", f"{calls:.1f}"))
    print_table(environment, ("policy", "episodes", "success", "95% interval", "mean return", "calls"), table)
    print(f"{len(found)} episodes replayed: every return is the same.")
    if output is None:
        print(f"Next: llmanac act {shlex.join([model, '--environment', environment])} -o episodes.jsonl")
        return data
    from llmanac.core import files

    with files.atomic_file(output) as handle:
        for episode in found:
            handle.write((json.dumps(episode.as_json(), ensure_ascii=False) + "\n").encode())
    again = shlex.join([model, "--environment", environment, "--replay", str(output)])
    print(f"Next: llmanac act {again}")
    return data


def _replay(world: object, path: Path, environment: str) -> dict[str, float]:
    """Replay the episodes of a file and say their returns."""
    from llmanac.act.episodes import Episode, replay
    from llmanac.core.errors import DataError
    from llmanac.core.files import read_text

    total, count = 0.0, 0
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            episode = Episode.from_json(json.loads(line))
        except ValueError as error:
            raise DataError(f"{path}:{number}: {error}") from None
        except DataError as error:
            raise DataError(f"{path}:{number}: {error}") from None
        total += replay(world, episode)  # type: ignore[arg-type]
        count += 1
    print(f"{count} episodes of {environment} replayed: every return is the same, {total:g} in all.")
    print(f"Next: llmanac list environment   (replayed: {path})")
    return {"episodes": count, "return": total}
