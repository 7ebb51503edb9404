"""
=====================================
Explaining a prediction by its events
=====================================

Why does the model predict that this client leaves? The dimensions of an embedding mean
nothing to a reader, but events do. A vector of event features is a sum over a client's
events, so the score of a linear model is one as well, and
:meth:`~skllm4es.LLMEmbedder.explain` returns its terms.
"""

# %%
# A fitted pipeline
# -----------------
# SmolLM2, a pretrained language model that pip installs, reads each distinct event
# once. The classifier must be linear, and nothing may stand between it and the
# embedding.

from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline

from skllm4es import EventSerializer, LLMEmbedder
from skllm4es.datasets import make_transactions
from skllm4es.models import smollm2
from skllm4es.vocabularies import load_mcc_names

X, y = make_transactions(n_users=400, mean_events=25, class_sep=3, random_state=0)
X_train, X_test, y_train, y_test = train_test_split(
    X, y, test_size=0.25, random_state=0, stratify=y
)
serializer = EventSerializer(
    ["event_time", "mcc", "amount", "type"], labels={"mcc": load_mcc_names()}
)
pipeline = Pipeline(
    [
        ("serialize", serializer),
        ("embed", LLMEmbedder(smollm2(), finetune=None)),
        ("classify", LogisticRegression()),
    ]
).fit(X_train, y_train)

# %%
# An explanation deserves no more trust than the predictions:

from sklearn.metrics import roc_auc_score

auc = roc_auc_score(y_test, pipeline.decision_function(X_test))
print(f"ROC-AUC on held-out clients: {auc:.2f}")

# %%
# What each event adds
# --------------------
# Take the held-out client with the highest predicted risk, among those with at least
# ten events. A row is a distinct event, an event with a low or high number in it, or a
# statistic of numbers and times.

import pandas as pd

long_enough = X_test[[len(events) >= 10 for events in X_test["events"]]]
scores = pd.Series(pipeline.decision_function(long_enough), index=long_enough.index)
client = X_test.loc[[scores.idxmax()]]

texts = pipeline["serialize"].transform(client)
coef = pipeline["classify"].coef_[0]
contributions = pipeline["embed"].explain(texts, coef)
contributions.sort_values("contribution", key=abs, ascending=False).head(10).round(3)

# %%
# Nothing is left out: the terms and the intercept are the score. "(average user)" is
# what the average client has and this one is compared with.

total = contributions["contribution"].sum() + pipeline["classify"].intercept_[0]
print(f"sum of the terms: {total:.4f}, score: {scores.max():.4f}")

# %%
# The ten terms that matter most, as a figure:

import matplotlib.pyplot as plt

from skllm4es.plotting import ContributionsDisplay

figure, ax = plt.subplots(figsize=(9, 5), layout="constrained")
ContributionsDisplay.from_contributions(contributions, ax=ax)
ax.set(xlabel="log-odds of leaving", title=f"Client {client.index[0]}")
plt.show()

# %%
# What all clients have in common
# -------------------------------
# Summed over the clients, the same table says what the classifier looks at.

everyone = pipeline["embed"].explain(pipeline["serialize"].transform(X_test), coef)
everyone = everyone[everyone["event"] != "(average user)"]
weight = everyone["contribution"].abs().groupby(everyone["event"]).sum()
(weight.nlargest(10) / weight.sum()).round(3).to_frame("share")

# %%
# For other features and other estimators, leave out events one by one and predict
# again. That needs to know nothing about the model, but it misses what events do
# together: of ten visits to the same shop, each alone may not matter.
