"""Fine-tuning by next-token prediction, with the Trainer of transformers over packed texts.

The loss is the paper's (section 3.3): ``L = -sum_t log P(x_t | x_<t)``. It trains all weights, or those of an adapter.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from tqdm.auto import tqdm
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from skllm4es._compat import use_one_gpu
from skllm4es._messages import warn
from skllm4es.lm.architecture import decoder_of, exact_length, is_out_of_memory
from skllm4es.lm.callbacks import DivergedError, EarlyStop, ProgressBar, WatchLoss
from skllm4es.lm.checkpoints import SealCheckpoints, latest_checkpoint
from skllm4es.lm.devices import multiplies_bfloat16_fast
from skllm4es.lm.folders import writing_errors
from skllm4es.lm.loading import quietly
from skllm4es.lm.packing import Pack, can_pack, collate, make_packs, n_labels, packed_attention, pad_pack
from skllm4es.lm.precision import RoundedWeights, rounded_weights
from skllm4es.lm.processes import Processes
from skllm4es.lm.schedule import Schedule
from skllm4es.lm.seeding import isolated_seed
from skllm4es.lm.sliced_loss import can_slice, learns_copies, sliced_loss
from skllm4es.lm.sources import Model, read_trained
from skllm4es.lm.training_log import TrainingLog
from skllm4es.lm.windows import Window

#: How often the losses are logged in a training, and how often it is saved and evaluated.
_LOGS, _SAVES = 50, 10
#: How much larger than asked for batches may be before a warning says so.
_LARGER_BATCH = 1.5


def finetune(
    model: Model,
    windows: Sequence[Window],
    schedule: Schedule,
    *,
    max_length: int,
    seed: int,
    group: Processes,
    held_out: Sequence[Window] = (),
    checkpoints: Path | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    progress: bool = False,
) -> tuple[Model, TrainingLog]:
    """Train a causal language model on windows of tokens.

    Parameters
    ----------
    model : transformers.PreTrainedModel or peft.PeftModel
        The model, on the device where it is trained; its weights are changed in place.
    windows : sequence of Window
        The tokens of each text, in windows of at most `max_length`.
    schedule : Schedule
        How to train.
    max_length : int
        The most tokens in one pack of texts.
    seed : int
        Seed of the order of the batches.
    group : Processes
        The processes that train together.
    held_out : sequence of Window, default=()
        Texts to evaluate on; training stops when their loss no longer falls, and the best weights are taken.
    checkpoints : pathlib.Path, default=None
        Where to save the training from time to time. If there is a checkpoint, the training resumes from it.
    callbacks : sequence of transformers.TrainerCallback, default=()
        Called at every step.
    progress : bool, default=False
        Whether to show a progress bar with the loss.

    Returns
    -------
    model : transformers.PreTrainedModel or peft.PeftModel
        The trained model; another object only if the processes had divided its weights among them.
    log : TrainingLog
        How it went.

    Raises
    ------
    ValueError
        If there is nothing to learn from, or the model's own loss is another one.
    DivergedError
        If the loss becomes infinite or NaN.
    """
    decoder = model.get_base_model() if isinstance(model, PeftModel) else model
    if not can_slice(decoder) and learns_copies(decoder):
        raise ValueError(
            f"{type(decoder).__name__} cannot be fine-tuned by next-token prediction: its own loss compares what it "
            "predicts with the same token, not with the next one. Choose another model, or set finetune=None."
        )
    packable = can_pack(decoder)
    # A model that cannot keep texts apart in one pack gets them one at a time.
    capacity = 1
    if packable:
        share = schedule.batch_tokens // group.size
        capacity = max(min(max_length, share), max((len(window.ids) for window in windows), default=0))
    longest = exact_length(decoder_of(decoder), capacity)
    packs, validation_packs = (make_packs(texts, capacity, min(capacity, longest)) for texts in (windows, held_out))
    if not packs:
        raise ValueError(
            "There is nothing to fine-tune on: no text has two tokens or more. Check the texts, or do not fine-tune."
        )
    n_tokens = sum(len(window.ids) for windows_of_pack in packs for window in windows_of_pack)
    accumulated = max(1, round(schedule.batch_tokens / (n_tokens / len(packs)) / group.size))
    _check_batch(accumulated * group.size * n_tokens / len(packs), schedule.batch_tokens, group)
    steps = max(1, round(schedule.n_epochs(n_tokens) * math.ceil(len(packs) / group.size / accumulated)))
    shown = progress and group.rank == 0
    if shown:
        _print_packing(packs, capacity if packable else None)
    settings = _arguments(
        schedule,
        steps=steps,
        accumulated=accumulated,
        evaluated=bool(validation_packs),
        saved=checkpoints is not None,
        device=model.device,
    )
    with (
        tempfile.TemporaryDirectory() as scratch,
        closing(ProgressBar(disable=not shown)) as bar,
        packed_attention(decoder, packable),
        _gradient_checkpointing(decoder, schedule.gradient_checkpointing),
        isolated_seed(seed),
        quietly(),
        rounded_weights(model, _can_round(settings, model.device, group)) as rounded,
    ):
        # The first process alone writes, and all of them read the best weights.
        folder = checkpoints or Path(group.agree(scratch))
        arguments = TrainingArguments(
            **settings | {"bf16": settings["bf16"] and rounded is None}, output_dir=str(folder), seed=seed
        )
        # One pack at a time on one device; several devices are for a launcher of processes.
        use_one_gpu(arguments)
        with _tensorboard_in_runs():
            trainer = _TokenWeightedTrainer(
                model,
                arguments,
                data_collator=_collate_pack if packable else _collate_text,
                train_dataset=packs,
                eval_dataset=validation_packs or None,
            )
        trainer.rounded, trainer.padded = rounded, packable
        trainer.remove_callback(PrinterCallback)
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(WatchLoss(schedule.learning_rate))
        if checkpoints is not None:
            trainer.add_callback(SealCheckpoints(group))
        if validation_packs:
            trainer.add_callback(EarlyStop(early_stopping_patience=schedule.patience))
        for callback in (bar, *callbacks):
            trainer.add_callback(callback)
        start = time.perf_counter()
        sliced = not (_is_sharded(trainer) or arguments.label_smoothing_factor) and can_slice(decoder)
        with writing_errors(folder), _memory_errors(model.device), sliced_loss(decoder, sliced):
            trainer.train(resume_from_checkpoint=group.agree(latest_checkpoint(folder)))
        seconds = time.perf_counter() - start
        model = _unwrap(trainer, model, folder, group)
        group.wait()  # Before anything is removed that another process still reads.
    if not all(torch.isfinite(weights).all() for weights in model.parameters()):
        raise DivergedError(
            f"Weights became infinite or NaN. Lower the learning rate (it was {schedule.learning_rate:g})."
        )
    losses, loss_tokens = _curve(trainer, "loss")
    validation_losses, validation_tokens = _curve(trainer, "eval_loss")
    n_tokens = int(trainer.state.num_input_tokens_seen)
    return model.eval(), TrainingLog(losses, validation_losses, n_tokens, seconds, loss_tokens, validation_tokens)


def _curve(trainer: Trainer, name: str) -> tuple[list[float], list[int]]:
    """Return the losses that were logged under a name, and after how many tokens each was."""
    entries = [entry for entry in trainer.state.log_history if name in entry]
    return [entry[name] for entry in entries], [int(entry["num_input_tokens_seen"]) for entry in entries]


def _check_batch(n_tokens: float, wanted: int, group: Processes) -> None:
    """Warn where several processes cannot share a batch of the size that was asked for, and train on larger ones."""
    if group.size > 1 and group.rank == 0 and n_tokens > _LARGER_BATCH * wanted:
        warn(
            f"Batches have about {n_tokens:,.0f} tokens, not the {wanted:,} that were asked for, because each of "
            f"{group.size} processes trains on one window per step. Training takes fewer steps than with one process. "
            "Use fewer processes, or larger batches."
        )


def _arguments(
    schedule: Schedule, *, steps: int, accumulated: int, evaluated: bool, saved: bool, device: torch.device
) -> dict[str, Any]:
    """Return the settings of the Trainer; the user's take precedence over ours."""
    log_steps = max(1, steps // _LOGS)
    # A multiple of the former, so that a training that resumes from a checkpoint logs the same losses.
    save_steps = log_steps * max(1, round(steps / log_steps / _SAVES))
    given = dict(schedule.arguments)
    settings: dict[str, Any] = {
        "per_device_train_batch_size": 1,
        "per_device_eval_batch_size": 1,
        "gradient_accumulation_steps": accumulated,
        "max_steps": steps,
        "learning_rate": schedule.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": schedule.warmup_steps(steps),
        "weight_decay": schedule.weight_decay,
        "adam_beta1": 0.9,
        "adam_beta2": 0.95,
        "logging_strategy": "steps",
        "logging_steps": log_steps,
        "logging_nan_inf_filter": False,
        "save_strategy": "steps" if saved or evaluated else "no",
        "save_steps": save_steps,
        "save_total_limit": 2,  # The latest may be half-written.
        "save_only_model": not saved,
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "include_num_input_tokens_seen": "all",
        "restore_callback_states_from_checkpoint": True,  # How long an early stop has been waiting.
        "prediction_loss_only": True,
        "bf16": multiplies_bfloat16_fast(device) and not schedule.arguments.get("fp16"),
        "use_cpu": device.type == "cpu",
        "ddp_find_unused_parameters": False,
        "dataloader_pin_memory": device.type == "cuda",
    }
    if evaluated:
        # The weights of each evaluation are kept, because they may be the best ones.
        save_steps = given.setdefault("eval_steps", given.get("save_steps", save_steps))
        settings |= {"eval_strategy": "steps", "save_steps": save_steps, "load_best_model_at_end": True}
    return settings | given


def _can_round(settings: Mapping[str, Any], device: torch.device, group: Processes) -> bool:
    """Return whether a training in bfloat16 can do without autocast: by itself, on a CPU, as the model is written."""
    changed = ("fp16", "fsdp", "deepspeed", "torch_compile", "use_liger_kernel")
    return (
        bool(settings["bf16"])
        and device.type == "cpu"
        and group.size == 1
        and not any(settings.get(name) for name in changed)
    )


class _TokenWeightedTrainer(Trainer):
    """Evaluate by the mean over tokens, where the Trainer takes the mean over batches, which are packs here."""

    rounded: RoundedWeights | None = None
    padded = False

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        with self._rounding():
            return super().training_step(*args, **kwargs)

    def prediction_step(self, *args: Any, **kwargs: Any) -> Any:
        with self._rounding():
            return super().prediction_step(*args, **kwargs)

    def _rounding(self) -> AbstractContextManager[None]:
        return nullcontext() if self.rounded is None else self.rounded.at_step(self.state.global_step)

    def compute_loss(self, model: Any, inputs: Any, *args: Any, num_items_in_batch: Any = None, **kwargs: Any) -> Any:
        if self.padded:
            inputs = pad_pack(inputs)
        if not model.training:
            num_items_in_batch = self._mean_labels * self.accelerator.num_processes
        return super().compute_loss(model, inputs, *args, num_items_in_batch=num_items_in_batch, **kwargs)

    @cached_property
    def _mean_labels(self) -> float:
        counts = [sum(map(n_labels, windows)) for windows in self.eval_dataset]
        return sum(counts) / len(counts)


def _print_packing(packs: Sequence[Pack], capacity: int | None) -> None:
    n_texts, n_tokens = sum(map(len, packs)), sum(len(window.ids) for windows in packs for window in windows)
    how = "one at a time, because this model cannot keep packed texts apart"
    if capacity is not None:
        how = f"in {len(packs):,} windows of {capacity:,}, {n_tokens / (len(packs) * capacity):.1%} full"
    tqdm.write(f"fine-tuning on {n_texts:,} texts, {n_tokens:,} tokens, {how}")


def _unwrap(trainer: Trainer, model: Model, folder: Path, group: Processes) -> Model:
    """Undo what training put around the model, and give every process all of its weights."""
    if _is_sharded(trainer):
        if trainer.is_fsdp_enabled:
            trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
        whole = folder / "whole"
        trainer.save_model(str(whole))
        group.wait()  # Until it is written.
        return read_trained(whole).to(trainer.args.device)
    # The Trainer leaves autocast wrapped around the model's forward.
    trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    return model


def _is_sharded(trainer: Trainer) -> bool:
    """Return whether no process has all the weights."""
    return bool(trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled)


def _collate_pack(batch: list[Pack]) -> dict[str, Any]:
    (single,) = batch
    return collate(single)


def _collate_text(batch: list[Pack]) -> dict[str, Any]:
    arguments = _collate_pack(batch)
    del arguments["text_ends"], arguments["position_ids"]
    return arguments


@contextmanager
def _tensorboard_in_runs() -> Iterator[None]:
    """Write TensorBoard's files to ``runs``, its own default: the Trainer's is a folder that will be removed."""
    name = "TENSORBOARD_LOGGING_DIR"
    if name in os.environ:
        yield
        return
    os.environ[name] = str(Path("runs") / time.strftime("%Y-%m-%d_%H-%M-%S"))
    try:
        yield
    finally:
        del os.environ[name]


@contextmanager
def _memory_errors(device: torch.device) -> Iterator[None]:
    """Raise a MemoryError with remedies where memory is too small to train in."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryError(
            f"The training does not fit into the memory of {device}: {error}. Shorten the window, use gradient "
            "checkpointing or LoRA, or choose a smaller model."
        ) from error


@contextmanager
def _gradient_checkpointing(model: PreTrainedModel, enabled: bool) -> Iterator[None]:
    if not enabled:
        yield
        return
    model.activation_checkpointing_enable({"use_reentrant": False})
    try:
        yield
    finally:
        model.activation_checkpointing_disable()
        model.disable_input_require_grads()  # Its hooks, closures that cannot be pickled, may have been added as well.
