"""From texts to a trained language model: prepared, trained, and kept so that it is never trained twice.

`Training` and `Frozen` share one interface: `prepare` returns the model as it is before training, which can be checked,
and `train` returns it trained, with a log.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence, Set
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from transformers import PreTrainedTokenizerBase, TrainerCallback

from skllm4es._store import hash_of
from skllm4es.lm.adapters import check_merges
from skllm4es.lm.cache import Cache
from skllm4es.lm.devices import multiplies_bfloat16_fast
from skllm4es.lm.finetuning import finetune
from skllm4es.lm.folders import check_room, remove_folder, writing_errors
from skllm4es.lm.from_scratch import VOCAB_SIZE, new_model, train_tokenizer
from skllm4es.lm.language_model import LanguageModel
from skllm4es.lm.processes import Processes
from skllm4es.lm.schedule import Schedule
from skllm4es.lm.seeding import isolated_seed
from skllm4es.lm.sources import CacheSource, MemorySource, Model, Source, read_with_adapter
from skllm4es.lm.training_log import TrainingLog, read_log, write_log
from skllm4es.lm.windows import Window, split, tokenize

#: The texts of each user.
Corpus = Sequence[Sequence[str]]

#: Prefixes of the settings that determine how a training is reported.
_OF_REPORTS = ("report_to", "logging", "log_", "run_name", "project", "trackio")
#: Bytes of a weight, and of a weight with what AdamW keeps of it.
_WEIGHT, _WITH_STATE = 4, 12
#: Increased when the same settings and texts produce different weights.
_VERSION = 7
#: Checkpoints that exist while one is written.
_N_CHECKPOINTS = 3


@dataclass(frozen=True)
class Scratch:
    """A model that is made from the texts.

    Parameters
    ----------
    n_params : int or "auto"
        About how many weights it has; "auto" is one for each token that training sees.
    config : mapping
        Settings of `transformers.LlamaConfig` that replace ours.
    """

    n_params: int | str
    config: Mapping[str, Any]

    def make(self, corpus: Corpus, schedule: Schedule) -> LanguageModel:
        """Train a tokenizer on the texts, and make a model with random weights."""
        texts = [text for user_texts in corpus for text in user_texts]
        first_texts = [user_texts[0] for user_texts in corpus]
        tokenizer = train_tokenizer(texts, self.config.get("vocab_size", VOCAB_SIZE), first_texts)
        n_params = self.n_params
        if n_params == "auto":
            n_tokens = sum(map(len, tokenizer(texts)["input_ids"]))
            n_params = round(min(1.0, schedule.n_epochs(n_tokens)) * n_tokens)
        return LanguageModel(MemorySource(new_model(tokenizer, int(n_params), self.config), tokenizer))


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter.

    Parameters
    ----------
    settings : mapping
        Settings of `peft.LoraConfig`.
    merge : bool
        Whether it becomes part of the weights after training.
    """

    settings: Mapping[str, Any]
    merge: bool


@dataclass(frozen=True)
class Recipe:
    """Everything that determines a trained language model, except the texts.

    Parameters
    ----------
    start : LanguageModel or Scratch
        What is trained.
    adapter : Adapter or None
        The adapter that is trained beside the weights; None trains all weights.
    schedule : Schedule
        How to train.
    max_length : int or "auto"
        The most tokens that the model sees at once, as the user gave it.
    seed : int
        Determines initial weights, the held-out users and the order of training.
    seeded : bool
        Whether the seed was chosen; otherwise the models of all seeds count as the same.
    """

    start: LanguageModel | Scratch
    adapter: Adapter | None
    schedule: Schedule
    max_length: int | str
    seed: int
    seeded: bool

    def key(self, corpus: Corpus, *machine: str) -> bytes:
        """Hash what changes the trained weights: not how a training is reported or fits into memory.

        `machine` is what else it depends on: the number of processes, the device and its precision.
        """
        start = self.start.fingerprint if isinstance(self.start, LanguageModel) else asdict(self.start)
        schedule = asdict(self.schedule) | {"gradient_checkpointing": None}
        if self.schedule.validation_fraction is None:
            schedule["patience"] = None
        schedule["arguments"] = {k: v for k, v in self.schedule.arguments.items() if not k.startswith(_OF_REPORTS)}
        settings = {
            "start": start,
            "adapter": self.adapter and asdict(self.adapter),
            "schedule": schedule,
            "max_length": self.max_length,
            "seed": self.seed if self.seeded else None,
            "version": _VERSION,
            "machine": machine,
        }
        texts = [part for user_texts in corpus for part in (*user_texts, f"{len(user_texts)} texts")]
        return hash_of(json.dumps(settings, sort_keys=True, default=_as_json), *texts)

    def split(self, corpus: Corpus) -> tuple[Corpus, Corpus]:
        """Divide the users into those to train on and those to evaluate on."""
        fraction = self.schedule.validation_fraction
        if fraction is None:
            return corpus, []
        n_held_out = max(1, round(fraction * len(corpus)))
        if n_held_out >= len(corpus):
            raise ValueError(
                f"A validation fraction of {fraction} holds out {n_held_out} of {len(corpus)} users, which leaves none "
                "to train on. Lower it, or pass more users."
            )
        order = np.random.default_rng(self.seed).permutation(len(corpus))
        held_out = set(order[:n_held_out].tolist())
        kept = [texts for user, texts in enumerate(corpus) if user not in held_out]
        return kept, [corpus[user] for user in sorted(held_out)]


@dataclass(frozen=True)
class Frozen:
    """A pretrained model that stays as it is.

    Parameters
    ----------
    source : Source
        Where it comes from.
    """

    source: Source

    def prepare(self, corpus: Corpus) -> LanguageModel:
        """Return the model."""
        return LanguageModel(self.source)

    def train(self, model: LanguageModel, corpus: Corpus, max_length: int) -> tuple[LanguageModel, TrainingLog]:
        """Return the model as it is, and an empty log."""
        return model, TrainingLog()


@dataclass(frozen=True)
class Training:
    """The training of a language model, on this machine.

    Parameters
    ----------
    recipe : Recipe
        What makes the model.
    device : str
        Where it is trained.
    group : Processes
        The processes that train together.
    cache : Cache or None
        Where trained models are kept.
    checkpoint_dir : pathlib.Path or None
        Where unfinished trainings are saved.
    callbacks : sequence of transformers.TrainerCallback
        Called at every step.
    progress : bool
        Whether to show a progress bar.
    """

    recipe: Recipe
    device: str
    group: Processes
    cache: Cache | None
    checkpoint_dir: Path | None
    callbacks: Sequence[TrainerCallback]
    progress: bool

    def prepare(self, corpus: Corpus) -> LanguageModel:
        """Return the model to train: the pretrained one, or a new one; the trained one if it is in the cache.

        Parameters
        ----------
        corpus : sequence of sequence of str
            The texts of each user.
        """
        if self.cache is not None and (kept := self._find(self.cache, self._key(corpus))):
            return kept
        if isinstance(self.recipe.start, LanguageModel):
            return self.recipe.start
        with isolated_seed(self.recipe.seed):
            return self.recipe.start.make(self.recipe.split(corpus)[0], self.recipe.schedule)

    def train(self, model: LanguageModel, corpus: Corpus, max_length: int) -> tuple[LanguageModel, TrainingLog]:
        """Train a model that `prepare` returned, unless the cache has it trained by now.

        Parameters
        ----------
        model : LanguageModel
            The model.
        corpus : sequence of sequence of str
            The texts of each user.
        max_length : int
            The most tokens that the model sees at once.
        """
        if isinstance(model.source, CacheSource):
            return model, read_log(Path(model.source.directory))
        if self.cache is None and self.checkpoint_dir is None:
            return self._train(model, corpus, max_length, None)
        key = self._key(corpus)
        with ExitStack() as stack:
            if self.cache is not None:
                self._hold(stack, self.cache.lock_model(key))
                if kept := self._find(self.cache, key):  # Another process trained it meanwhile.
                    return self.train(kept, corpus, max_length)
            checkpoints = None
            if self.checkpoint_dir is not None:
                with writing_errors(self.checkpoint_dir):
                    self.checkpoint_dir.mkdir(parents=True, exist_ok=True)
                checkpoints = self.checkpoint_dir / key.hex()
                self._hold(stack, FileLock(checkpoints.with_suffix(".lock")))
            model, log = self._train(model, corpus, max_length, checkpoints)
            if self.cache is not None:
                model = self._store(self.cache, key, model, log)
            if checkpoints is not None and self.group.rank == 0:
                remove_folder(checkpoints)
        return model, log

    def _key(self, corpus: Corpus) -> bytes:
        device = torch.device(self.device)
        precision = "bfloat16" if multiplies_bfloat16_fast(device) else "float32"
        return self.recipe.key(corpus, f"{self.group.size} processes", device.type, precision)

    def _find(self, cache: Cache, key: bytes) -> LanguageModel | None:
        folder = self.group.agree(cache.find_model(key))
        return None if folder is None else LanguageModel(CacheSource(str(folder)))

    def _hold(self, stack: ExitStack, lock: FileLock) -> None:
        # Processes that train together hold it together: the first one takes it, and the others wait.
        if self.group.rank == 0:
            with writing_errors(Path(lock.lock_file).parent):
                stack.enter_context(lock)
        self.group.wait()

    def _store(self, cache: Cache, key: bytes, model: LanguageModel, log: TrainingLog) -> LanguageModel:
        def save(draft: Path) -> None:
            model.save(draft, torch.float32, self.device)
            write_log(draft, log)

        folder = None
        if self.group.rank == 0:
            with writing_errors(cache.models):
                folder = cache.store_model(key, save)
        assert isinstance(model.source, MemorySource)
        return LanguageModel(CacheSource(str(self.group.agree(folder)), held=model.source))

    def _check_room(self, trained: Model, checkpoints: Path | None) -> None:
        """Raise an OSError if the disk has no room for what training will write."""
        n_trained = sum(weights.numel() for weights in trained.parameters() if weights.requires_grad)
        n_kept = sum(weights.numel() for weights in trained.parameters())
        if self.recipe.adapter is not None and not self.recipe.adapter.merge:
            n_kept = n_trained
        if self.cache is not None:
            check_room(self.cache.models, _WEIGHT * n_kept)
        if checkpoints is not None:
            check_room(checkpoints.parent, _N_CHECKPOINTS * _WITH_STATE * n_trained)
        elif self.recipe.schedule.validation_fraction is not None:
            check_room(Path(tempfile.gettempdir()), _N_CHECKPOINTS * _WEIGHT * n_trained)

    def _train(
        self, model: LanguageModel, corpus: Corpus, max_length: int, checkpoints: Path | None
    ) -> tuple[LanguageModel, TrainingLog]:
        recipe = self.recipe
        corpus, held_out = recipe.split(corpus)
        with isolated_seed(recipe.seed):
            trainable: Model = (
                model.source.read_causal()
                if recipe.adapter is None
                else read_with_adapter(model.source, recipe.adapter.settings)
            )
        merged = recipe.adapter is not None and recipe.adapter.merge
        if merged:
            check_merges(trainable)
        self._check_room(trainable, checkpoints)
        trained, log = finetune(
            trainable.to(self.device),
            _windows(model.tokenizer, corpus, max_length),
            recipe.schedule,
            max_length=max_length,
            seed=recipe.seed,
            group=self.group,
            held_out=_windows(model.tokenizer, held_out, max_length),
            checkpoints=checkpoints,
            callbacks=self.callbacks,
            progress=self.progress,
        )
        if merged:
            trained = trained.merge_and_unload()
        return LanguageModel(MemorySource(trained, model.tokenizer)), log


def _windows(tokenizer: PreTrainedTokenizerBase, corpus: Corpus, max_length: int) -> list[Window]:
    """Tokenise texts, longer texts in several windows, the last of which ends with the token for the end."""
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    room = max_length - len(end)
    windows = []
    for tokens in tokenize(tokenizer, [text for texts in corpus for text in texts], room):
        *earlier, last = split(replace(tokens, suffix=[]), room)
        windows += [*earlier, replace(last, ids=last.ids + end)]
    return windows


def _as_json(value: object) -> object:
    """Return what JSON cannot hold in a form that is the same in every process."""
    if isinstance(value, Set):
        return sorted(map(str, value))
    return value.item() if isinstance(value, np.generic) else str(value)
