"""Other processes for tests, forked from one that has imported once what takes seconds.

A new Python that imports torch and transformers and begins to train takes six seconds of CPU time; one that is forked
takes a fraction of one. Functions and their arguments are pickled, so a function lies at the top level of its module.
"""

import multiprocessing
import os
import signal
from concurrent.futures import ProcessPoolExecutor

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["pytest", "lightgbm", "peft", "sklearn.frozen", "transformers.models.llama.modeling_llama", "skllm4es.lm.training"]
)


def start(function, *arguments):
    """Start a process that calls a function."""
    process = CONTEXT.Process(target=function, args=arguments, daemon=True)
    process.start()
    return process


def call(function, *arguments):
    """Return what a function returns in another process, or raise what it raises."""
    with ProcessPoolExecutor(1, mp_context=CONTEXT) as pool:
        return pool.submit(function, *arguments).result(300)


def die(*args):
    """End this process at once, like a power failure."""
    os.kill(os.getpid(), signal.SIGKILL)


def assert_killed(process):
    process.join(300)
    assert process.exitcode == -signal.SIGKILL
