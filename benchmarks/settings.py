"""`LLMEmbedder` from flat settings, so that a row of a table can change one setting without knowing whose it is."""

from __future__ import annotations

from typing import Any

from skllm4es import FineTuning, FromScratch, LLMEmbedder, LoRA


def make_embedder(model: str | None = None, **settings: Any) -> LLMEmbedder:
    """Return an embedder, with the settings of `FromScratch` and `FineTuning` where they belong.

    Parameters
    ----------
    model : str, default=None
        The pretrained model; by default one is trained from scratch.
    **settings
        Of `LLMEmbedder`, `FromScratch` and `FineTuning`. With ``finetune=None``, those of `FineTuning` have no effect.
    """
    scratch, training = (
        {name: settings.pop(name) for name in owner.get_params() if name in settings}
        for owner in (FromScratch(), FineTuning())
    )
    kind = settings.pop("finetune", "full")
    finetune = None if kind is None else {"full": FineTuning, "lora": LoRA}[kind](**training)
    return LLMEmbedder(FromScratch(**scratch) if model is None else model, finetune=finetune, **settings)
