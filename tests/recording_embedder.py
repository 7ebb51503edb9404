"""An embedder that writes down the process whenever a language model is loaded, a line of the file that LOADS names."""

import os
from pathlib import Path

from skllm4es import LLMEmbedder
from skllm4es.lm import language_model

_load = language_model.load_base_model


class RecordingEmbedder(LLMEmbedder):
    """What processes unpickle, so that they import this module."""


def _record(*args):
    with Path(os.environ["LOADS"]).open("a") as file:
        file.write(f"{os.getpid()}\n")
    return _load(*args)


if "LOADS" in os.environ:  # The processes of an engine, not the one that runs the tests.
    language_model.load_base_model = _record
