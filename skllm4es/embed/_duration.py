"""The warning that a training takes long, with cheaper ways."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skllm4es._messages import warn
from skllm4es.embed._finetuning import FineTuning, LoRA

if TYPE_CHECKING:
    from transformers import TrainerCallback

#: Seconds that a training may take without a warning, and from which on these are hours.
_LONG, _HOURS = 600, 5400


def warning_of_duration(finetuning: FineTuning, *, from_scratch: bool) -> TrainerCallback:
    """Return what warns, once the first batches show it, that a training takes over ten minutes."""
    # Imported late, because torch and transformers take seconds to import.
    from skllm4es.lm.callbacks import Forecast

    kind = type(finetuning).__name__
    ways = ["fewer events, EventSerializer(max_events=...)", f"fewer epochs, {kind}(epochs=...)"]
    if from_scratch:
        ways.insert(0, "a smaller model, FromScratch(n_params=...)")
    else:
        adapter = [] if isinstance(finetuning, LoRA) else ["an adapter, finetune='lora'"]
        ways = ["the model as it is, finetune=None", *adapter, *ways]

    def report(seconds: float, tokens_per_second: float) -> None:
        duration = f"{seconds / 3600:.1f} hours" if seconds >= _HOURS else f"{seconds / 60:.0f} minutes"
        speed = f"{tokens_per_second:,.0f}" if tokens_per_second >= 10 else f"{tokens_per_second:.1f}"
        warn(f"Training takes about {duration}, at {speed} tokens per second. Cheaper options: {'; '.join(ways)}.")

    return Forecast(_LONG, report)
