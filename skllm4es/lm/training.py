"""From texts to a trained language model: made or loaded, trained, and kept so that nobody trains it twice."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from skllm4es import __version__
from skllm4es._store import hash_of
from skllm4es.lm.adapters import add_adapter
from skllm4es.lm.cache import Cache, remove_folder
from skllm4es.lm.finetuning import Course, Schedule, finetune, writing_errors
from skllm4es.lm.from_scratch import VOCAB_SIZE, check_config, new_model, train_tokenizer
from skllm4es.lm.language_model import LanguageModel
from skllm4es.lm.loading import load_causal_model
from skllm4es.lm.packing import split, tokenize
from skllm4es.lm.processes import Processes
from skllm4es.lm.saving import read_course, write_course
from skllm4es.lm.seeding import isolated_seed

#: The texts of each user.
Corpus = Sequence[Sequence[str]]
#: Says how many tokens a model sees at once, or refuses it.
Admit = Callable[[LanguageModel], int]

#: Beginnings of the names of settings that say what is told of a training.
_OF_REPORTS = ("report_to", "logging", "log_", "run_name", "project", "trackio")
#: Bytes of a weight, and of a weight with what AdamW keeps of it.
_WEIGHT, _WITH_STATE = 4, 12
#: Changes whenever other weights come of the same settings and texts.
_RECIPE = 2
#: Checkpoints that there are while one is written.
_AT_ONCE = 3


@dataclass(frozen=True)
class Training:
    """All that makes a trained language model, but for the texts.

    Parameters
    ----------
    base : LanguageModel or None
        The pretrained model; None makes one from scratch.
    config : mapping or None
        Settings of the model from scratch.
    n_params : int or "auto"
        About how many weights the model from scratch shall have.
    lora : mapping or None
        Settings of a LoRA adapter; None trains all weights.
    merge_adapter : bool
        Whether the adapter becomes part of the weights.
    schedule : Schedule
        How to train.
    max_length : int or "auto"
        The most tokens that the model sees at once, as the user gave it.
    validation_fraction : float or None
        Share of the users to hold out.
    seed : int
        Determines initial weights, the users held out, and the order of training.
    """

    base: LanguageModel | None
    config: Mapping[str, Any] | None
    n_params: int | str
    lora: Mapping[str, Any] | None
    merge_adapter: bool
    schedule: Schedule
    max_length: int | str
    validation_fraction: float | None
    seed: int

    def key(self, corpus: Corpus, *, seeded: bool) -> bytes:
        """Hash what makes the model, and nothing else: how a training is reported or fits into memory is not of it.

        Parameters
        ----------
        corpus : sequence of sequence of str
            The texts of each user.
        seeded : bool
            Whether the seed was chosen; models that any seed makes are one and the same otherwise.

        Returns
        -------
        bytes
            The hash.
        """
        settings = asdict(replace(self, base=None))
        settings |= {"base": self.base and self.base.fingerprint, "version": __version__, "recipe": _RECIPE}
        settings |= {"seed": self.seed if seeded else None, "merge_adapter": self.lora is None or self.merge_adapter}
        schedule = settings["schedule"] | {"gradient_checkpointing": None}
        schedule["patience"] = None if self.validation_fraction is None else self.schedule.patience
        schedule["arguments"] = {k: v for k, v in self.schedule.arguments.items() if not k.startswith(_OF_REPORTS)}
        texts = [part for texts in corpus for part in (*texts, f"{len(texts)} texts")]
        return hash_of(json.dumps(settings | {"schedule": schedule}, sort_keys=True, default=_as_json), *texts)


@dataclass(frozen=True)
class TrainingRun:
    """Where, among whom and before whose eyes a language model is trained.

    Parameters
    ----------
    device : str
        Where it is trained.
    group : Processes
        Those that train together.
    cache : Cache or None
        Where trained models are kept.
    checkpoint_dir : pathlib.Path or None
        Where unfinished trainings are.
    callbacks : sequence of transformers.TrainerCallback
        Told of every step.
    progress : bool
        Whether to show a progress bar.
    """

    device: str
    group: Processes
    cache: Cache | None
    checkpoint_dir: Path | None
    callbacks: Sequence[TrainerCallback]
    progress: bool

    def find_or_train(
        self, training: Training, corpus: Corpus, admit: Admit, *, seeded: bool
    ) -> tuple[LanguageModel, Course]:
        """Give the trained model, from the cache if it is there.

        Parameters
        ----------
        training : Training
            How it is made.
        corpus : sequence of sequence of str
            The texts of each user.
        admit : callable of LanguageModel to int
            Called with the model before it is trained; gives the most tokens to train on at once, or raises.
        seeded : bool
            Whether the seed of the training was chosen.

        Returns
        -------
        model : LanguageModel
            The model.
        course : Course
            How its training went.
        """
        if self.cache is None and self.checkpoint_dir is None:
            return self._train(training, corpus, admit, None)
        key = training.key(corpus, seeded=seeded)
        with ExitStack() as stack:
            if self.cache is not None:
                self._hold(stack, self.cache.lock_model(key))
                if folder := self.group.agree(self.cache.find_model(key)):
                    return LanguageModel(str(folder), kept=True), read_course(folder)
            checkpoints = None
            if self.checkpoint_dir is not None:
                with writing_errors(self.checkpoint_dir):
                    self.checkpoint_dir.mkdir(parents=True, exist_ok=True)
                # Processes share the batches out, so another number of them would go on otherwise.
                of_these = f"{key.hex()}-{self.group.size}" if self.group.size > 1 else key.hex()
                checkpoints = self.checkpoint_dir / of_these
                self._hold(stack, FileLock(checkpoints.with_suffix(".lock")))
            model, course = self._train(training, corpus, admit, checkpoints)
            if self.cache is not None:
                model = self._store(self.cache, key, model, course)
            if checkpoints is not None and self.group.rank == 0:
                remove_folder(checkpoints)
        if self.cache is not None and self.group.rank == 0:
            self.cache.evict()
        return model, course

    def _hold(self, stack: ExitStack, lock: FileLock) -> None:
        # Processes that train together hold it together: the first one takes it, and the others wait for that.
        if self.group.rank == 0:
            with writing_errors(Path(lock.lock_file).parent):
                stack.enter_context(lock)
        self.group.agree(None)

    def _store(self, cache: Cache, key: bytes, model: LanguageModel, course: Course) -> LanguageModel:
        folder = None
        if self.group.rank == 0:
            with writing_errors(cache.models):
                folder = cache.store_model(key, lambda draft: self._save(draft, model, course))
        return model.kept_in(str(self.group.agree(folder)))

    def _check_room(self, trained: Any, training: Training, checkpoints: Path | None) -> None:
        """Refuse to train what could not be written afterwards."""
        n_trained = sum(weights.numel() for weights in trained.parameters() if weights.requires_grad)
        n_kept = sum(weights.numel() for weights in trained.parameters())
        if training.lora is not None and not training.merge_adapter:
            n_kept = n_trained
        if self.cache is not None:
            _check_free(self.cache.models, _WEIGHT * n_kept)
        if checkpoints is not None:
            _check_free(checkpoints.parent, _AT_ONCE * _WITH_STATE * n_trained)
        elif training.validation_fraction is not None:
            _check_free(Path(tempfile.gettempdir()), _AT_ONCE * _WEIGHT * n_trained)

    def _save(self, draft: Path, model: LanguageModel, course: Course) -> None:
        model.save(draft, torch.float32, self.device)
        write_course(draft, course)

    def _train(
        self, training: Training, corpus: Corpus, admit: Admit, checkpoints: Path | None
    ) -> tuple[LanguageModel, Course]:
        corpus, held_out = _hold_out(corpus, training.validation_fraction, training.seed)
        with isolated_seed(training.seed):
            model, tokenizer = _make(training, corpus)
            max_length = admit(LanguageModel(model=model, tokenizer=tokenizer))
            trained: Any = model
            if training.lora is not None:
                assert training.base is not None
                assert training.base.source is not None
                trained = add_adapter(model, training.lora, training.base.source, training.base.revision)
        self._check_room(trained, training, checkpoints)
        trained, course = finetune(
            trained.to(self.device),
            _windows(tokenizer, corpus, max_length),
            training.schedule,
            max_length=max_length,
            seed=training.seed,
            group=self.group,
            held_out=_windows(tokenizer, held_out, max_length),
            checkpoints=checkpoints,
            callbacks=self.callbacks,
            progress=self.progress,
        )
        if training.lora is not None and training.merge_adapter:
            trained = trained.merge_and_unload()
        return LanguageModel(model=trained, tokenizer=tokenizer), course


def _make(training: Training, corpus: Corpus) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load the model, or make it and its tokenizer from the texts."""
    if base := training.base:
        assert base.source is not None
        return load_causal_model(base.source, base.revision), base.tokenizer
    config = training.config or {}
    check_config(config)
    texts = [text for texts in corpus for text in texts]
    tokenizer = train_tokenizer(texts, config.get("vocab_size", VOCAB_SIZE), [each[0] for each in corpus])
    n_params = training.n_params
    if n_params == "auto":  # One for each token that is seen.
        n_tokens = sum(map(len, tokenizer(texts)["input_ids"]))
        n_params = round(min(1.0, training.schedule.n_epochs(n_tokens)) * n_tokens)
    return new_model(tokenizer, int(n_params), config), tokenizer


def _hold_out(corpus: Corpus, fraction: float | None, seed: int) -> tuple[Corpus, Corpus]:
    """Part the users into those to train on and those to evaluate on."""
    if fraction is None:
        return corpus, []
    n_held_out = max(1, round(fraction * len(corpus)))
    if n_held_out >= len(corpus):
        raise ValueError(
            f"validation_fraction={fraction} holds out {n_held_out} of {len(corpus)} users, which leaves none to train "
            "on. Lower it, or pass more users."
        )
    order = np.random.default_rng(seed).permutation(len(corpus))
    held_out = set(order[:n_held_out].tolist())
    kept = [texts for user, texts in enumerate(corpus) if user not in held_out]
    return kept, [corpus[user] for user in sorted(held_out)]


def _windows(tokenizer: PreTrainedTokenizerBase, corpus: Corpus, max_length: int) -> list[list[int]]:
    """Turn texts into tokens, longer texts into several parts; the last one ends with the token for the end."""
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    room = max_length - len(end)
    return [
        window.ids + (end if window is windows[-1] else [])
        for tokens in tokenize(tokenizer, [text for texts in corpus for text in texts], room)
        for windows in [split(tokens, room)]
        for window in windows
    ]


def _check_free(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"There are {free:,} bytes free on the disk of {folder}, and the training will need {needed:,}. Nothing "
            "was trained yet. Make room, or choose another directory."
        )


def _as_json(value: object) -> object:
    """Give what JSON does not hold in a form that is the same in every process."""
    if isinstance(value, Set):
        return sorted(map(str, value))
    return value.item() if isinstance(value, np.generic) else str(value)
