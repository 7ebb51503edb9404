"""
========================================
From an event table to a fitted pipeline
========================================

Event data mostly come as a long table, one row an event. This tutorial turns such a
table into a dataframe with one row per user, looks at the texts that a language model
will read, and fits a pipeline that predicts from them.
"""

# %%
# A table of events
# -----------------
# Here the table is simulated: a year of card transactions of 200 clients of a bank, of
# whom some leave. Yours may be a dataframe of pandas or polars or an Arrow table, its
# rows in any order.

from skllm4es import nest_events, unnest_events
from skllm4es.datasets import make_transactions

simulated, y = make_transactions(n_users=200, mean_events=30, random_state=0)
table = unnest_events(simulated).sample(frac=1, random_state=0)
table.head()

# %%
# One row per user
# ----------------
# :func:`~skllm4es.nest_events` gathers the events of each user, sorted by time, in a
# list-typed column. The result is a plain dataframe whose index holds the users: all
# that scikit-learn does with rows works on users now.

X = nest_events(table, user="user_id", time="event_time")
X.head()

# %%
# The index is sorted, so it has to be aligned with the target by label, never by
# position.

y = y.loc[X.index]

# %%
# What the language model reads
# -----------------------------
# :class:`~skllm4es.EventSerializer` writes one line an event. Merchant category codes
# become their descriptions, of which a language model knows something; times become a
# weekday and an hour.

from skllm4es import EventSerializer
from skllm4es.vocabularies import load_mcc_names

serializer = EventSerializer(
    ["event_time", "mcc", "amount", "type"],
    labels={"mcc": load_mcc_names()},
    formats={"event_time": "%a %H"},
    max_events=30,
)
texts = serializer.fit_transform(X)
print("\n".join(texts["text"].iloc[0].split("\n")[:8]))

# %%
# The pipeline
# ------------
# :class:`~skllm4es.TextEnricher` rewrites each text into another format, for training
# only, and :class:`~skllm4es.LLMEmbedder` trains a language model on the raw and the
# rewritten texts. Without the name of a pretrained model it makes a small one from
# scratch; ``epochs=0.5`` keeps this page short.

from lightgbm import LGBMClassifier
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline

from skllm4es import LLMEmbedder, TextEnricher

pipeline = Pipeline(
    [
        ("serialize", serializer),
        ("enrich", TextEnricher(random_state=0)),
        ("embed", LLMEmbedder(epochs=0.5, random_state=0)),
        ("classify", LGBMClassifier(min_child_samples=10, n_jobs=1, verbose=-1)),
    ]
)
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0, stratify=y)
pipeline.fit(X_train, y_train)

# %%
# New users go the same way, without the rewriting:

pipeline.predict_proba(X_test)[:3]

# %%
# How long the texts are
# ----------------------
# A language model sees a limited number of tokens at once. The display counts the
# tokens of the test users' texts, and marks that limit; longer texts are embedded in
# windows by default.

import matplotlib.pyplot as plt

from skllm4es.plotting import TokenLengthDisplay

TokenLengthDisplay.from_estimator(pipeline, X_test)
plt.show()

# %%
# The vectors themselves come from the pipeline without its last step, for any other
# use: clustering, search for similar users, a feature store.

vectors = pipeline[:-1].transform(X_test)
vectors.shape, vectors.dtype
