"""
==============================
Churn with ``cross_val_score``
==============================

Which clients will leave? The pipeline of an LLM embedding is evaluated like any other
estimator, and beside two others that every such evaluation needs: simple aggregates,
and the best that any prediction could reach.
"""

# %%
# The data are simulated, so the probability with which each client leaves is known.
# Ranking the clients by it is as good as a prediction gets; what is left is chance.

from skllm4es.datasets import make_transactions

X, y, probability = make_transactions(
    n_users=500, mean_events=20, return_proba=True, random_state=0
)
print(f"{len(X)} clients, {y.mean():.0%} leave")

# %%
# Two pipelines
# -------------
# Both start from the same events and end in a linear classifier. Aggregates have scales
# of their own: they are standardised, and strongly regularised for 500 clients. The
# dimensions of the embedding have one scale, and the first of them vary most: it is
# left as it is.

from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from skllm4es import EventSerializer, LLMEmbedder, TextEnricher
from skllm4es.baselines import EventAggregator
from skllm4es.vocabularies import load_mcc_names

serializer = EventSerializer(
    ["mcc", "amount", "type"], labels={"mcc": load_mcc_names()}, max_events=20
)
pipelines = {
    "LLM embedding": Pipeline(
        [
            ("serialize", serializer),
            ("enrich", TextEnricher(random_state=0)),
            ("embed", LLMEmbedder(epochs=0.3, random_state=0)),
            ("classify", LogisticRegression()),
        ]
    ),
    "aggregates": Pipeline(
        [
            ("aggregate", EventAggregator()),
            ("scale", StandardScaler()),
            ("classify", LogisticRegression(C=0.01)),
        ]
    ),
}

# %%
# Cross-validation
# ----------------
# Each fold fits all steps on its training clients, the language model among them:
# nothing of the clients held out is seen before they are scored.

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
scores["the best possible"] = [
    roc_auc_score(y.iloc[held_out], probability.iloc[held_out])
    for _, held_out in folds.split(X, y)
]
scores.agg(["mean", "std"]).T.round(3)

# %%
# One dot is one fold, the bar their mean. Folds of 125 clients differ by more than most
# methods do: on so few users, a difference of a few hundredths of ROC-AUC means
# nothing. And a language model that was trained for a few seconds is not what the
# method's authors mean: this is how an evaluation is set up, not its result on your
# data.

import matplotlib.pyplot as plt

figure, ax = plt.subplots(figsize=(7, 3), layout="constrained")
ax.barh(scores.columns, scores.mean() - 0.5, left=0.5, color="lightsteelblue")
for position, name in enumerate(scores):
    ax.plot(scores[name], [position] * len(scores), "o", color="navy", alpha=0.6)
ax.axvline(0.5, color="black", linestyle=":", label="chance")
ax.set(xlabel="ROC-AUC on clients held out", xlim=(0.4, 1))
ax.invert_yaxis()
ax.legend(loc="upper right")
plt.show()
