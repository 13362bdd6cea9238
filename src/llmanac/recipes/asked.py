"""The recipe of a tuning or an alignment from what a command line or Python names."""

from collections.abc import Mapping
from typing import Any

from llmanac.core import spec
from llmanac.core.errors import SpecError

LEVELS = {"token": "token-distillation", "feature": "feature-distillation", "sequence": "chat", "response": "chat"}


def asked_with(kind: Any, fields: Mapping[str, Any], data: str, *changes: Mapping[str, Any]) -> Any:
    """A recipe of a kind: the method's fields and its rows, then patches by path in their order.

    Args:
        fields: of the recipe; the adapter "full" trains the model's own weights.
        data: the file of rows.

    Raises:
        SpecError: a field or a value that the recipe does not have.
    """
    adapter = None if fields["adapter"] == "full" else fields["adapter"]
    asked = spec.make(kind, {**fields, "adapter": adapter, "rows": {"file": data}})
    for change in changes:
        asked = spec.patch(asked, change)
    return asked


def distilling(teacher: str, student: str, level: str, adapter: str, answers: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a distillation.

    Args:
        level: token or feature (the teacher reads the rows), sequence or response (it answers them first).
        answers: how it answers: samples, temperature, max_tokens, and for response what verifies them.

    Raises:
        SpecError: a level that is not known.
    """
    if level not in LEVELS:
        raise SpecError(f"--level: {level!r} is not one of {', '.join(LEVELS)}")
    fields = {"model": student, "adapter": adapter, "objective": LEVELS[level]}
    if level not in ("sequence", "response"):
        return {**fields, "teacher": teacher}
    own = {name: value for name, value in answers.items() if name != "verify" or level == "response"}
    return {**fields, "answers": {"model": teacher, **own}}
