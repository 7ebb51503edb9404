"""What follows a training step by step: a guard against losses that diverge, and a progress bar."""

from __future__ import annotations

import math
import time
from typing import Any

from tqdm.auto import tqdm
from transformers import EarlyStoppingCallback, TrainerCallback


class DivergedError(ValueError):
    """The loss or the weights became infinite or NaN."""


class WatchLoss(TrainerCallback):
    """Stop a training whose loss diverges before its weights are saved, and log the loss of the last steps."""

    def __init__(self, learning_rate: float) -> None:
        self.learning_rate = learning_rate

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Log the last step."""
        if state.global_step >= state.max_steps:
            control.should_log = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Raise a DivergedError if a loss is not finite."""
        for name in ("loss", "eval_loss"):
            loss = (logs or {}).get(name, 0.0)
            if not math.isfinite(loss):
                raise DivergedError(
                    f"The loss became {loss} in step {state.global_step} of {state.max_steps} of fine-tuning. "
                    f"Lower the learning rate (it was {self.learning_rate:g})."
                )


class EarlyStop(EarlyStoppingCallback):
    """Stop when the loss on the held-out texts no longer falls, and stay stopped when the training is resumed."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop at once if the checkpoint is one after which training had stopped."""
        super().on_train_begin(args, state, control, **kwargs)
        if self.early_stopping_patience_counter >= self.early_stopping_patience:
            control.should_training_stop = True


class ProgressBar(TrainerCallback):
    """A bar with the losses and the tokens per second."""

    def __init__(self, *, disable: bool) -> None:
        self.bar = tqdm(desc="fine-tuning", unit="step", leave=None, disable=disable)
        self.losses: dict[str, str] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self.start, self.tokens_before = time.perf_counter(), state.num_input_tokens_seen
        self.bar.reset(total=state.max_steps)
        self.bar.update(state.global_step)  # More than 0 where an interrupted training is resumed.

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Advance by a step."""
        self.bar.update(1)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Show the latest losses and the speed."""
        names = {"loss": "loss", "eval_loss": "validation loss"}
        self.losses |= {name: f"{logs[key]:.3f}" for key, name in names.items() if key in (logs or {})}
        speed = (state.num_input_tokens_seen - self.tokens_before) / (time.perf_counter() - self.start)
        losses = ", ".join(f"{name} {loss}" for name, loss in self.losses.items())
        self.bar.set_postfix_str(f"{losses}, {speed:,.0f} tokens/s")

    def close(self) -> None:
        """Leave the bar as it is."""
        self.bar.close()
