"""The command that repeats a study, as its page prints it.

It has every argument that affects the numbers, so not the study's folder and not the cache. What the command line
cannot express (custom labels, a base that is data) becomes a call in Python.
"""

import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmanac.core.errors import SpecError
from llmanac.core.spec import Spec, dump
from llmanac.lab.arms import ArmText, parse_arms

FLAGS = (  # those of `llmanac compare`
    "baseline", "budget", "seeds", "hold", "tune", "margin", "base", "artefact", "probe", "judge", "on", "data",
    "reward",
)  # fmt: skip


COMPARE, RUN_STUDY = "from llmanac import compare; compare", "from llmanac.lab.compare import run_study; run_study"


def asked_again(
    what: str, arms: Any, patches: Mapping[str, Any], options: Mapping[str, Any], python: str = COMPARE
) -> str:
    """The command for one call of `compare`, or of `run_study`.

    Args:
        what: the kind, or a study in TOML by its file or its name.
        arms: as they were given; None for those of the study.
        options: every further argument that decides the numbers and is not its default.
        python: the function, for what the command line cannot say.
    """
    try:
        return _on_the_command_line(what, arms_text(parse_arms(arms)) if arms else None, patches, options)
    except SpecError:
        named = ({"arms": arms} if arms else {}) | dict(options) | ({"patches": dict(patches)} if patches else {})
        inside = ", ".join([repr(what), *(f"{name}={plain(value)!r}" for name, value in named.items())])
        inside = inside if '"' in inside else inside.replace("'", '"')  # the shell's quotes are single ones
        return shlex.join(["python", "-c", f"{python}({inside})"])


def _on_the_command_line(what: str, arms: str | None, patches: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    words = ["llmanac", "compare", what]
    if arms is not None:
        words += ["--arms", arms]
    for name in sorted(options, key=lambda n: FLAGS.index(n) if n in FLAGS else len(FLAGS)):
        value = options[name]
        if name not in FLAGS or not isinstance(value, (str, int, float, Path)):
            raise SpecError(f"{name}: the command line cannot say {value!r}")
        words += [f"--{name}", str(value)]
    for path, value in patches.items():
        words += ["-s", f"{path}={toml_value(value)}"]
    return shlex.join(words)


def arms_text(arms: list[ArmText]) -> str:
    """The arms as `--arms` takes them.

    Raises:
        SpecError: `--arms` cannot say them: labels of one's own, or patches.
    """
    said = ",".join(
        arm.name + ("{" + ",".join(f"{k}={toml_value(v)}" for k, v in arm.fields) + "}" if arm.fields else "")
        for arm in arms
    )
    if parse_arms(said) != arms:
        raise SpecError(f"--arms {said!r}: says something else")
    return said


def toml_value(value: Any) -> str:
    """A value as TOML on one line; a plain word goes without quotes, as people write it.

    Raises:
        SpecError: a value that TOML has no word for.
    """
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z][\w-]*", value):
        return value if value not in ("true", "false", "inf", "nan") else json.dumps(value)
    return _inline(plain(value))


def _inline(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(k))} = {_inline(v)}" for k, v in value.items()) + "}"
    raise SpecError(f"{value!r} cannot be written as TOML")


def plain(value: Any) -> Any:
    """Lists, dictionaries, texts and numbers only."""
    if isinstance(value, Spec):
        return plain(dump(value))
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value
