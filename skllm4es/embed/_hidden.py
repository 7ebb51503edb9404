"""Hidden features: the mean of the last hidden layers, each pooled over the tokens of a text (paper, section 3.4)."""

from __future__ import annotations

#: The paper's pooling depth.
_PAPER_DEPTH = 8


def last_layers(pooling_depth: int | str, n_layers: int) -> list[int]:
    """Return the layers that `pooling_depth` selects in a model with `n_layers`; layer 0 holds the embedded tokens."""
    if pooling_depth == "auto":
        depth = min(_PAPER_DEPTH, n_layers)
    elif (depth := int(pooling_depth)) > n_layers:
        raise ValueError(
            f"pooling_depth={pooling_depth} is more than the {n_layers} layers of the language model. "
            f"Choose 1 to {n_layers}, or 'auto'."
        )
    return list(range(n_layers + 1 - depth, n_layers + 1))
