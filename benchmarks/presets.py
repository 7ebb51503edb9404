"""How much is spent: "smoke" shows that all runs, "cpu" is for two cores and an hour a table, "paper" is the paper's.

Tables either train one language model a split (main, ensembles, domains, data-efficiency: the budget `few`) or one a
row (components, strategies, base-llms: the budget `many`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

#: What stands in for the paper's models on a CPU: a Llama trained from scratch, a small pretrained one in the data
#: home, and templates. Other names are of the model hub, or directories.
FROM_SCRATCH, TINYSTORIES, TEMPLATES = "scratch", "tinystories-656k", "templates"

#: Its 0.7M weights learn nothing in few steps at the 1e-5 that suits billions.
TINYSTORIES_LEARNING_RATE = 1e-3

LLAMA_3B = "meta-llama/Llama-3.2-3B"
QWEN_1_7B = "Qwen/Qwen3-1.7B"
LLAMA_8B_INSTRUCT = "meta-llama/Llama-3.1-8B-Instruct"


@dataclass(frozen=True)
class Budget:
    """What a table may spend.

    Parameters
    ----------
    fit : {"leak-free", "transductive"}
        Which users representations are fitted on.
    seeds : tuple of int
        How often all is repeated.
    max_events : int or None
        The latest events of each user that language models read; None is all.
    scratch, pretrained : dict
        Settings of `LLMEmbedder`, for a model from scratch and for one that is fine-tuned.
    """

    fit: str
    seeds: tuple[int, ...]
    max_events: int | None = None
    scratch: dict[str, Any] = field(default_factory=dict)
    pretrained: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Preset:
    """The settings that are not of a table's row.

    Parameters
    ----------
    protocol : {"holdout", "cv"}
        How users are split.
    few, many : Budget
        Of tables that train one language model a split, and of those that train one a row.
    models : mapping of str to tuple of str
        The language models: "main", and those of tables that compare others. Tables that take one take the first.
    rewriter : str
        What enriches: templates, or an instruct model.
    n_users : int or None
        Use the first users alone.
    n_folds : int
        Number of folds.
    epochs : float
        Share of the neural baselines' epochs.
    neural : mapping
        Settings of the neural baselines.
    published : bool
        Whether the neural baselines have the published settings for the data set, where there are any.
    sizes : tuple of int
        Numbers of labelled users of the learning curve; its last point is all of them.
    n_draws : int
        How often the labelled users of each point are drawn anew, in each fold.
    """

    protocol: str
    few: Budget
    many: Budget
    models: Mapping[str, tuple[str, ...]]
    rewriter: str = TEMPLATES
    n_users: int | None = None
    n_folds: int = 5
    epochs: float = 1.0
    neural: Mapping[str, Any] = field(default_factory=dict)
    published: bool = False
    sizes: tuple[int, ...] = (2, 5, 10, 20, 50, 100, 200, 400)
    n_draws: int = 3

    def models_of(self, table: str) -> tuple[str, ...]:
        """Give the language models of a table."""
        return self.models.get(table, self.models["main"])


_ON_A_CPU = {
    "main": (FROM_SCRATCH, LLAMA_3B),
    "components": (FROM_SCRATCH, TINYSTORIES, LLAMA_3B),
    "base-llms": (FROM_SCRATCH, TINYSTORIES, QWEN_1_7B, LLAMA_3B),
}

#: Besides what `LLMEmbedder` takes from the paper by default for pretrained models: all weights trained, 2 epochs at a
#: learning rate of 1e-5 that falls as a cosine after 608 steps, the last 8 layers. The authors embed texts of up to
#: 16,384 tokens; here longer ones than those of training are embedded whole, in windows.
_PAPER = Budget("transductive", (0,), None, {}, {"max_length": 8192, "gradient_checkpointing": True})

_SMALL = {"epochs": 1, "batch_tokens": 2048}
_SMOKE = Budget("transductive", (0,), 5, {"epochs": 0.5, "n_params": 100_000}, _SMALL)
#: Tables that compare ways of training look at hidden states, as the paper does: scores are always of the raw form.
_HIDDEN = {"features": "hidden"}

PRESETS: dict[str, Preset] = {
    "smoke": Preset(
        protocol="cv",
        few=replace(_SMOKE, fit="leak-free"),
        many=replace(_SMOKE, scratch=_SMOKE.scratch | _HIDDEN),
        models=_ON_A_CPU,
        n_users=40,
        n_folds=2,
        epochs=0.0,
        neural={"hidden_size": 8},
        sizes=(4, 10),
        n_draws=1,
    ),
    "cpu": Preset(
        protocol="cv",
        few=Budget("leak-free", (0,)),  # The defaults of `LLMEmbedder`.
        # The same size for all, so that rows with more texts do not have a larger model as well.
        many=Budget("transductive", (0,), 10, {"epochs": 1, "n_params": 300_000, **_HIDDEN}, _SMALL),
        models=_ON_A_CPU,
        epochs=0.25,
    ),
    "paper": Preset(
        protocol="holdout",
        few=_PAPER,
        many=_PAPER,
        models={"main": (LLAMA_3B,), "base-llms": (QWEN_1_7B, LLAMA_3B)},
        rewriter=LLAMA_8B_INSTRUCT,
        published=True,
    ),
}
