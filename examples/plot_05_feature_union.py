"""
=========================================
LLM embedding beside CoLES and aggregates
=========================================

Aggregates count, CoLES contrasts slices of histories, and a language model reads them.
The three see different things, and a :class:`~sklearn.pipeline.FeatureUnion` puts their
vectors side by side.
"""

# %%
# Three transformers of the same events
# -------------------------------------

from sklearn.pipeline import Pipeline

from skllm4es import EventSerializer, LLMEmbedder
from skllm4es.baselines import CoLESEmbedder, EventAggregator
from skllm4es.datasets import make_transactions
from skllm4es.models import smollm2
from skllm4es.vocabularies import load_mcc_names

X, y = make_transactions(n_users=400, mean_events=20, class_sep=3, random_state=0)

llm = Pipeline(
    [
        ("serialize", EventSerializer(labels={"mcc": load_mcc_names()})),
        ("embed", LLMEmbedder(smollm2(), finetune=None)),
    ]
)
coles = CoLESEmbedder(hidden_size=32, epochs=4, random_state=0)
aggregates = EventAggregator()

# %%
# Combining them
# --------------
# The vectors of the three have different lengths. Scaled to unit length, each has the
# same weight in a union.
#
# The learned representations are fitted here only once, on the events of all clients
# without their labels, which saves one training per fold. A union is a transformer like
# its parts, ``FeatureUnion([("llm", llm), ("coles", coles)])``, and
# :class:`~sklearn.frozen.FrozenEstimator` keeps cross-validation from fitting the parts
# again.

from sklearn.frozen import FrozenEstimator
from sklearn.impute import SimpleImputer
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

fitted = {
    # Cheap enough to fit in each fold.
    "aggregates": make_pipeline(
        aggregates, SimpleImputer(), StandardScaler(), Normalizer()
    ),
    "CoLES": make_pipeline(FrozenEstimator(coles.fit(X)), Normalizer()),
    "LLM": make_pipeline(FrozenEstimator(llm.fit(X)), Normalizer()),
}
unions = [
    ["aggregates"],
    ["CoLES"],
    ["LLM"],
    ["CoLES", "LLM"],
    ["aggregates", "CoLES", "LLM"],
]

# %%
# Do they complement each other?
# ------------------------------

import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import RepeatedStratifiedKFold, cross_val_score

folds = RepeatedStratifiedKFold(n_splits=4, n_repeats=2, random_state=0)
scores = {}
for names in unions:
    union = Pipeline(
        [
            ("embed", FeatureUnion([(name, fitted[name]) for name in names])),
            ("classify", LogisticRegression()),
        ]
    )
    scores[" + ".join(names)] = cross_val_score(
        union, X, y, scoring="roc_auc", cv=folds
    )
table = pd.DataFrame(scores).agg(["mean", "std"]).T.sort_values("mean")
table.round(3)

# %%
# The bars are means over eight splits, the lines standard deviations. A union is not
# always better than its best part: each part also adds dimensions for a classifier that
# learns from only 300 clients. These histories are short and simulated: what carries
# over to your data is the comparison, not its result.

import matplotlib.pyplot as plt

figure, ax = plt.subplots(layout="constrained")
ax.barh(
    table.index,
    table["mean"] - 0.5,
    left=0.5,
    xerr=table["std"],
    color="lightsteelblue",
    ecolor="navy",
)
ax.axvline(0.5, color="black", linestyle=":", label="chance")
ax.set(xlabel="ROC-AUC on held-out clients", xlim=(0.4, 0.95))
ax.legend(loc="lower right")
plt.show()
