"""Packages that are called: `llmanac.evaluate(...)` is the function of `api`, `llmanac.evaluate.x` a module."""

import sys
from types import ModuleType
from typing import Any


class CallableModule(ModuleType):
    """See the module."""

    def __call__(self, *given: Any, **options: Any) -> Any:
        from llmanac import api

        return getattr(api, self.__name__.rpartition(".")[2])(*given, **options)


def called(name: str) -> None:
    """Let the package of this name, which is being imported, be called."""
    sys.modules[name].__class__ = CallableModule
