"""`torch.compiler.disable` for programs that compile nothing: it imports the compiler, which takes over a second."""

import contextlib
import functools
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import torch

F = TypeVar("F", bound=Callable[..., Any])


def uncompiled(function: F) -> F:
    """The function, at which torch.compile breaks its graph and which runs as it is, with all that it calls."""
    made: list[Any] = []

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if "torch._dynamo" not in sys.modules:
            return function(*args, **kwargs)
        if not made:
            with contextlib.suppress(AttributeError):  # this frame itself is not compiled either
                torch._dynamo.decorators.skip(call)
            made.append(torch.compiler.disable(function))
        return made[0](*args, **kwargs)

    call._torchdynamo_disable = True  # type: ignore[attr-defined]  # it is not traced as a part of its caller
    return call  # type: ignore[return-value]
