"""LoRA: fine-tuning of small matrices beside the weights of a pretrained model, by peft.

An adapter is kept either merged into the weights, or by itself: the directory of a model is then its adapter, which
names the directory or the hub's name of the model underneath.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from transformers import PreTrainedModel

from skllm4es._messages import did_you_mean

#: All matrices of the layers, with which LoRA is nearest to training all weights ("LoRA Without Regret", Schulman et
#: al., 2025).
DEFAULTS: dict[str, Any] = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}

_CONFIG = "adapter_config.json"


def add_adapter(
    model: PreTrainedModel, settings: Mapping[str, Any], source: str, revision: str | None = None
) -> PeftModel:
    """Put a LoRA adapter beside the weights of a model, which are frozen.

    Draws from torch's global random state: seed it first.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        The model; its layers are changed in place.
    settings : mapping
        Settings of `peft.LoraConfig` that replace `DEFAULTS`.
    source : str
        Where the model comes from: a directory, or its name on the hub.
    revision : str, default=None
        Its commit on the hub.

    Returns
    -------
    peft.PeftModel
        The model with its adapter, ready to be trained.
    """
    config = LoraConfig(task_type=TaskType.CAUSAL_LM, **(DEFAULTS | dict(settings)))
    with _old_names_allowed():
        adapted = get_peft_model(model, config, revision=revision)
    # Found again from wherever the adapter is loaded.
    config.base_model_name_or_path = os.path.abspath(source) if os.path.isdir(source) else source
    return adapted


def check_settings(settings: Mapping[str, Any]) -> None:
    """Refuse settings that LoRA does not have.

    Parameters
    ----------
    settings : mapping
        Settings of `peft.LoraConfig`.

    Raises
    ------
    ValueError
        If one of them is unknown.
    """
    known = {field.name for field in fields(LoraConfig)} - {"task_type", "inference_mode"}
    unknown = [name for name in settings if name not in known]
    if unknown:
        hint = did_you_mean(unknown, known) or " See its documentation for their names."
        raise ValueError(f"lora_args names {unknown}, which are not settings of peft.LoraConfig.{hint}")


def underlying(directory: str | Path) -> tuple[str, str | None] | None:
    """Find the model under the adapter of a directory.

    Parameters
    ----------
    directory : str or pathlib.Path
        The directory of a model, or the hub name of one.

    Returns
    -------
    (str, str or None) or None
        Directory or hub name of the model, and its commit; None where there is no adapter.
    """
    file = Path(directory) / _CONFIG
    if not file.is_file():
        return None
    config = json.loads(file.read_text(encoding="utf-8"))
    return config["base_model_name_or_path"], config.get("revision")


def attach_adapter(model: PreTrainedModel, directory: str | Path) -> PeftModel:
    """Put the adapter of a directory beside the weights of its model.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        The model underneath; its layers are changed in place.
    directory : str or pathlib.Path
        The adapter's directory.

    Returns
    -------
    peft.PeftModel
        The model with its adapter, in evaluation mode.

    Raises
    ------
    ValueError
        If its weights are not there as safetensors, or it would have more loaded than itself.
    """
    config = json.loads((Path(directory) / _CONFIG).read_text(encoding="utf-8"))
    if config.get("megatron_config"):  # peft 0.18 imports any.
        raise ValueError(f"the adapter in {directory} names a module to be imported: remove its megatron_config.")
    if config.get("peft_type") == "XLORA":  # They may be pickles.
        raise ValueError(f"the adapter in {directory} names other adapters to be read: choose one that stands alone.")
    if not (Path(directory) / SAFETENSORS_WEIGHTS_NAME).is_file():  # peft would look for a pickle.
        raise ValueError(f"the adapter in {directory} has no {SAFETENSORS_WEIGHTS_NAME}.")
    with _old_names_allowed():
        return PeftModel.from_pretrained(model, str(directory), autocast_adapter_dtype=False).eval()


def save_adapter(model: PeftModel, directory: Path) -> None:
    """Write an adapter into a directory.

    Parameters
    ----------
    model : peft.PeftModel
        The model with its adapter.
    directory : pathlib.Path
        An empty directory.
    """
    model.save_pretrained(str(directory), save_embedding_layers=False)
    (directory / "README.md").unlink(missing_ok=True)  # A page for the hub, to be filled in.


@contextmanager
def _old_names_allowed() -> Iterator[None]:
    """Keep from users the warning that peft 0.21 asks transformers by a name that is about to go."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield
