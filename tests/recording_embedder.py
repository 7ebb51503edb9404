"""An embedder that records the process whenever a language model is loaded, one line in the file that LOADS names."""

import os
from pathlib import Path

from transformers import AutoModel

from skllm4es import LLMEmbedder

_load = AutoModel.from_pretrained


class RecordingEmbedder(LLMEmbedder):
    """What processes unpickle, so that they import this module."""


def _record(*args, **kwargs):
    with Path(os.environ["LOADS"]).open("a") as file:
        file.write(f"{os.getpid()}\n")
    return _load(*args, **kwargs)


if "LOADS" in os.environ:  # The processes of an engine, not the one that runs the tests.
    AutoModel.from_pretrained = _record
