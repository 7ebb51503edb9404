"""What follows a training step by step: a guard against losses that diverge, an early stop, a forecast and a bar."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm
from transformers import EarlyStoppingCallback, TrainerCallback

#: A forecast needs this many batches, and all of the first ones unless these take many seconds.
_FEWEST_BATCHES, _FIRST_BATCHES, _MANY_SECONDS = 3, 20, 20.0


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
    """Stop when the loss on the held-out texts no longer falls, and stay stopped when the training is resumed.

    The best weights are found again where the checkpoints have moved: the Trainer keeps their absolute path.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop at once if the checkpoint is one after which training had stopped."""
        super().on_train_begin(args, state, control, **kwargs)
        best = Path(args.output_dir) / f"checkpoint-{state.best_global_step}"
        if best.is_dir():
            state.best_model_checkpoint = str(best)
        if self.early_stopping_patience_counter >= self.early_stopping_patience:
            control.should_training_stop = True


class Forecast(TrainerCallback):
    """Report once, as soon as the first batches show it, that a training takes long.

    The very first batch does not count, because much is prepared in it; of the others, the median does.

    Parameters
    ----------
    longest : float
        How many seconds a training may take without a report; one that is resumed, from there on.
    report : callable of (float, float) to None
        Called in the first process with the seconds and the tokens per second.
    """

    def __init__(self, longest: float, report: Callable[[float, float], None]) -> None:
        self.longest, self.report = longest, report

    def on_train_begin(self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **kwargs: Any) -> None:
        """Count the tokens ahead."""
        n_tokens = sum(len(window.ids) for pack in train_dataloader.dataset for window in pack)
        steps_per_epoch = math.ceil(len(train_dataloader) / args.gradient_accumulation_steps)
        self.tokens_ahead = n_tokens * (state.max_steps - state.global_step) / steps_per_epoch
        self.ends: list[tuple[float, int]] = []
        self.done = False

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Look at a batch, one of several in a step."""
        if self.done or not state.is_world_process_zero or not state.num_input_tokens_seen:
            return
        self.ends.append((time.perf_counter(), state.num_input_tokens_seen))
        batches = list(zip(self.ends, self.ends[1:], strict=False))
        seconds = self.ends[-1][0] - self.ends[0][0]
        if len(batches) < (_FEWEST_BATCHES if seconds >= _MANY_SECONDS else _FIRST_BATCHES):
            return
        per_token = statistics.median((after - before) / (seen - known) for (before, known), (after, seen) in batches)
        if per_token * self.tokens_ahead > self.longest:
            self.report(per_token * self.tokens_ahead, 1 / per_token)
            self.done = True
        self.done |= len(batches) >= _FIRST_BATCHES

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Look at the last batch of a step."""
        self.on_substep_end(args, state, control, **kwargs)


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
        losses = ", ".join(f"{name} {loss}" for name, loss in self.losses.items())
        self.bar.set_postfix_str(
            f"{losses}, {speed_since(self.start, state.num_input_tokens_seen - self.tokens_before)}"
        )

    def close(self) -> None:
        """Leave the bar as it is."""
        self.bar.close()


def speed_since(start: float, n_tokens: int) -> str:
    """Return what a progress bar shows of the speed since a time of `time.perf_counter`."""
    seconds = max(time.perf_counter() - start, 1e-9)  # A clock may stand still.
    return f"{n_tokens / seconds:,.0f} tokens/s"
