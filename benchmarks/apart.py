"""Something measured in a process of its own, where nothing else has touched the memory."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def apart(what: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """What a function of a module returns or raises there.

    Raises:
        BrokenProcessPool: the process was killed, for want of memory, say.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(what, *args, **kwargs).result()
