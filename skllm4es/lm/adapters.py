"""LoRA: fine-tuning of small matrices beside the weights of a pretrained model, by peft.

An adapter is either merged into the weights or kept by itself: then the model's directory holds only the adapter, which
names the directory or hub repository of the model below it.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import SAFETENSORS_WEIGHTS_NAME, ModulesToSaveWrapper
from transformers import PreTrainedModel

from skllm4es.lm.seeding import PROCESS_STATE

_CONFIG_FILE = "adapter_config.json"


def add_adapter(
    model: PreTrainedModel, settings: Mapping[str, Any], reference: str, revision: str | None = None
) -> PeftModel:
    """Put a new LoRA adapter beside the weights of a model, which are frozen.

    Draws from torch's global random state: seed it first.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        The model; its layers are changed in place.
    settings : mapping
        Settings of `peft.LoraConfig`.
    reference : str
        Where the adapter will find the model again: a directory, or its name on the hub.
    revision : str, default=None
        Its commit on the hub.
    """
    config = LoraConfig(task_type=TaskType.CAUSAL_LM, **settings)
    with _peft_warnings_hidden():
        adapted = get_peft_model(model, config, revision=revision)
    if model.config.get_text_config().tie_word_embeddings:
        tied = (model.get_input_embeddings(), model.get_output_embeddings())
        if any(isinstance(module, BaseTunerLayer | ModulesToSaveWrapper) for module in tied):
            raise ValueError(
                "The adapter would change the input embeddings or the output layer, whose weights this model shares: "
                f"merged, it would change both. Name other modules than {config.target_modules!r}, and in "
                f"modules_to_save others than {config.modules_to_save!r}."
            )
    config.base_model_name_or_path = reference
    return adapted


def read_reference(directory: str | Path) -> tuple[str, str | None] | None:
    """Return the directory or hub name of the model below a directory's adapter, and its commit; None without one."""
    file = Path(directory) / _CONFIG_FILE
    if not file.is_file():
        return None
    config = json.loads(file.read_text(encoding="utf-8"))
    return config["base_model_name_or_path"], config.get("revision")


def attach_adapter(model: PreTrainedModel, directory: str | Path) -> PeftModel:
    """Put the adapter of a directory beside the weights of its model, in evaluation mode.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        The model below it; its layers are changed in place.
    directory : str or pathlib.Path
        The adapter's directory.

    Raises
    ------
    ValueError
        If its weights are not there as safetensors, or it names code or further adapters to load.
    """
    config = json.loads((Path(directory) / _CONFIG_FILE).read_text(encoding="utf-8"))
    if config.get("megatron_config"):  # peft 0.19 imports any module that is named there.
        raise ValueError(f"the adapter in {directory} names a module to import: remove its megatron_config.")
    if config.get("peft_type") == "XLORA":  # They may be pickles.
        raise ValueError(f"the adapter in {directory} names other adapters to read: choose one that stands alone.")
    if not (Path(directory) / SAFETENSORS_WEIGHTS_NAME).is_file():  # peft would look for a pickle.
        raise ValueError(f"the adapter in {directory} has no {SAFETENSORS_WEIGHTS_NAME}.")
    with _peft_warnings_hidden():
        return PeftModel.from_pretrained(model, str(directory), autocast_adapter_dtype=False).eval()


def save_adapter(model: PeftModel, directory: Path) -> None:
    """Write the adapter of a model into an empty directory."""
    model.save_pretrained(str(directory), save_embedding_layers=False)
    (directory / "README.md").unlink(missing_ok=True)  # A page for the hub, to be filled in.


def check_merges(model: PeftModel) -> None:
    """Reject a new adapter that cannot be merged, before it is trained; the model is not changed.

    Raises
    ------
    ValueError
        If one of its layers cannot be merged.
    """
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            layer = copy.deepcopy(module)  # One at a time, which takes the memory of one.
            try:
                layer.merge()
            except (RuntimeError, NotImplementedError, ValueError) as error:
                raise ValueError(
                    f"The adapter cannot be merged into the model: {error} Set merge=False, or change lora_args."
                ) from error


@contextmanager
def _peft_warnings_hidden() -> Iterator[None]:
    """Hide warnings of peft 0.21: that it uses a name that transformers is about to remove, and of what we refuse."""
    with PROCESS_STATE, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        warnings.filterwarnings("ignore", "Model has `tie_word_embeddings=True` and a tied layer", UserWarning)
        yield
