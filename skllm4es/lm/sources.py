"""Where a language model and its tokenizer come from: the hub, a directory, a GGUF file, a cache, or memory.

A source is a value: it can be printed and pickled, and it knows how to read what it names. A new kind of file is a new
source here, found by `source_of`, and whatever `loading` needs to read it.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
from peft import PeftModel
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.hub import cached_file, extract_commit_hash

from skllm4es.lm.adapters import add_adapter, attach_adapter, read_reference, save_adapter
from skllm4es.lm.folders import hash_file, hash_folder
from skllm4es.lm.gguf import converted, require_extra, warn_if_unknown
from skllm4es.lm.gguf_header import read_header
from skllm4es.lm.loading import (
    loading_errors,
    quietly,
    read_base_model,
    read_causal_model,
    read_config,
    read_tokenizer,
)
from skllm4es.lm.training_log import check_whole

Model: TypeAlias = PreTrainedModel | PeftModel

#: In the directory of an adapter, the fingerprint of the model that it was trained on.
_BASE_FILE = "base.json"


class Source(ABC):
    """Where a language model and its tokenizer come from. Every method may raise an OSError with remedies."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What to call it in messages."""

    @property
    def in_memory(self) -> bool:
        """Whether the model is in memory already, and is not shared."""
        return False

    @abstractmethod
    def fingerprint(self) -> str:
        """Return what identifies this model: its weights, settings and tokenizer."""

    @abstractmethod
    def read_config(self) -> PretrainedConfig:
        """Read the configuration."""

    @abstractmethod
    def read_tokenizer(self) -> PreTrainedTokenizerBase:
        """Read the tokenizer."""

    @abstractmethod
    def read_base(self, dtype: torch.dtype) -> Model:
        """Read the model to embed with, in evaluation mode; it may have no head, or an adapter beside its weights."""

    @abstractmethod
    def read_causal(self, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
        """Read the model with its head, to train or to write with, an adapter merged into its weights."""

    def portable(self) -> Source:
        """Return what a pickle carries: this source, or the weights themselves where it cannot be found again."""
        return self


def source_of(
    model: str | os.PathLike[str], revision: str | None = None, memory: str | os.PathLike[str] | None = None
) -> Source:
    """Return the source that a user names: a directory, a GGUF file, or a model on the hub.

    Parameters
    ----------
    model : str or path
        A directory, a file, or a name on the hub.
    revision : str, default=None
        The commit on the hub; the newest by default.
    memory : str or path, default=None
        A cache for what is made of a file.

    Raises
    ------
    ImportError
        If it is a file, and the extra that reads it is not installed.
    """
    name = os.path.expanduser(os.fspath(model))
    if os.path.isdir(name):
        return DirectorySource(os.path.abspath(name))
    if name.endswith(".gguf") or os.path.isfile(name):
        require_extra()
        return GgufSource(os.path.abspath(name), None if memory is None else Path(memory))
    if revision is None:
        with loading_errors(name):
            revision = _newest_revision(name)
    return HubSource(name, revision)


@dataclass(frozen=True)
class HubSource(Source):
    """A model on the hub, at one commit."""

    repository: str
    revision: str | None

    @property
    def name(self) -> str:
        """Its name on the hub."""
        return self.repository

    def fingerprint(self) -> str:
        """Return its name and commit."""
        return f"{self.repository}@{self.revision}"

    def read_config(self) -> PretrainedConfig:
        """Read the configuration."""
        with loading_errors(self.name):
            return read_config(self.repository, self.revision)

    def read_tokenizer(self) -> PreTrainedTokenizerBase:
        """Read the tokenizer."""
        with loading_errors(self.name):
            return read_tokenizer(self.repository, self.revision)

    def read_base(self, dtype: torch.dtype) -> Model:
        """Read the model without its head."""
        with loading_errors(self.name):
            return read_base_model(self.repository, self.revision, dtype)

    def read_causal(self, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
        """Read the model with its head."""
        with loading_errors(self.name):
            return read_causal_model(self.repository, self.revision, dtype)


@dataclass(frozen=True)
class DirectorySource(Source):
    """A model in a directory, in the form of ``save_pretrained``, or an adapter there that names the model below it."""

    directory: str

    @property
    def name(self) -> str:
        """Its directory."""
        return self.directory

    def base(self) -> Source | None:
        """Return the source of the model below the adapter, if there is an adapter."""
        reference = read_reference(self.directory)
        return None if reference is None else source_of(*reference)

    def fingerprint(self) -> str:
        """Hash its files, and those of the model below its adapter.

        Raises
        ------
        OSError
            If the model below the adapter is not the one with which the adapter was saved.
        """
        with loading_errors(self.name):
            fingerprint = hash_folder(Path(self.directory))
        if (base := self.base()) is None:
            return fingerprint
        below, file = base.fingerprint(), Path(self.directory) / _BASE_FILE
        if file.is_file() and json.loads(file.read_text(encoding="utf-8"))["fingerprint"] != below:
            raise OSError(
                f"{base.name}, the model below the adapter in {self.directory}, has changed since it was saved."
            )
        return f"{fingerprint} on {below}"

    def read_config(self) -> PretrainedConfig:
        """Read the configuration, below an adapter that of its model."""
        with loading_errors(self.name):
            innermost = _innermost(self)
            return read_config(self.directory, None) if innermost is self else innermost.read_config()

    def read_tokenizer(self) -> PreTrainedTokenizerBase:
        """Read the tokenizer."""
        with loading_errors(self.name):
            return read_tokenizer(self.directory, None)

    def read_base(self, dtype: torch.dtype) -> Model:
        """Read the model without its head; with an adapter, the model with its head and the adapter beside it."""
        with loading_errors(self.name):
            if (base := self.base()) is not None:
                return attach_adapter(base.read_causal(dtype), self.directory)
            return read_base_model(self.directory, None, dtype)

    def read_causal(self, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
        """Read the model with its head, an adapter merged into its weights."""
        with loading_errors(self.name):
            if (base := self.base()) is not None:
                merged = attach_adapter(base.read_causal(dtype), self.directory).merge_and_unload()
                return merged.requires_grad_(True)
            return read_causal_model(self.directory, None, dtype)


@dataclass(frozen=True)
class GgufSource(Source):
    """A GGUF file, which is converted once and then read from the directory that this made."""

    file: str
    memory: Path | None = None

    @property
    def name(self) -> str:
        """Its path."""
        return self.file

    def fingerprint(self) -> str:
        """Hash the file."""
        with loading_errors(self.name):
            return hash_file(Path(self.file))

    def read_config(self) -> PretrainedConfig:
        """Read the configuration, and warn where the tokenizer may differ from the model's own."""
        with loading_errors(self.name):
            config = self._converted().read_config()
            warn_if_unknown(read_header(Path(self.file)))
            return config

    def read_tokenizer(self) -> PreTrainedTokenizerBase:
        """Read the tokenizer."""
        with loading_errors(self.name):
            return self._converted().read_tokenizer()

    def read_base(self, dtype: torch.dtype) -> Model:
        """Read the model without its head."""
        with loading_errors(self.name):
            return self._converted().read_base(dtype)

    def read_causal(self, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
        """Read the model with its head."""
        with loading_errors(self.name):
            return self._converted().read_causal(dtype)

    def _converted(self) -> DirectorySource:
        return DirectorySource(str(converted(Path(self.file), self.fingerprint(), self.memory)))


@dataclass(frozen=True, eq=False)
class MemorySource(Source):
    """A model that is in memory, because it was made or trained here, and its tokenizer."""

    model: Model
    tokenizer: PreTrainedTokenizerBase

    @property
    def name(self) -> str:
        """What it is."""
        return "the model in memory"

    @property
    def in_memory(self) -> bool:
        """Always true."""
        return True

    def fingerprint(self) -> str:
        """Hash its weights, settings and tokenizer."""
        digest = hashlib.blake2b(digest_size=16)
        for name, weights in self.model.base_model.state_dict().items():
            digest.update(f"{name} {weights.dtype} {tuple(weights.shape)}".encode())
            digest.update(weights.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        digest.update(self.model.config.to_json_string().encode())
        digest.update(self.tokenizer.backend_tokenizer.to_str().encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def read_config(self) -> PretrainedConfig:
        """Return the configuration."""
        config: PretrainedConfig = self.model.config
        return config

    def read_tokenizer(self) -> PreTrainedTokenizerBase:
        """Return the tokenizer."""
        return self.tokenizer

    def read_base(self, dtype: torch.dtype) -> Model:
        """Return the model, its weights brought to the type that is asked for."""
        # The parameters alone, as `from_pretrained` does: rotary frequencies in half precision would cost accuracy.
        for weights in self.model.parameters():
            weights.data = weights.data.to(dtype)
        return self.model

    def read_causal(self, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
        """Return the model, which has its head."""
        model = self.read_base(dtype)
        return model.merge_and_unload() if isinstance(model, PeftModel) else model

    def portable(self) -> Source:
        """Return the model on the CPU, which every machine has."""
        if self.model.device.type == "cpu":
            return self
        return replace(self, model=copy.deepcopy(self.model).to("cpu"))


@dataclass(frozen=True, eq=False)
class CacheSource(DirectorySource):
    """A model that was trained and kept in a cache, which may be emptied; it may be in memory besides."""

    held: MemorySource | None = None

    @property
    def in_memory(self) -> bool:
        """Whether it was trained in this process."""
        return self.held is not None

    def fingerprint(self) -> str:
        """Hash its files, which must be there, and must be those that were written."""
        if not os.path.isdir(self.directory):
            raise OSError(
                f"The fine-tuned model that was kept in {self.directory} is gone: the cache was emptied. Fit again; "
                "save_pretrained keeps a model for good."
            )
        check_whole(Path(self.directory))
        return super().fingerprint()

    def read_config(self) -> PretrainedConfig:
        """Read the configuration, if the files are those that were written."""
        self.fingerprint()
        return super().read_config()

    def read_tokenizer(self) -> PreTrainedTokenizerBase:
        """Read the tokenizer."""
        return super().read_tokenizer() if self.held is None else self.held.tokenizer

    def read_base(self, dtype: torch.dtype) -> Model:
        """Read the model, or return the one in memory."""
        return super().read_base(dtype) if self.held is None else self.held.read_base(dtype)

    def portable(self) -> Source:
        """Return the weights in the type in which they are kept, not in the one in which they run."""
        held = self.held or MemorySource(self.read_base(torch.float32), self.read_tokenizer())
        return held.portable()


def read_with_adapter(source: Source, settings: Mapping[str, Any]) -> PeftModel:
    """Read a pretrained model and put a new LoRA adapter beside its weights, which are frozen.

    Draws from torch's global random state: seed it first.

    Parameters
    ----------
    source : Source
        The hub, a directory or a file, where the adapter will find the model again.
    settings : mapping
        Settings of `peft.LoraConfig`.
    """
    revision = source.revision if isinstance(source, HubSource) else None
    local = isinstance(source, DirectorySource | GgufSource)
    reference = os.path.abspath(source.name) if local else source.name
    return add_adapter(source.read_causal(), settings, reference, revision)


def read_trained(directory: Path) -> Model:
    """Read a model that was just trained and written, an adapter beside its weights."""
    source = DirectorySource(str(directory))
    return source.read_causal() if source.base() is None else source.read_base(torch.float32)


def save_model(directory: Path, model: Model, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write a model and its tokenizer into an empty directory; of a model with an adapter, the adapter alone."""
    with quietly():
        if isinstance(model, PeftModel):
            save_adapter(model, directory)
            base = DirectorySource(str(directory)).base()
            assert base is not None
            content = json.dumps({"fingerprint": base.fingerprint()}, indent=2)
            (directory / _BASE_FILE).write_text(content + "\n", encoding="utf-8")
        else:
            model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)


def _innermost(source: Source) -> Source:
    """Find the model below all adapters; a recursion, so that adapters that name each other end in an error."""
    base = source.base() if isinstance(source, DirectorySource) else None
    return source if base is None else _innermost(base)


def _newest_revision(name: str) -> str | None:
    """Find the commit of a model of the hub, in the local cache or on the hub."""
    revision: str | None = extract_commit_hash(cached_file(name, "config.json"), None)
    return revision
