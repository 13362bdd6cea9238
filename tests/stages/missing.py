"""A stage for tests that lacks a library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmanac.core.errors import DataError
from llmanac.data.stages import Stage, StageSpec


@dataclass(frozen=True, kw_only=True)
class Spec(StageSpec):
    def build(self, **dims: Any) -> Stage:
        raise DataError("nobody is not installed; install it")
