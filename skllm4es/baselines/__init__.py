"""Other transformers of events to vectors, to compare LLM4ES with.

They take the same ``X`` as `EventSerializer` and return one vector per user. `EventAggregator` and `BagOfEvents` count;
the embedders train a network over the events, each with another objective, except for the untrained `RandomEmbedder`.
"""

from skllm4es.baselines._aggregates import EventAggregator
from skllm4es.baselines._bag import BagOfEvents
from skllm4es.baselines._embedders import (
    CoLESEmbedder,
    CPCEmbedder,
    DeTPPEmbedder,
    IFTPPEmbedder,
    LATTEEmbedder,
    NPPREmbedder,
    NSPEmbedder,
    RandomEmbedder,
    RTDEmbedder,
)

__all__ = [
    "BagOfEvents",
    "CPCEmbedder",
    "CoLESEmbedder",
    "DeTPPEmbedder",
    "EventAggregator",
    "IFTPPEmbedder",
    "LATTEEmbedder",
    "NPPREmbedder",
    "NSPEmbedder",
    "RTDEmbedder",
    "RandomEmbedder",
]
