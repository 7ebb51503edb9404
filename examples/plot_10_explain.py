"""
=====================================
Explaining a prediction by its events
=====================================

Why does the model predict that this client leaves? The dimensions of an embedding mean
nothing to a reader, but events do. So leave out each event in turn, predict again, and
see what changes.
"""

# %%
# A fitted pipeline
# -----------------
# SmolLM2, a pretrained language model that pip installs, reads each distinct event
# once, so the many histories below cost next to nothing.

from tempfile import TemporaryDirectory

from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import Normalizer

from skllm4es import EventSerializer, LLMEmbedder
from skllm4es.datasets import make_transactions
from skllm4es.models import smollm2
from skllm4es.vocabularies import load_mcc_names

X, y = make_transactions(n_users=400, mean_events=25, class_sep=3, random_state=0)
X_train, X_test, y_train, y_test = train_test_split(
    X, y, test_size=0.25, random_state=0, stratify=y
)
names = load_mcc_names()
cache = TemporaryDirectory()
pipeline = Pipeline(
    [
        ("serialize", EventSerializer(["mcc", "type"], labels={"mcc": names})),
        (
            "embed",
            LLMEmbedder(smollm2(), finetune=None, features="events", memory=cache.name),
        ),
        ("scale", Normalizer()),
        ("classify", LogisticRegression()),
    ]
).fit(X_train, y_train)

# %%
# An explanation deserves no more trust than the predictions:

from sklearn.metrics import roc_auc_score

auc = roc_auc_score(y_test, pipeline.decision_function(X_test))
print(f"ROC-AUC on held-out clients: {auc:.2f}")

# %%
# One client, many histories
# --------------------------
# Take the held-out client with the highest predicted risk, among those with at least
# ten events. Each row of ``without`` is the same client with one event missing; the
# pipeline scores them all at once.

import pandas as pd

from skllm4es import nest_events, unnest_events

long_enough = X_test[[len(events) >= 10 for events in X_test["events"]]]
scores = pd.Series(pipeline.decision_function(long_enough), index=long_enough.index)
client = X_test.loc[[scores.idxmax()]]

events = unnest_events(client).reset_index(drop=True)
without = pd.concat(
    [events.drop(index=left_out).assign(row=left_out) for left_out in events.index]
)
without = nest_events(
    without, user="row", time="event_time", columns=["mcc", "type", "event_time"]
)

# %%
# The effect of an event
# ----------------------
# An event's effect on the log-odds is the score with the event minus the score without
# it.

events["effect"] = pipeline.decision_function(client) - pipeline.decision_function(
    without.loc[events.index]
)
cache.cleanup()
events["description"] = events["mcc"].map(names)
strongest = events.loc[events["effect"].abs().nlargest(10).index].sort_values("effect")
strongest[["event_time", "type", "description", "amount", "effect"]].round(
    {"effect": 3}
)

# %%
# The ten events that matter most, as a figure:

import matplotlib.pyplot as plt

shops = strongest["description"].str.partition(" - ")[0].str[:40]
labels = (
    strongest["event_time"].dt.strftime("%d %b  ")
    + shops
    + strongest["amount"].map(", {:.0f}".format)
)
figure, ax = plt.subplots(figsize=(9, 4), layout="constrained")
colours = ["tab:red" if effect > 0 else "tab:blue" for effect in strongest["effect"]]
ax.barh(range(len(labels)), strongest["effect"], color=colours)
ax.set_yticks(range(len(labels)), labels)
ax.axvline(0, color="black", linewidth=0.8)
ax.set(xlabel="effect on the log-odds of leaving", title=f"Client {client.index[0]}")
plt.show()

# %%
# Leaving one event out is the simplest explanation, and it misses what events do
# together: of ten visits to the same shop, each alone may not matter. The same method
# works for groups of events, such as all events of a month or of a merchant category.
# It works for any estimator that takes events, because it needs to know nothing about
# the model.
