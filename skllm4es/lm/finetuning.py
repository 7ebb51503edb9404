"""Fine-tuning by next-token prediction, with the Trainer of transformers over packed texts.

The loss is the paper's (section 3.3): ``L = -sum_t log P(x_t | x_<t)``, all weights trainable, or those of an adapter.
"""

from __future__ import annotations

import errno
import math
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import torch
from peft import PeftModel
from safetensors import SafetensorError
from tqdm.auto import tqdm
from transformers import EarlyStoppingCallback, PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from skllm4es._messages import did_you_mean
from skllm4es.lm.adapters import attach_adapter, underlying
from skllm4es.lm.checkpoints import SealCheckpoints, latest_checkpoint
from skllm4es.lm.devices import multiplies_bfloat16_fast
from skllm4es.lm.loading import load_causal_model, quietly
from skllm4es.lm.packing import PACKED_ATTENTION, can_pack, collate, pack
from skllm4es.lm.pooling import is_out_of_memory
from skllm4es.lm.processes import Processes
from skllm4es.lm.seeding import isolated_seed

Model: TypeAlias = PreTrainedModel | PeftModel

#: The warm-up of the authors' code, in steps; shorter trainings warm up over a tenth of theirs.
_WARMUP_STEPS = 608
#: Without a number of epochs, texts are seen until there are so many tokens, but not more often than this; of more
#: tokens than the last, a part is seen.
_ENOUGH_TOKENS, _MAX_EPOCHS, _MOST_TOKENS = 100_000, 10.0, 500_000
#: Parts of the training after which the losses are noted, and after which it is saved and evaluated.
_LOGS, _SAVES = 50, 10

#: Codes of OSErrors that tell of a disk.
_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO)

#: What fine-tuning decides by itself, and the parameter of `LLMEmbedder` that tells it.
_RESERVED = {
    "output_dir": "checkpoint_dir",
    "resume_from_checkpoint": "checkpoint_dir",
    "num_train_epochs": "epochs",
    "max_steps": "epochs",
    "learning_rate": "learning_rate",
    "warmup_steps": "warmup",
    "weight_decay": "weight_decay",
    "per_device_train_batch_size": "batch_tokens",
    "per_device_eval_batch_size": "batch_tokens",
    "gradient_accumulation_steps": "batch_tokens",
    "auto_find_batch_size": "batch_tokens",
    "save_strategy": "checkpoint_dir",
    "eval_strategy": "validation_fraction",
    "load_best_model_at_end": "validation_fraction",
    "metric_for_best_model": "validation_fraction",
    "greater_is_better": "validation_fraction",
    "seed": "random_state",
    "data_seed": "random_state",
    "use_cpu": "device",
    "disable_tqdm": "verbose",
    "gradient_checkpointing": "gradient_checkpointing",
    "activation_checkpointing": "gradient_checkpointing",
    "remove_unused_columns": None,
    "train_sampling_strategy": None,
    "length_column_name": None,
    "include_num_input_tokens_seen": None,
}


@dataclass(frozen=True)
class Schedule:
    """How long, how fast and on how much text at once a language model is trained.

    Parameters
    ----------
    epochs : float or None
        How often each text is seen; None is once, but as often as makes 100,000 tokens, at most ten times, and a part
        of the texts where there are more than 500,000.
    learning_rate : float
        The highest learning rate.
    weight_decay : float
        Weight decay of AdamW (betas 0.9 and 0.95).
    batch_tokens : int
        About how many tokens there are in the batch of one step, over all devices.
    warmup : float, default=None
        Share of the steps (below 1) or number of steps (from 1) over which the learning rate rises from zero; it falls
        as a cosine afterwards. By default 608 steps, as in the authors' code, but no more than a tenth of them.
    patience : int, default=5
        Evaluations without a lower loss on the texts held out, after which training stops.
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
    patience: int = 5
    gradient_checkpointing: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def n_epochs(self, n_tokens: int) -> float:
        """Give the number of epochs.

        Parameters
        ----------
        n_tokens : int
            Number of tokens to train on.

        Returns
        -------
        float
            The number.
        """
        if self.epochs is None:
            return min(_MAX_EPOCHS, max(1.0, _ENOUGH_TOKENS / n_tokens), _MOST_TOKENS / n_tokens)
        return self.epochs

    def warmup_steps(self, steps: int) -> int:
        """Give the number of steps over which the learning rate rises.

        Parameters
        ----------
        steps : int
            The number of all steps.

        Returns
        -------
        int
            The number.
        """
        if self.warmup is None:
            return min(_WARMUP_STEPS, steps // 10)
        return int(self.warmup * steps) if self.warmup < 1 else int(self.warmup)


@dataclass(frozen=True)
class Course:
    """How a training went.

    Parameters
    ----------
    losses : list of float
        The mean next-token loss, in nats a token, of about fifty equal stretches.
    validation_losses : list of float
        That of the texts held out, at each evaluation.
    n_tokens : int
        Tokens trained on, each time that it was.
    seconds : float
        How long it took; of an interrupted training, the last part.
    """

    losses: list[float] = field(default_factory=list)
    validation_losses: list[float] = field(default_factory=list)
    n_tokens: int = 0
    seconds: float = 0.0


class DivergedError(ValueError):
    """The loss became infinite or NaN."""


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Refuse settings that `transformers.TrainingArguments` does not have, or that parameters set.

    Parameters
    ----------
    arguments : mapping
        The settings.

    Raises
    ------
    ValueError
        If there is one of these.
    """
    known = {each.name for each in fields(TrainingArguments)}
    unknown = [name for name in arguments if name not in known]
    if unknown:
        hint = did_you_mean(unknown, known) or " See its documentation for their names."
        raise ValueError(f"training_args names {unknown}, which are not settings of TrainingArguments.{hint}")
    reserved = [
        f"{name!r} (" + (f"set {_RESERVED[name]} instead" if _RESERVED[name] else "packing needs it as it is") + ")"
        for name in arguments
        if name in _RESERVED
    ]
    if reserved:
        raise ValueError(f"training_args cannot take {', '.join(reserved)}.")


def finetune(
    model: Model,
    sequences: Sequence[Sequence[int]],
    schedule: Schedule,
    *,
    max_length: int,
    seed: int,
    group: Processes,
    held_out: Sequence[Sequence[int]] = (),
    checkpoints: Path | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    progress: bool = False,
) -> tuple[Model, Course]:
    """Train a causal language model on sequences of tokens.

    Parameters
    ----------
    model : transformers.PreTrainedModel or peft.PeftModel
        The model, on the device where it shall be trained; its weights are changed in place.
    sequences : sequence of sequence of int
        The tokens of each text, at most `max_length`.
    schedule : Schedule
        How to train.
    max_length : int
        The most tokens in one pack of texts.
    seed : int
        Seed of the order of the batches.
    group : Processes
        Those that train together.
    held_out : sequence of sequence of int, default=()
        Texts to evaluate on; training stops when their loss does not fall any more, and the best weights are taken.
    checkpoints : pathlib.Path, default=None
        Where to save the training from time to time. One that is there already is continued.
    callbacks : sequence of transformers.TrainerCallback, default=()
        Told of every step.
    progress : bool, default=False
        Whether to show a progress bar with the loss.

    Returns
    -------
    model : transformers.PreTrainedModel or peft.PeftModel
        The trained model, another object only where the processes had shared its weights out among them.
    course : Course
        How it went.

    Raises
    ------
    ValueError
        If there is nothing to learn from.
    DivergedError
        If the loss becomes infinite or NaN.
    """
    decoder = model.get_base_model() if isinstance(model, PeftModel) else model
    packable = can_pack(decoder)
    # A model that cannot keep texts apart in one pack gets them one at a time.
    capacity = _capacity(sequences, min(max_length, schedule.batch_tokens)) if packable else 1
    packs, validation_packs = make_packs(sequences, capacity), make_packs(held_out, capacity)
    if not packs:
        raise ValueError(
            "There is nothing to fine-tune on: no text has two tokens or more. Check the texts, or pass finetune=None."
        )
    n_tokens = sum(len(sequence) for texts in packs for sequence in texts)
    accumulated = max(1, round(schedule.batch_tokens / (n_tokens / len(packs)) / group.size))
    steps = max(1, round(schedule.n_epochs(n_tokens) * math.ceil(len(packs) / group.size / accumulated)))
    shown = progress and group.rank == 0
    if shown:
        _tell_packing(packs, capacity if packable else None)
    with (
        tempfile.TemporaryDirectory() as scratch,
        closing(_ProgressBar(disable=not shown)) as bar,
        _packed_attention(decoder),
        _gradient_checkpointing(decoder, schedule.gradient_checkpointing),
        isolated_seed(seed),
        quietly(),
    ):
        # The first process alone writes, and all of them read the best weights.
        folder = checkpoints or Path(group.agree(scratch))
        arguments = TrainingArguments(
            **_arguments(
                schedule,
                steps=steps,
                accumulated=accumulated,
                evaluated=bool(validation_packs),
                saved=checkpoints is not None,
                device=model.device,
            ),
            output_dir=str(folder),
            seed=seed,
        )
        # One pack at a time on one device; several devices are for a launcher of processes, not for DataParallel.
        arguments._n_gpu = min(1, arguments.n_gpu)
        with _kept_logs():
            trainer = _TokenWeighted(
                model,
                arguments,
                data_collator=_collate_pack if packable else _collate_text,
                train_dataset=packs,
                eval_dataset=validation_packs or None,
            )
        trainer.remove_callback(PrinterCallback)
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(_WatchLoss(schedule.learning_rate))
        if checkpoints is not None:
            trainer.add_callback(SealCheckpoints(group))
        if validation_packs:
            trainer.add_callback(EarlyStoppingCallback(early_stopping_patience=schedule.patience))
        for callback in (bar, *callbacks):
            trainer.add_callback(callback)
        start = time.perf_counter()
        with writing_errors(folder), _memory_errors(model.device):
            trainer.train(resume_from_checkpoint=group.agree(latest_checkpoint(folder)))
        seconds = time.perf_counter() - start
        model = _unwrap(trainer, model, folder, group)
        group.agree(None)  # Before anything that another one still reads is removed.
    if not all(torch.isfinite(weights).all() for weights in model.parameters()):
        raise DivergedError(f"Weights became infinite or NaN. Lower learning_rate (it was {schedule.learning_rate:g}).")
    history = trainer.state.log_history
    return model.eval(), Course(
        [entry["loss"] for entry in history if "loss" in entry],
        [entry["eval_loss"] for entry in history if "eval_loss" in entry],
        int(trainer.state.num_input_tokens_seen),
        seconds,
    )


def make_packs(sequences: Sequence[Sequence[int]], capacity: int) -> list[list[Sequence[int]]]:
    """Gather sequences that have something to predict into packs.

    Parameters
    ----------
    sequences : sequence of sequence of int
        The tokens of each text.
    capacity : int
        The most tokens in a pack; a longer text is a pack by itself.

    Returns
    -------
    list of list of sequence of int
        The sequences of each pack.
    """
    useful = [sequence for sequence in sequences if len(sequence) > 1]
    lengths = [min(len(sequence), capacity) for sequence in useful]
    return [[useful[i] for i in positions] for positions in pack(lengths, capacity)]


def _capacity(sequences: Sequence[Sequence[int]], wanted: int) -> int:
    return max(wanted, max(map(len, sequences), default=0))


def _arguments(
    schedule: Schedule, *, steps: int, accumulated: int, evaluated: bool, saved: bool, device: torch.device
) -> dict[str, Any]:
    """Give the settings of the Trainer; those that the user gave come before ours."""
    each_log = max(1, steps // _LOGS)
    # A multiple of the former, so that a training that goes on from a checkpoint notes the same losses.
    each_save = each_log * max(1, round(steps / each_log / _SAVES))
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
        "logging_steps": each_log,
        "logging_nan_inf_filter": False,
        "save_strategy": "steps" if saved or evaluated else "no",
        "save_steps": each_save,
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
        # The weights of each evaluation are kept, as they may be the best ones.
        each_save = given.setdefault("eval_steps", given.get("save_steps", each_save))
        settings |= {"eval_strategy": "steps", "save_steps": each_save, "load_best_model_at_end": True}
    return settings | given


class _TokenWeighted(Trainer):
    """Evaluates by the mean over tokens, where the Trainer takes the mean over batches, which are packs here."""

    def compute_loss(self, model: Any, inputs: Any, *args: Any, num_items_in_batch: Any = None, **kwargs: Any) -> Any:
        if not model.training:
            num_items_in_batch = self._mean_labels * self.accelerator.num_processes
        return super().compute_loss(model, inputs, *args, num_items_in_batch=num_items_in_batch, **kwargs)

    @cached_property
    def _mean_labels(self) -> float:
        n_labels = [sum(len(sequence) - 1 for sequence in texts) for texts in self.eval_dataset]
        return sum(n_labels) / len(n_labels)


class _WatchLoss(TrainerCallback):
    """Ends a training that cannot come to anything, before its weights are saved; notes the loss of the last steps."""

    def __init__(self, learning_rate: float) -> None:
        self.learning_rate = learning_rate

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_log = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        for name in ("loss", "eval_loss"):
            loss = (logs or {}).get(name, 0.0)
            if not math.isfinite(loss):
                raise DivergedError(
                    f"The loss became {loss} in step {state.global_step} of {state.max_steps} of fine-tuning. "
                    f"Lower learning_rate (it was {self.learning_rate:g})."
                )


class _ProgressBar(TrainerCallback):
    """A bar with the losses and the tokens a second."""

    def __init__(self, *, disable: bool) -> None:
        self.bar = tqdm(desc="fine-tuning", unit="step", leave=None, disable=disable)
        self.losses: dict[str, str] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.start, self.tokens_before = time.perf_counter(), state.num_input_tokens_seen
        self.bar.reset(total=state.max_steps)
        self.bar.update(state.global_step)  # More than 0 where an interrupted training goes on.

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.update(1)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        names = {"loss": "loss", "eval_loss": "validation loss"}
        self.losses |= {name: f"{logs[key]:.3f}" for key, name in names.items() if key in (logs or {})}
        speed = (state.num_input_tokens_seen - self.tokens_before) / (time.perf_counter() - self.start)
        losses = ", ".join(f"{name} {loss}" for name, loss in self.losses.items())
        self.bar.set_postfix_str(f"{losses}, {speed:,.0f} tokens/s")

    def close(self) -> None:
        self.bar.close()


def _tell_packing(packs: Sequence[Sequence[Sequence[int]]], capacity: int | None) -> None:
    n_texts, n_tokens = sum(map(len, packs)), sum(len(ids) for texts in packs for ids in texts)
    how = "one at a time, as this model cannot tell packed texts apart"
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
        group.agree(None)  # All wait until it is written.
        base = underlying(whole)
        loaded = attach_adapter(load_causal_model(*base), whole) if base else load_causal_model(str(whole))
        return loaded.to(trainer.args.device)
    # The Trainer leaves autocast wrapped around the model's forward.
    trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    return model


def _is_sharded(trainer: Trainer) -> bool:
    """Whether no process has all the weights."""
    return bool(trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled)


def _collate_pack(batch: list[list[Sequence[int]]]) -> dict[str, Any]:
    (single,) = batch
    return collate(single)


def _collate_text(batch: list[list[Sequence[int]]]) -> dict[str, Any]:
    arguments = _collate_pack(batch)
    del arguments["text_ends"], arguments["position_ids"]
    return arguments


@contextmanager
def _kept_logs() -> Iterator[None]:
    """Have TensorBoard's files in ``runs``, as its own default is: the Trainer's is a folder that will be removed."""
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
def writing_errors(
    folder: Path, again: str = "fit again: with checkpoint_dir, the training goes on from its last whole checkpoint"
) -> Iterator[None]:
    """Say what to do where a model could not be written, be it that Python, torch, tokenizers or safetensors says so.

    Parameters
    ----------
    folder : pathlib.Path
        Where it is written.
    again : str, default="fit again: ..."
        What to do once it can be.

    Yields
    ------
    None
        Nothing.

    Raises
    ------
    OSError
        Instead of errors of writing; others, such as those of the network, go on.
    """
    try:
        yield
    except Exception as error:
        if not _tells_of_a_disk(error):
            raise
        raise OSError(
            f"The model could not be written to {folder}: {error}. Nothing that is half-written will be used. Make "
            f"room, or choose a directory that may be written to, and {again}."
        ) from error


def _tells_of_a_disk(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno in _WRITING
    if isinstance(error, RuntimeError):
        return "PytorchStreamWriter" in str(error)
    # Tokenizers raise nothing more particular.
    return isinstance(error, SafetensorError) or (type(error) is Exception and "(os error " in str(error))


@contextmanager
def _memory_errors(device: torch.device) -> Iterator[None]:
    """Say what to do where memory is too small to train in."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryError(
            f"The training does not fit into the memory of {device}: {error}. Lower max_length, set "
            "gradient_checkpointing=True or finetune='lora', or choose a smaller model."
        ) from error


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


@contextmanager
def _gradient_checkpointing(model: PreTrainedModel, enabled: bool) -> Iterator[None]:
    if not enabled:
        yield
        return
    # Newer versions of transformers call it activation checkpointing, and warn of the older name.
    name = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    getattr(model, f"{name}_checkpointing_enable")({"use_reentrant": False})
    try:
        yield
    finally:
        getattr(model, f"{name}_checkpointing_disable")()
