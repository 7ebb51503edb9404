"""
========================================
From an event table to a fitted pipeline
========================================

Event data usually comes as a long table with one row per event. This tutorial turns
such a table into a dataframe with one row per user, looks at the texts that a language
model will read, and fits a pipeline that predicts from them.
"""

# %%
# A table of events
# -----------------
# The table is simulated: a year of card transactions of 200 bank clients, some of whom
# leave. Yours can be a pandas or polars dataframe or an Arrow table, with its rows in
# any order.

from skllm4es import nest_events, unnest_events
from skllm4es.datasets import make_transactions

simulated, y = make_transactions(n_users=200, mean_events=30, random_state=0)
table = unnest_events(simulated).sample(frac=1, random_state=0)
table.head()

# %%
# One row per user
# ----------------
# :func:`~skllm4es.nest_events` collects each user's events, sorted by time, in a
# list-typed column. The result is a plain dataframe indexed by user, so everything that
# scikit-learn does with rows now works on users.

X = nest_events(table, user="user_id", time="event_time")
X.head()

# %%
# The index is sorted, so align the target by label, never by position.

y = y.loc[X.index]

# %%
# What the language model reads
# -----------------------------
# :class:`~skllm4es.EventSerializer` writes one line per event. Merchant category codes
# become descriptions, which a language model knows something about.

from skllm4es import EventSerializer
from skllm4es.vocabularies import load_mcc_names

serializer = EventSerializer(
    ["event_time", "mcc", "amount", "type"],
    labels={"mcc": load_mcc_names()},
    max_events=30,
)
texts = serializer.fit_transform(X)
print("\n".join(texts["text"].iloc[0].split("\n")[:8]))

# %%
# The pipeline
# ------------
# :class:`~skllm4es.LLMEmbedder` turns texts into vectors. Here the model is SmolLM2,
# which pip installs, and ``finetune=None`` leaves it as it is. It reads each distinct
# event once; numbers and times are measured.

from lightgbm import LGBMClassifier
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline

from skllm4es import LLMEmbedder
from skllm4es.models import smollm2

pipeline = Pipeline(
    [
        ("serialize", serializer),
        ("embed", LLMEmbedder(smollm2(), finetune=None)),
        ("classify", LGBMClassifier(min_child_samples=10, n_jobs=1, verbose=-1)),
    ]
)
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0, stratify=y)
pipeline.fit(X_train, y_train)

# %%
# New users take the same path:

pipeline.predict_proba(X_test)[:3]

# %%
# How long the texts are
# ----------------------
# Training, and ``features="hidden"``, which pools the hidden states of whole texts as
# in the paper, cost as much as the texts are long. A language model sees a limited
# number of tokens at once; longer texts are divided. The display counts the tokens of
# the test users' texts and marks that limit.

import matplotlib.pyplot as plt

from skllm4es.plotting import TokenLengthDisplay

TokenLengthDisplay.from_estimator(pipeline, X_test)
plt.show()

# %%
# The pipeline without its last step returns the vectors themselves, for other uses such
# as clustering, a search for similar users or a feature store.

vectors = pipeline[:-1].transform(X_test)
vectors.shape, vectors.dtype

# %%
# :func:`~skllm4es.event_pipeline` returns such a pipeline in one call, with aggregates
# beside the vectors.
