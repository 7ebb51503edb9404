"""Hidden features: the mean of the last hidden layers, each pooled over the tokens of a text (paper, section 3.4)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

#: The paper's pooling depth.
_PAPER_DEPTH = 8


@dataclass(frozen=True)
class LayerMean:
    """Average layers of a text, each of them pooled.

    Parameters
    ----------
    layers : list of int
        The layers, from 0 for the embedded tokens.
    """

    layers: list[int]

    def __call__(self, layers: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the mean, of shape (hidden_size,), of layers of shape (n_layers + 1, hidden_size)."""
        mean: npt.NDArray[np.float32] = layers[self.layers].mean(axis=0)
        return mean


@dataclass(frozen=True)
class UnitLayerMean(LayerMean):
    """Average layers of a short text, each of them pooled and brought to unit length, because their norms differ."""

    def __call__(self, layers: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the mean, of shape (hidden_size,), of layers of shape (n_layers + 1, hidden_size)."""
        layers = layers.astype(np.float64)  # Squares of large values overflow float32.
        norms = np.linalg.norm(layers, axis=1, keepdims=True)
        return super().__call__(np.divide(layers, norms, out=np.zeros_like(layers), where=norms > 0))


def last_layers(pooling_depth: int | str, n_layers: int) -> list[int]:
    """Return the layers that `pooling_depth` selects in a model with `n_layers`."""
    if pooling_depth == "auto":
        depth = min(_PAPER_DEPTH, n_layers)
    elif (depth := int(pooling_depth)) > n_layers:
        raise ValueError(
            f"pooling_depth={pooling_depth} is more than the {n_layers} layers of the language model. "
            f"Choose 1 to {n_layers}, or 'auto'."
        )
    return list(range(n_layers + 1 - depth, n_layers + 1))
