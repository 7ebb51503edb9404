"""What LLM4ES is compared with: other transformers of the same events to vectors.

They take the same ``X`` as `EventSerializer`, and give one vector a user. `EventAggregator` and `BagOfEvents` count;
the embedders train a network over the events, each for another objective, and `RandomEmbedder` does not train it.
"""

from skllm4es.baselines._aggregates import EventAggregator
from skllm4es.baselines._bag import BagOfEvents
from skllm4es.baselines._embedders import (
    CoLESEmbedder,
    CPCEmbedder,
    DeTPPEmbedder,
    IFTPPEmbedder,
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
    "NPPREmbedder",
    "NSPEmbedder",
    "RTDEmbedder",
    "RandomEmbedder",
]
