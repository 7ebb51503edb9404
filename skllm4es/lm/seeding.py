"""Reproducible draws from the global random states of torch and others, without disturbing them for the caller.

These states, the log level of transformers and the singletons of accelerate belong to the process, so threads that
change them take turns: each gets what it would get alone, and the process is left as it was.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

#: Held by whoever changes what belongs to the process.
PROCESS_STATE = threading.RLock()


@contextmanager
def isolated_seed(seed: int) -> Iterator[None]:
    """Seed the global random states that transformers draws from, and restore them afterwards."""
    with PROCESS_STATE:
        yield from _isolated_seed(seed)


def _isolated_seed(seed: int) -> Iterator[None]:
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    # A process that was forked from one that used a GPU cannot use it, and torch.manual_seed leaves it alone as well.
    has_gpu = torch.cuda.is_available() and not torch.cuda._is_in_bad_fork()
    cuda_states = torch.cuda.get_rng_state_all() if has_gpu else []
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
        if cuda_states:
            torch.cuda.set_rng_state_all(cuda_states)
