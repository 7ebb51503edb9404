"""Displays in scikit-learn's form: what was computed is kept apart from how it is drawn.

``from_estimator`` and its like compute and draw, ``plot(ax=...)`` draws again, and the attributes hold what was drawn.
They need matplotlib, which the extra ``plot`` installs.
"""

from skllm4es.plotting._contributions import ContributionsDisplay
from skllm4es.plotting._data_efficiency import DataEfficiencyDisplay
from skllm4es.plotting._embedding_map import EmbeddingMapDisplay
from skllm4es.plotting._fine_tuning_loss import FineTuningLossDisplay
from skllm4es.plotting._pooling_depth import PoolingDepthDisplay
from skllm4es.plotting._token_length import TokenLengthDisplay

__all__ = [
    "ContributionsDisplay",
    "DataEfficiencyDisplay",
    "EmbeddingMapDisplay",
    "FineTuningLossDisplay",
    "PoolingDepthDisplay",
    "TokenLengthDisplay",
]
