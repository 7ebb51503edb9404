"""What LLM4ES is compared with: other transformers of the same events to vectors.

They take the same ``X`` as `EventSerializer`, and give one vector a user. `EventAggregator` and `BagOfEvents` count.
"""

from skllm4es.baselines._aggregates import EventAggregator
from skllm4es.baselines._bag import BagOfEvents

__all__ = [
    "BagOfEvents",
    "EventAggregator",
]
