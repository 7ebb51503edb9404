"""
=================================
Profile columns beside the events
=================================

Most users have more than events: an age, a region, a tariff. These are further columns
of the same dataframe, and a :class:`~sklearn.compose.ColumnTransformer` routes each
column to its own steps.
"""

# %%
# Profile columns
# ---------------
# The simulation has no profiles, so two columns are made up: an age, which is related
# to leaving, and a region, which is not.

import numpy as np

from skllm4es.datasets import make_transactions

X, y = make_transactions(n_users=240, mean_events=20, random_state=0)
rng = np.random.default_rng(0)
X = X.assign(
    age=np.clip(rng.normal(50 - 8 * y, 12), 18, 90).round().astype(int),
    region=rng.choice(["north", "south", "west"], len(X)),
)
X.head(3)

# %%
# One path for each kind of column
# --------------------------------
# SmolLM2, a pretrained language model that pip installs, reads each distinct event;
# numbers are scaled, and strings are one-hot encoded. All of this is one estimator,
# which learns only from training users. With ``memory``, no event is read twice in the
# comparison below.

from tempfile import TemporaryDirectory

from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import Normalizer, OneHotEncoder, StandardScaler

from skllm4es import EventSerializer, LLMEmbedder
from skllm4es.models import smollm2
from skllm4es.vocabularies import load_mcc_names

cache = TemporaryDirectory()
events = Pipeline(
    [
        (
            "serialize",
            EventSerializer(["mcc", "type"], labels={"mcc": load_mcc_names()}),
        ),
        (
            "embed",
            LLMEmbedder(smollm2(), finetune=None, memory=cache.name),
        ),
        ("scale", Normalizer()),
    ]
)
columns = ColumnTransformer(
    [
        ("events", events, ["events"]),
        ("numbers", StandardScaler(), ["age"]),
        ("categories", OneHotEncoder(), ["region"]),
    ]
)
pipeline = Pipeline([("columns", columns), ("classify", LogisticRegression())])
pipeline

# %%
# With and without
# ----------------
# Setting a path to ``"drop"`` leaves it out.

import pandas as pd
from sklearn.base import clone
from sklearn.model_selection import StratifiedKFold, cross_val_score

folds = StratifiedKFold(3, shuffle=True, random_state=0)
variants = {
    "events and profile": {},
    "events alone": {"columns__numbers": "drop", "columns__categories": "drop"},
    "profile alone": {"columns__events": "drop"},
}
scores = pd.DataFrame(
    {
        name: cross_val_score(
            clone(pipeline).set_params(**settings), X, y, scoring="roc_auc", cv=folds
        )
        for name, settings in variants.items()
    }
)
scores.agg(["mean", "std"]).T.round(3)

# %%
# What the classifier weighs
# --------------------------
# Feature names say where each feature came from. A single dimension of an embedding
# means nothing by itself, but what all its dimensions together add to a client's score
# does. The spread of this sum over the clients shows how much each path decides. This
# is not how much it helps: with hundreds of dimensions, a classifier trained on 240
# clients partly memorises them.

import matplotlib.pyplot as plt

pipeline.fit(X, y)
cache.cleanup()
names = pipeline["columns"].get_feature_names_out()
print(names[:2], "...", names[-4:])

parts = pd.DataFrame(
    pipeline["columns"].transform(X) * pipeline["classify"].coef_[0], columns=names
)
spread = (
    parts.T.groupby([name.partition("__")[0] for name in names])
    .sum()
    .std(axis=1)
    .sort_values()
)
figure, ax = plt.subplots(layout="constrained")
ax.barh(spread.index, spread, color="lightsteelblue")
ax.set_xlabel("standard deviation of its part of the log-odds")
plt.show()
