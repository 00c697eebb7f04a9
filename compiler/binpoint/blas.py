"""one_thread(): sums of floats in one order, however many cores the machine has.

A linear algebra library with more threads adds matrix products in other parts. Ranges and errors
of a float model would differ in the last place, and with them a choice here and there.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from threadpoolctl import threadpool_limits

P = ParamSpec("P")
R = TypeVar("R")


def one_thread(function: Callable[P, R]) -> Callable[P, R]:
    """The function, run with one thread of the linear algebra library; the caller's come back."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with threadpool_limits(limits=1, user_api="blas"):
            return function(*args, **kwargs)

    return run
