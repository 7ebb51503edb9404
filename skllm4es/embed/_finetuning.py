"""FineTuning and LoRA: how a language model is trained on the users' texts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from sklearn.base import BaseEstimator

from skllm4es._compat import Interval, StrOptions, check_parameters
from skllm4es.embed._settings import check_names, plain

if TYPE_CHECKING:
    from skllm4es.lm.schedule import Schedule
    from skllm4es.lm.training import Adapter

#: The paper's schedule for pretrained models; from scratch, what had the lowest loss on held-out users of MovieLens and
#: of simulated cards, for 20,000 and for 450,000 tokens: many small steps.
_PRETRAINED = {"epochs": 2, "learning_rate": 1e-5, "weight_decay": 1e-6, "batch_tokens": 16_384}
_FROM_SCRATCH = {"epochs": None, "learning_rate": 5e-3, "weight_decay": 1e-2, "batch_tokens": 512}
#: Ten times the paper's, as "LoRA Without Regret" (Schulman et al., 2025) finds.
_LORA_LEARNING_RATE = 1e-4

_PATIENCE = 5

#: Settings of `transformers.TrainingArguments` that may not be passed, and the parameters to set instead, if any.
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
    "save_only_model": "checkpoint_dir",
    "ignore_data_skip": "checkpoint_dir",
    "restore_callback_states_from_checkpoint": "checkpoint_dir",
    "eval_strategy": "validation_fraction",
    "load_best_model_at_end": "validation_fraction",
    "metric_for_best_model": "validation_fraction",
    "greater_is_better": "validation_fraction",
    "seed": "random_state of LLMEmbedder",
    "data_seed": "random_state of LLMEmbedder",
    "full_determinism": "random_state of LLMEmbedder",
    "use_cpu": "device of LLMEmbedder",
    "disable_tqdm": "verbose of LLMEmbedder",
    "gradient_checkpointing": "gradient_checkpointing",
    "activation_checkpointing": "gradient_checkpointing",
    "remove_unused_columns": None,
    "train_sampling_strategy": None,
    "length_column_name": None,
    "include_num_input_tokens_seen": None,
}
#: Beginnings of the names of settings that do nothing unless one of these parameters is set.
_NEEDED = {"eval_": ("validation_fraction",), "save_": ("checkpoint_dir", "validation_fraction")}


class FineTuning(BaseEstimator):
    """Training of all weights by next-token prediction, for the parameter `finetune` of `LLMEmbedder`.

    ``finetune="full"`` stands for this object with its defaults.

    Parameters
    ----------
    epochs : float or "auto", default="auto"
        How often training sees each text. "auto" is 2 for a pretrained model. From scratch it is 1, but small corpora
        are repeated up to ten times to reach 100,000 tokens, and training stops after 500,000 tokens, which are enough
        for score features.
    learning_rate : float or "auto", default="auto"
        The highest learning rate, from which it falls along a cosine. "auto" is 1e-5 for a pretrained model and 5e-3
        from scratch.
    warmup : float or "auto", default="auto"
        Share of the steps (below 1) or number of steps (from 1) over which the learning rate rises. "auto" is 608
        steps, as in the authors' code, but at most a tenth of all steps.
    weight_decay : float or "auto", default="auto"
        Weight decay of AdamW (betas 0.9 and 0.95). "auto" is 1e-6 for a pretrained model and 1e-2 from scratch.
    batch_tokens : int or "auto", default="auto"
        About how many tokens a batch has, over all devices. Windows of `max_length` are accumulated to reach it, and no
        text is split for it. "auto" is 16,384 for a pretrained model and 512 from scratch.
    validation_fraction : float, default=None
        Share of the users to hold out. Training stops when the loss on their texts no longer falls, and the weights
        with the lowest loss are kept.
    patience : int, default=5
        After how many evaluations on the held-out users without a lower loss training stops. There are about ten
        evaluations; ``training_args={"eval_steps": 20, "save_steps": 20}`` evaluates every 20 steps instead.
    gradient_checkpointing : bool, default=False
        Whether to compute hidden states again in the backward pass instead of holding them: less memory, about a sixth
        more time on a CPU.
    checkpoint_dir : str or path, default=None
        Directory where training is saved from time to time. A `fit` that was interrupted resumes from there when it is
        called again with the same texts and parameters, and ends with the same weights. Its checkpoints are removed
        when it ends; those of a training that never resumes are left for you to delete. Needs an integer as
        `random_state`.
    training_args : dict, default=None
        Further settings of :class:`transformers.TrainingArguments`, such as ``{"report_to": "tensorboard"}``,
        ``{"adam_beta2": 0.999}`` or ``{"fsdp": "full_shard"}``.

    See Also
    --------
    LoRA : Trains small matrices beside the weights.
    LLMEmbedder : The embedder that uses this object.

    Notes
    -----
    The loss is the paper's (LLM4ES, arXiv 2508.05688, section 3.3): ``L = -sum_t log P(x_t | x_<t)``, by the `Trainer`
    of transformers.

    Examples
    --------
    >>> from skllm4es import FineTuning, LLMEmbedder
    >>> embedder = LLMEmbedder(finetune=FineTuning(epochs=3, validation_fraction=0.1))
    >>> embedder.set_params(finetune__learning_rate=1e-3).finetune
    FineTuning(epochs=3, learning_rate=0.001, validation_fraction=0.1)
    """

    _parameter_constraints: dict[str, list[Any]] = {
        "epochs": [Interval(Real, 0, None, closed="neither"), StrOptions({"auto"})],
        "learning_rate": [Interval(Real, 0, None, closed="neither"), StrOptions({"auto"})],
        "warmup": [Interval(Real, 0, None, closed="left"), StrOptions({"auto"})],
        "weight_decay": [Interval(Real, 0, None, closed="left"), StrOptions({"auto"})],
        "batch_tokens": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither"), None],
        "patience": [Interval(Integral, 1, None, closed="left")],
        "gradient_checkpointing": ["boolean"],
        "checkpoint_dir": [str, os.PathLike, None],
        "training_args": [Mapping, None],
    }

    def __init__(
        self,
        *,
        epochs: float | str = "auto",
        learning_rate: float | str = "auto",
        warmup: float | str = "auto",
        weight_decay: float | str = "auto",
        batch_tokens: int | str = "auto",
        validation_fraction: float | None = None,
        patience: int = _PATIENCE,
        gradient_checkpointing: bool = False,
        checkpoint_dir: str | os.PathLike[str] | None = None,
        training_args: Mapping[str, Any] | None = None,
    ) -> None:
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.warmup = warmup
        self.weight_decay = weight_decay
        self.batch_tokens = batch_tokens
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.gradient_checkpointing = gradient_checkpointing
        self.checkpoint_dir = checkpoint_dir
        self.training_args = training_args

    def _check(self) -> None:
        """Reject parameters that conflict or do not exist."""
        check_parameters(self)
        if self.patience != _PATIENCE and self.validation_fraction is None:
            raise ValueError(
                f"patience={self.patience} has no effect without validation_fraction. Set validation_fraction, or "
                f"leave patience at {_PATIENCE}."
            )
        from transformers import TrainingArguments

        arguments = self.training_args or {}
        check_names(
            "training_args", arguments, {field.name for field in fields(TrainingArguments)}, "TrainingArguments"
        )
        reserved = [
            f"{name!r} ({f'set {_RESERVED[name]} instead' if _RESERVED[name] else 'packing needs it as it is'})"
            for name in arguments
            if name in _RESERVED
        ]
        if reserved:
            raise ValueError(f"training_args cannot take {', '.join(reserved)}.")
        steps = [arguments[name] for name in ("eval_steps", "save_steps") if name in arguments]
        if self.validation_fraction is not None and len(set(steps)) > 1:
            raise ValueError(
                f"training_args sets eval_steps={steps[0]} and save_steps={steps[1]}, but the weights with the lowest "
                "loss on the held-out users can be kept only if each evaluation saves them. Set one of the two."
            )
        for prefix, needed in _NEEDED.items():
            unused = [name for name in arguments if name.startswith(prefix)]
            if unused and all(getattr(self, name) is None for name in needed):
                raise ValueError(
                    f"training_args sets {', '.join(map(repr, unused))}, which does nothing without "
                    f"{' or '.join(needed)}. Set {'one' if len(needed) > 1 else 'it'}, or leave it out."
                )

    def _schedule(self, *, from_scratch: bool) -> Schedule:
        """Return the schedule for `skllm4es.lm`, with every "auto" resolved."""
        from skllm4es.lm.schedule import Schedule

        def resolve(name: str, kind: type) -> Any:
            value = getattr(self, name)
            value = defaults[name] if value == "auto" else value
            return None if value is None else kind(value)  # 2 and 2.0 are the same training.

        defaults = {"warmup": None, **(_FROM_SCRATCH if from_scratch else self._pretrained_defaults)}
        return Schedule(
            **{name: resolve(name, float) for name in ("epochs", "learning_rate", "warmup", "weight_decay")},
            batch_tokens=resolve("batch_tokens", int),
            validation_fraction=plain(self.validation_fraction),
            patience=int(self.patience),
            gradient_checkpointing=bool(self.gradient_checkpointing),
            arguments=plain(self.training_args or {}),
        )

    def _adapter(self) -> Adapter | None:
        """Return the adapter that is trained in place of all weights."""
        return None

    @property
    def _pretrained_defaults(self) -> dict[str, Any]:
        return _PRETRAINED


class LoRA(FineTuning):
    """Training of small matrices beside the weights of a model, for the parameter `finetune` of `LLMEmbedder`.

    It takes a fraction of the memory that training all weights takes. ``finetune="lora"`` stands for this object with
    its defaults.

    Parameters
    ----------
    r : int, default=16
        Rank of the matrices.
    lora_alpha : float, default=32
        Their product is multiplied by ``lora_alpha / r``.
    target_modules : str or list of str, default="all-linear"
        The modules that they are put beside: names or a pattern, as peft understands them. All linear layers come
        nearest to training all weights ("LoRA Without Regret", Schulman et al., 2025).
    lora_args : dict, default=None
        Further settings of :class:`peft.LoraConfig`, such as ``{"lora_dropout": 0.1}`` or ``{"use_dora": True}``.
    merge : bool, default=True
        Whether the adapter becomes part of the weights. If not, `memory` and `save_pretrained` keep the adapter alone,
        a few megabytes, and need the pretrained model where it was.
    epochs : float or "auto", default="auto"
        How often training sees each text. "auto" is 2.
    learning_rate : float or "auto", default="auto"
        The highest learning rate, from which it falls along a cosine. "auto" is 1e-4.
    warmup : float or "auto", default="auto"
        As for `FineTuning`.
    weight_decay : float or "auto", default="auto"
        Weight decay of AdamW (betas 0.9 and 0.95). "auto" is 1e-6.
    batch_tokens : int or "auto", default="auto"
        About how many tokens a batch has, over all devices. "auto" is 16,384.
    validation_fraction : float, default=None
        As for `FineTuning`.
    patience : int, default=5
        As for `FineTuning`.
    gradient_checkpointing : bool, default=False
        As for `FineTuning`.
    checkpoint_dir : str or path, default=None
        As for `FineTuning`.
    training_args : dict, default=None
        As for `FineTuning`.

    See Also
    --------
    FineTuning : Trains all weights.
    LLMEmbedder : The embedder that uses this object.

    Examples
    --------
    >>> from skllm4es import LLMEmbedder, LoRA
    >>> embedder = LLMEmbedder("owner/name", finetune=LoRA(r=8, merge=False))
    >>> embedder.get_params()["finetune__r"]
    8
    """

    _parameter_constraints: dict[str, list[Any]] = {
        **FineTuning._parameter_constraints,
        "r": [Interval(Integral, 1, None, closed="left")],
        "lora_alpha": [Interval(Real, 0, None, closed="neither")],
        "target_modules": [str, "array-like"],
        "lora_args": [Mapping, None],
        "merge": ["boolean"],
    }

    def __init__(
        self,
        *,
        r: int = 16,
        lora_alpha: float = 32,
        target_modules: str | list[str] = "all-linear",
        lora_args: Mapping[str, Any] | None = None,
        merge: bool = True,
        epochs: float | str = "auto",
        learning_rate: float | str = "auto",
        warmup: float | str = "auto",
        weight_decay: float | str = "auto",
        batch_tokens: int | str = "auto",
        validation_fraction: float | None = None,
        patience: int = _PATIENCE,
        gradient_checkpointing: bool = False,
        checkpoint_dir: str | os.PathLike[str] | None = None,
        training_args: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(
            epochs=epochs,
            learning_rate=learning_rate,
            warmup=warmup,
            weight_decay=weight_decay,
            batch_tokens=batch_tokens,
            validation_fraction=validation_fraction,
            patience=patience,
            gradient_checkpointing=gradient_checkpointing,
            checkpoint_dir=checkpoint_dir,
            training_args=training_args,
        )
        self.r = r
        self.lora_alpha = lora_alpha
        self.target_modules = target_modules
        self.lora_args = lora_args
        self.merge = merge

    def _check(self) -> None:
        super()._check()
        from peft import LoraConfig

        own = {"r", "lora_alpha", "target_modules"} & set(self.lora_args or {})
        if own:
            raise ValueError(f"lora_args cannot take {sorted(own)}. Set them as parameters of LoRA, such as LoRA(r=8).")
        if not isinstance(self.target_modules, str) and not len(self.target_modules):
            raise ValueError("target_modules is empty, so there is nothing to train. Name modules, or 'all-linear'.")
        known = {field.name for field in fields(LoraConfig)} - {"task_type", "inference_mode"}
        check_names("lora_args", self.lora_args or {}, known, "peft.LoraConfig")
        start = (self.lora_args or {}).get("init_lora_weights")
        if not self.merge and isinstance(start, str) and start.startswith("pissa_niter"):
            raise ValueError(
                f"init_lora_weights={start!r} draws at random what it changes of the weights below the adapter, so a "
                "saved adapter would not fit them again. Set merge=True, or use 'pissa'."
            )
        if (self.lora_args or {}).get("alora_invocation_tokens"):
            raise ValueError(
                "lora_args sets alora_invocation_tokens, but such an adapter changes only what comes after these "
                "tokens, which no text of events has. Leave it out."
            )

    def _adapter(self) -> Adapter | None:
        from skllm4es.lm.training import Adapter

        modules = self.target_modules if isinstance(self.target_modules, str) else list(self.target_modules)
        settings = {"r": self.r, "lora_alpha": self.lora_alpha, "target_modules": modules}
        return Adapter(plain(settings | dict(self.lora_args or {})), bool(self.merge))

    @property
    def _pretrained_defaults(self) -> dict[str, Any]:
        return _PRETRAINED | {"learning_rate": _LORA_LEARNING_RATE}
