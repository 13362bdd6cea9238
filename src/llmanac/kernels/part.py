"""Parts of kernels, which only compiled code calls: optimised with the kernel that calls them, and not alone too.

numba makes machine code of each function that a kernel calls and then throws it away, since the kernel has copies: of a
kernel of many parts that is a third of the time.
"""

# mypy: disable-error-code="assignment, call-overload, method-assign, misc"
# (of numba's own types)

from collections.abc import Callable
from functools import partial
from typing import Any

import numba
from numba import njit, types
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler


class _Code(JITCodeLibrary):
    """LLVM's code of one part, for linking only."""

    def _optimize_final_module(self) -> None:
        """Left to the kernel's own."""

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        self._ensure_finalized()
        return 0  # as numba says of a function without an entry

    @property
    def codegen(self) -> Any:
        return self  # asked for `set_env` only

    def set_env(self, name: str, env: Any) -> None:
        """Nothing to set: parts that are read from the disk have no environment either."""


class _Part(Compiler):
    def compile_extra(self, func: Callable[..., Any]) -> Any:
        self.state.library = _Code(self.state.targetctx.codegen(), func.__qualname__)
        return super().compile_extra(func)


def _widened(kind: Any) -> Any:
    kind = types.unliteral(kind)
    return types.int64 if kind == types.int32 else kind


def widened(function: Any) -> Any:
    """The same dispatcher, which compiles one form for int32, int64 and each constant, which LLVM puts in anyway."""
    if isinstance(function, numba.core.dispatcher.Dispatcher):  # not where numba is switched off
        compile = function.compile
        function.compile = lambda of: compile(tuple(map(_widened, of)) if isinstance(of, tuple) else of)
    return function


def inner(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """`njit` for a part of kernels: no entries from Python and C, one form for constants, int32 and int64.

    Args:
        options: of numba's njit, such as `forceinline`.
    """
    if function is None:
        return partial(inner, **options)
    return widened(njit(pipeline_class=_Part, no_cpython_wrapper=True, no_cfunc_wrapper=True, **options)(function))
