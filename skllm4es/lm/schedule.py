"""How long, how fast, and on how much text at once a language model is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: The warm-up of the authors' code, in steps; shorter trainings warm up over a tenth of their steps.
_WARMUP_STEPS = 608
#: Without a number of epochs, texts are repeated to reach this many tokens, but at most this often; training stops
#: after the last number of tokens.
_ENOUGH_TOKENS, _MAX_EPOCHS, _MOST_TOKENS = 100_000, 10.0, 500_000


@dataclass(frozen=True)
class Schedule:
    """How a language model is trained, whatever it is and whatever it reads.

    Parameters
    ----------
    epochs : float or None
        How often each text is seen; None is once, but small corpora are repeated up to ten times to reach 100,000
        tokens, and training stops after 500,000 tokens.
    learning_rate : float
        The highest learning rate.
    weight_decay : float
        Weight decay of AdamW (betas 0.9 and 0.95).
    batch_tokens : int
        About how many tokens a batch has, over all devices.
    warmup : float, default=None
        Share of the steps (below 1) or number of steps (from 1) over which the learning rate rises from zero; then it
        falls along a cosine. By default 608 steps, as in the authors' code, but at most a tenth of all steps.
    validation_fraction : float, default=None
        Share of the users to hold out.
    patience : int, default=5
        After how many evaluations on the held-out texts without a lower loss training stops.
    gradient_checkpointing : bool, default=False
        Whether to compute hidden states again in the backward pass instead of holding them.
    arguments : mapping, default={}
        Further settings of `transformers.TrainingArguments`.
    """

    epochs: float | None
    learning_rate: float
    weight_decay: float
    batch_tokens: int
    warmup: float | None = None
    validation_fraction: float | None = None
    patience: int = 5
    gradient_checkpointing: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def n_epochs(self, n_tokens: int) -> float:
        """Return the number of epochs over a number of tokens."""
        if self.epochs is None:
            return min(_MAX_EPOCHS, max(1.0, _ENOUGH_TOKENS / n_tokens), _MOST_TOKENS / n_tokens)
        return self.epochs

    def warmup_steps(self, steps: int) -> int:
        """Return the number of steps, out of all, over which the learning rate rises."""
        if self.warmup is None:
            return min(_WARMUP_STEPS, steps // 10)
        return int(self.warmup * steps) if self.warmup < 1 else int(self.warmup)
