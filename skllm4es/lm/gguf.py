"""GGUF files, as llama.cpp, Ollama and LM Studio keep them: converted once into a directory as transformers writes it.

transformers reads the file; what it ignores is set here: how the tokenizer splits text, which tokens it adds, which
tokens end an answer, and how positions are scaled. Weights become float32, which loses nothing beyond what the
quantisation has lost already.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.pre_tokenizers import PreTokenizer
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GgufConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers import __version__ as transformers_version

from skllm4es._compat import gguf_read_once, gguf_splits
from skllm4es._messages import warn
from skllm4es._store import hash_of
from skllm4es.lm.cache import Cache
from skllm4es.lm.folders import check_room, writing_errors
from skllm4es.lm.gguf_header import Header, read_header
from skllm4es.lm.loading import NO_CODE, check_complete
from skllm4es.lm.training_log import TrainingLog, check_whole, write_log

#: Increased when the same file is converted to another model.
_VERSION = "1"
#: What the file is called where transformers reads it.
_NAME = "model.gguf"
_FLOAT = 4  # bytes

#: Where each file was converted to by this process, by its fingerprint.
_CONVERTED: dict[str, Path] = {}


class _Kind(NamedTuple):
    """How a kind of byte-level tokenizers (``tokenizer.ggml.pre``) splits text.

    Parameters
    ----------
    split : str
        A regular expression; "digits" stands for single digits, then GPT-2's splits, and "" for GPT-2's splits.
    normalised : bool, default=False
        Whether characters are composed (NFC).
    whole : bool, default=False
        Whether a piece that is a token is never built by merges.
    begins : bool, default=False
        Whether a text begins with a token for that, if the file does not say.
    """

    split: str
    normalised: bool = False
    whole: bool = False
    begins: bool = False


_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT2, _SMOLLM = _Kind(""), _Kind("digits")
_LLAMA3 = _Kind(_WORDS + r"\p{N}{1,3}" + _REST, whole=True, begins=True)
_QWEN2 = _Kind(_WORDS + r"\p{N}" + _REST, normalised=True)
#: The kinds that are known to be right, from llama.cpp (llama-vocab.cpp) and the tokenizers of the models themselves.
_KINDS = {
    "default": _GPT2,
    "gpt-2": _GPT2,
    "smollm": _SMOLLM,
    **dict.fromkeys(["llama-bpe", "llama-v3", "llama3", "falcon3", "pixtral"], _LLAMA3),
    **dict.fromkeys(["qwen2", "deepseek-r1-qwen", "megrez"], _QWEN2),
}


def converted(file: Path, fingerprint: str, memory: Path | None) -> Path:
    """Return the directory with the converted model of a GGUF file; convert it if this was not done yet.

    Parameters
    ----------
    file : pathlib.Path
        The file.
    fingerprint : str
        Its hash.
    memory : pathlib.Path or None
        A cache in which it is kept for other processes; by default it is kept until this process ends.

    Returns
    -------
    pathlib.Path
        The directory, whose files are those that were written.
    """
    if memory is not None and not memory.is_dir():  # A pickle from another machine.
        memory = None
    here = _CONVERTED.get(fingerprint)
    if here is not None and here.is_dir() and memory is None:
        return here
    models = Cache(memory or _scratch())
    key = hash_of("gguf", _VERSION, transformers_version, fingerprint)
    with models.lock_model(key):
        folder = models.find_model(key)
        if folder is None:
            header = read_header(file)
            with writing_errors(models.models, "load the model again"):
                check_room(models.models, _FLOAT * sum(tensor.n_values for tensor in header.tensors.values()))
                folder = models.store_model(key, lambda draft: _write(header, here, draft))
    check_whole(folder, "converted again")
    _CONVERTED[fingerprint] = folder
    return folder


def require_extra() -> None:
    """Raise an ImportError if the library of the extra is missing."""
    if find_spec("gguf") is None:
        raise ImportError("GGUF files need the package gguf: pip install --upgrade 'skllm4es[gguf]'.")


def warn_if_unknown(header: Header) -> None:
    """Warn if it is not known how the tokenizer splits text."""
    kind = header.metadata.get("tokenizer.ggml.pre")
    if header.metadata.get("tokenizer.ggml.model") == "gpt2" and kind not in {*_KINDS, *gguf_splits()}:
        named = "does not say how its tokenizer splits text" if kind is None else f"has a tokenizer of kind {kind!r}"
        warn(
            f"{header.path.name} {named}, so text is split as GPT-2 does. Its tokens may differ from those that the "
            "model was trained on, which makes it worse. Prefer the directory of the original model, or a newer file."
        )


@cache
def _scratch() -> str:
    """Return a directory that is removed when this process ends."""
    folder = tempfile.mkdtemp(prefix="skllm4es-")
    made_by = os.getpid()

    def remove() -> None:
        if os.getpid() == made_by:  # A child that was forked runs this as well.
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder


def _write(header: Header, known: Path | None, draft: Path) -> None:
    """Write the converted model into an empty directory; `known` may have it already."""
    if known is not None and known.is_dir():
        shutil.copytree(known, draft, dirs_exist_ok=True)
        return
    try:
        # Alone in a directory, so that nothing beside the file is taken for a part of the model.
        with tempfile.TemporaryDirectory() as folder, gguf_read_once():
            _link(header.path, Path(folder) / _NAME)
            config = _read_config(folder, header)
            tokenizer = _read_tokenizer(folder, header)
            model = _read_model(folder, header, config)
    except ValueError:
        raise
    except Exception as error:  # Whatever the libraries raise where the file contradicts itself.
        raise ValueError(f"{type(error).__name__}: {error}") from error
    model.save_pretrained(draft)
    tokenizer.save_pretrained(draft)
    write_log(draft, TrainingLog())


def _link(file: Path, link: Path) -> None:
    try:
        link.symlink_to(file.absolute())
    except OSError:  # Windows, without the right to make links.
        shutil.copyfile(file, link)


def _read_config(folder: str, header: Header) -> PretrainedConfig:
    config = AutoConfig.from_pretrained(folder, gguf_file=_NAME, **NO_CODE)  # a directory  # nosec B615
    if config.is_encoder_decoder:
        raise ValueError(f"{config.model_type} has an encoder and a decoder.")
    config._name_or_path = ""
    if header.setting("attention.sliding_window") is not None:
        config.sliding_window = header.setting("attention.sliding_window")
    positions = getattr(config, "rope_parameters", None) or {}
    # Gemma 3 scales only the positions of layers that see the whole text.
    positions.get("full_attention", positions).update(_rope_scaling(header))
    return config


def _rope_scaling(header: Header) -> dict[str, Any]:
    """Return how positions are scaled, which transformers does not read from GGUF files."""
    factors = [name for name in header.tensors if name.startswith("rope_f")]
    kind = header.setting("rope.scaling.type")
    if factors == ["rope_freqs.weight"] and kind in (None, "none", "llama3"):
        return _llama3_scaling(header)
    if factors or kind not in (None, "none", "linear", "yarn"):
        raise ValueError(f"it scales positions in a way that cannot be read ({kind or ', '.join(factors)}).")
    if kind in (None, "none"):
        return {}
    scaling = {"rope_type": kind, "factor": float(header.setting("rope.scaling.factor"))}
    original = header.setting("rope.scaling.original_context_length")
    return scaling if original is None else scaling | {"original_max_position_embeddings": int(original)}


def _llama3_scaling(header: Header) -> dict[str, Any]:
    """Recover the scaling of Llama 3.1 and later, of which the file has only the resulting factors."""
    found = header.read_floats("rope_freqs.weight")
    low, high, original, factor = 1.0, 4.0, 8192, float(found.max())
    # The wave lengths of Llama 3: short ones stay, long ones are stretched by the factor, others lie between.
    exponents = np.arange(len(found)) / len(found)
    waves = 2 * np.pi * float(header.setting("rope.freq_base") or 10_000.0) ** exponents
    smooth = np.clip((original / waves - low) / (high - low), 0, 1)
    if not np.allclose(found, 1 / ((1 - smooth) / factor + smooth), rtol=1e-3):
        raise ValueError("it scales positions in a way that is not that of Llama 3.")
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": original,
    }


def _read_tokenizer(folder: str, header: Header) -> PreTrainedTokenizerBase:
    """Read the tokenizer, and let it split and begin a text as the file says."""
    read = PreTrainedTokenizerFast.from_pretrained(folder, gguf_file=_NAME)  # a directory  # nosec B615
    backend, metadata = read.backend_tokenizer, header.metadata
    begins = read.add_bos_token
    if metadata.get("tokenizer.ggml.model") == "gpt2" and (kind := _KINDS.get(metadata.get("tokenizer.ggml.pre", ""))):
        _split_as(kind, backend)
        begins = metadata.get("tokenizer.ggml.add_bos_token", kind.begins)
    if metadata.get("tokenizer.ggml.add_space_prefix") is False and hasattr(backend.pre_tokenizer, "prepend_scheme"):
        backend.pre_tokenizer.prepend_scheme = "never"

    def token(name: str) -> str | None:
        number = metadata.get(f"tokenizer.ggml.{name}_token_id")
        return None if number is None else backend.id_to_token(number)

    bos, eos = token("bos"), token("eos")
    # Made again, because the class that reads it writes down more than there is in the file.
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=bos,
        eos_token=eos,
        unk_token=token("unknown"),
        pad_token=token("padding"),
        add_bos_token=begins and bos is not None,
        add_eos_token=read.add_eos_token and eos is not None,
        chat_template=read.chat_template,
        clean_up_tokenization_spaces=False,
    )


def _split_as(kind: _Kind, backend: Tokenizer) -> None:
    """Let a byte-level tokenizer split text as one of a kind."""
    if kind.split == "digits":
        first: PreTokenizer = pre_tokenizers.Digits(individual_digits=True)
    elif kind.split:
        first = pre_tokenizers.Split(Regex(kind.split), behavior="isolated")
    else:
        return
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind.split == "digits")
    backend.pre_tokenizer = pre_tokenizers.Sequence([first, last])
    if kind.normalised:
        backend.normalizer = normalizers.NFC()
    backend.model.ignore_merges = kind.whole


def _read_model(folder: str, header: Header, config: PretrainedConfig) -> PreTrainedModel:
    """Read the model with its head, in a form that was never quantised and can be written.

    Raises
    ------
    ValueError
        If the file has not exactly the weights of the model that its settings describe.
    """
    with torch.device("meta"):
        plain: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    n_described = sum(weights.numel() for weights in plain.parameters())
    beside = {"rope_freqs.weight"} | ({"output.weight"} if config.tie_word_embeddings else set())
    n_held = sum(tensor.n_values for name, tensor in header.tensors.items() if name not in beside)
    if n_described != n_held:  # Found out before memory is taken for them.
        raise ValueError(
            f"it holds {n_held:,} weights, but the model that transformers makes of its settings has {n_described:,}."
        )
    # Otherwise transformers would look for kernels that multiply quantised weights, and download their code.
    settings = GgufConfig(dequantize=True)
    read, report = AutoModelForCausalLM.from_pretrained(  # a directory  # nosec B615
        folder,
        gguf_file=_NAME,
        config=config,
        dtype=torch.float32,
        quantization_config=settings,
        output_loading_info=True,
        **NO_CODE,
    )
    check_complete(sorted(report["missing_keys"]))
    plain.load_state_dict(read.state_dict(), assign=True)
    plain.tie_weights()
    plain.generation_config.eos_token_id = _ends(header)
    return plain


def _ends(header: Header) -> list[int] | None:
    """Return the tokens that end an answer: of the text, of a turn, of a message."""
    names = [f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot", "eom")]
    return list(dict.fromkeys(header.metadata[name] for name in names if name in header.metadata)) or None
