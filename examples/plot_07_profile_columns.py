"""
==============================================
Profile columns beside the events
==============================================

Most users have more than events: an age, a region, a tariff. They are further columns of the same dataframe, and a
:class:`~sklearn.compose.ColumnTransformer` sends each column where it belongs.
"""

# %%
# Columns for the profile
# -----------------------
# The simulation has no profiles, so two are made up: an age, which here has something to do with leaving, and a region,
# which has not.

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
# The events go through the three steps of the LLM embedding; the numbers are scaled, the texts one-hot encoded. All of
# it is one estimator, which keeps what it learned from training users apart from the users held out. ``memory`` spares
# the comparison below one training for each fold.

from tempfile import TemporaryDirectory

from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from skllm4es import EventSerializer, LLMEmbedder, TextEnricher
from skllm4es.vocabularies import load_mcc_names

cache = TemporaryDirectory()
events = Pipeline(
    [
        ("serialize", EventSerializer(["mcc", "amount", "type"], labels={"mcc": load_mcc_names()}, max_events=20)),
        ("enrich", TextEnricher(random_state=0)),
        ("embed", LLMEmbedder(epochs=0.25, memory=cache.name, random_state=0)),
        ("scale", StandardScaler()),
    ]
)
columns = ColumnTransformer(
    [
        ("events", events, ["events"]),
        ("numbers", StandardScaler(), ["age"]),
        ("categories", OneHotEncoder(), ["region"]),
    ]
)
pipeline = Pipeline([("columns", columns), ("classify", LogisticRegression(C=0.01))])
pipeline

# %%
# With and without
# ----------------
# Leaving a path out is setting it to ``"drop"``.

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
        name: cross_val_score(clone(pipeline).set_params(**settings), X, y, scoring="roc_auc", cv=folds)
        for name, settings in variants.items()
    }
)
scores.agg(["mean", "std"]).T.round(3)

# %%
# What the classifier weighs
# --------------------------
# The names of the features say where each came from. The dimensions of an embedding have no meaning of their own, so it
# is the sum of their weights that can be compared with those of the profile.

import matplotlib.pyplot as plt

pipeline.fit(X, y)
cache.cleanup()
weights = pd.Series(np.abs(pipeline["classify"].coef_[0]), index=pipeline["columns"].get_feature_names_out())
print(weights.index[:2].tolist(), "...", weights.index[-4:].tolist())

sums = weights.groupby(weights.index.str.partition("__").get_level_values(0)).sum().sort_values()
figure, ax = plt.subplots(figsize=(6, 2.5), layout="constrained")
ax.barh(sums.index, sums, color="lightsteelblue")
ax.set_xlabel("sum of absolute weights")
plt.show()
