"""Fine-tuning by next-token prediction, with the Trainer of transformers over packed texts.

The loss is the paper's (section 3.3): ``L = -sum_t log P(x_t | x_<t)``, all weights trainable.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from tqdm.auto import tqdm
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from skllm4es.lm.devices import multiplies_bfloat16_fast
from skllm4es.lm.packing import PACKED_ATTENTION, can_pack, collate, pack
from skllm4es.lm.seeding import isolated_seed


def finetune(
    model: PreTrainedModel,
    sequences: Sequence[Sequence[int]],
    *,
    max_length: int,
    epochs: float,
    learning_rate: float,
    warmup: float,
    weight_decay: float,
    seed: int,
    progress: bool = False,
) -> list[float]:
    """Train all weights of a causal language model on sequences of tokens, in place.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        The model.
    sequences : sequence of sequence of int
        The tokens of each text, at most `max_length`.
    max_length : int
        The number of tokens in a batch, that is, in one pack of texts.
    epochs : float
        How often each text is seen.
    learning_rate : float
        The highest learning rate; it rises linearly over the warm-up and falls as a cosine.
    warmup : float
        Share of the steps (below 1) or number of steps (from 1) over which the learning rate rises.
    weight_decay : float
        Weight decay of AdamW (betas 0.9 and 0.95).
    seed : int
        Seed of the order of the batches.
    progress : bool, default=False
        Whether to show a progress bar with the loss.

    Returns
    -------
    list of float
        The mean next-token loss, in nats a token, of about fifty equal stretches of the training.

    Raises
    ------
    ValueError
        If there is nothing to learn from, or the loss is not finite.
    """
    # A model that cannot keep texts apart in one pack gets them one at a time.
    packs = _packs(sequences, max_length if can_pack(model) else 1)
    if not packs:
        raise ValueError(
            "There is nothing to fine-tune on: no text has two tokens or more. Check the texts, or pass finetune=None."
        )
    steps = max(1, round(len(packs) * epochs))
    with tempfile.TemporaryDirectory() as directory, _packed_attention(model), isolated_seed(seed):
        arguments = TrainingArguments(
            output_dir=directory,
            per_device_train_batch_size=1,
            max_steps=steps,
            learning_rate=learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=warmup,
            weight_decay=weight_decay,
            adam_beta1=0.9,
            adam_beta2=0.95,
            seed=seed,
            save_strategy="no",
            logging_strategy="steps",
            logging_steps=max(1, steps // 50),
            logging_nan_inf_filter=False,
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            use_cpu=model.device.type == "cpu",
            dataloader_pin_memory=model.device.type == "cuda",
            bf16=multiplies_bfloat16_fast(model.device),
        )
        # One pack a step on one device; several devices are for a launcher of processes, not for DataParallel.
        arguments._n_gpu = min(1, arguments.n_gpu)
        trainer = Trainer(
            model,
            arguments,
            data_collator=_collate_pack if can_pack(model) else _collate_text,
            train_dataset=packs,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.remove_callback(ProgressCallback)
        if progress:
            trainer.add_callback(_ProgressBar(steps, float(np.mean([sum(map(len, texts)) for texts in packs]))))
        trainer.train()
        # The Trainer leaves autocast wrapped around the model's forward.
        trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    model.eval()
    if not np.isfinite(losses).all():
        raise ValueError(
            f"The loss became {next(loss for loss in losses if not np.isfinite(loss))} during fine-tuning. "
            f"Lower learning_rate (it was {learning_rate:g})."
        )
    return losses


class _ProgressBar(TrainerCallback):
    """A bar with the loss and the tokens a second."""

    def __init__(self, steps: int, tokens_a_step: float) -> None:
        self.bar = tqdm(total=steps, desc="fine-tuning", unit="step", leave=None)
        self.tokens_a_step = tokens_a_step
        self.start = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.update(1)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            speed = self.bar.n * self.tokens_a_step / (time.perf_counter() - self.start)
            self.bar.set_postfix_str(f"loss {float(logs['loss']):.3f}, {speed:,.0f} tokens/s")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.close()


def _packs(sequences: Sequence[Sequence[int]], capacity: int) -> list[list[Sequence[int]]]:
    useful = [sequence for sequence in sequences if len(sequence) > 1]
    lengths = [min(len(sequence), capacity) for sequence in useful]
    return [[useful[i] for i in positions] for positions in pack(lengths, capacity)]


def _collate_pack(batch: list[list[Sequence[int]]]) -> dict[str, Any]:
    (single,) = batch
    return collate(single)


def _collate_text(batch: list[list[Sequence[int]]]) -> dict[str, Any]:
    arguments = _collate_pack(batch)
    del arguments["text_ends"], arguments["position_ids"]
    return arguments


@contextmanager
def _packed_attention(model: PreTrainedModel) -> Iterator[None]:
    """Let the model attend within texts while it trains, where it can."""
    usual = model.config._attn_implementation
    if can_pack(model):
        model.set_attn_implementation(PACKED_ATTENTION)
    try:
        yield
    finally:
        model.set_attn_implementation(usual)
