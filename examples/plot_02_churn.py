"""
==============================
Churn with ``cross_val_score``
==============================

Which clients will leave? A pipeline with an LLM embedding is evaluated like any other
estimator. This tutorial compares it with two references that every such evaluation
needs: simple aggregates, and the best that any prediction could achieve.
"""

# %%
# The data is simulated, so the probability that each client leaves is known. No
# prediction can be better than ranking the clients by it; the rest is chance.

from skllm4es.datasets import make_transactions

X, y, probability = make_transactions(
    n_users=500, mean_events=20, return_proba=True, random_state=0
)
print(f"{len(X)} clients, {y.mean():.0%} leave")

# %%
# Three pipelines
# ---------------
# All start from the same events and end in a linear classifier. Aggregates have
# different scales, so they are standardised, and strongly regularised for 500 clients.
# The embedding by SmolLM2, a pretrained model that pip installs, is left as it is.
# :func:`~skllm4es.event_pipeline` puts both side by side. With ``memory``, no event is
# read twice in all folds.

from tempfile import TemporaryDirectory

from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from skllm4es import EventSerializer, LLMEmbedder, event_pipeline
from skllm4es.baselines import EventAggregator
from skllm4es.models import smollm2
from skllm4es.vocabularies import load_mcc_names

cache = TemporaryDirectory()
names = {"mcc": load_mcc_names()}
pipelines = {
    "LLM embedding": Pipeline(
        [
            ("serialize", EventSerializer(labels=names)),
            ("embed", LLMEmbedder(smollm2(), finetune=None, memory=cache.name)),
            ("classify", LogisticRegression()),
        ]
    ),
    "aggregates": Pipeline(
        [
            ("aggregate", EventAggregator()),
            ("impute", SimpleImputer()),
            ("scale", StandardScaler()),
            ("classify", LogisticRegression(C=0.01)),
        ]
    ),
    "both": event_pipeline(LogisticRegression(), memory=cache.name).set_params(
        features__llm__serialize__labels=names
    ),
}

# %%
# Cross-validation
# ----------------
# Each fold fits all steps on its training clients. Nothing about the held-out clients
# is seen before they are scored.

import pandas as pd
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_score

folds = StratifiedKFold(4, shuffle=True, random_state=0)
scores = pd.DataFrame(
    {
        name: cross_val_score(pipeline, X, y, scoring="roc_auc", cv=folds)
        for name, pipeline in pipelines.items()
    }
)
cache.cleanup()
scores["best possible"] = [
    roc_auc_score(y.iloc[held_out], probability.iloc[held_out])
    for _, held_out in folds.split(X, y)
]
scores.agg(["mean", "std"]).T.round(3)

# %%
# Each dot is one fold, each bar a mean. Folds of 125 clients differ by more than most
# methods do: with so few users, a difference of a few hundredths of ROC-AUC means
# nothing. So take this as a way to set up an evaluation, not as a prediction for your
# data.

import matplotlib.pyplot as plt

figure, ax = plt.subplots(layout="constrained")
ax.barh(scores.columns, scores.mean() - 0.5, left=0.5, color="lightsteelblue")
for position, name in enumerate(scores):
    ax.plot(scores[name], [position] * len(scores), "o", color="navy", alpha=0.6)
ax.axvline(0.5, color="black", linestyle=":", label="chance")
ax.set(xlabel="ROC-AUC on held-out clients", xlim=(0.4, 1))
ax.invert_yaxis()
ax.legend(loc="upper right")
plt.show()
