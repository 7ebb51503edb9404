"""
=====================
Users without a label
=====================

A bank knows the outcome of a few clients, and has the events of many more. The language
model learns from texts alone, so the others can teach it too: ``extra_texts`` of
:class:`~skllm4es.LLMEmbedder` are further texts to train on.
"""

# %%
# Few labelled, many not
# ----------------------

from sklearn.model_selection import train_test_split

from skllm4es.datasets import make_transactions

X, y = make_transactions(n_users=600, mean_events=20, class_sep=3, random_state=0)
X_rest, X_test, y_rest, y_test = train_test_split(
    X, y, test_size=200, random_state=0, stratify=y
)
X_labelled, X_unlabelled, y_labelled, _ = train_test_split(
    X_rest, y_rest, train_size=100, random_state=0, stratify=y_rest
)
print(
    len(X_labelled), "labelled,", len(X_unlabelled), "not,", len(X_test), "to test on"
)

# %%
# Their texts
# -----------
# What is trained on should look like what :class:`~skllm4es.TextEnricher` makes of the
# labelled users, so the texts of the others go through the same steps.

from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline

from skllm4es import EventSerializer, LLMEmbedder, TextEnricher
from skllm4es.vocabularies import load_mcc_names

serializer = EventSerializer(
    ["mcc", "amount", "type"], labels={"mcc": load_mcc_names()}, max_events=20
)
enricher = TextEnricher(random_state=0)
extra_texts = enricher.fit_transform(serializer.fit_transform(X_unlabelled))

# %%
# With and without them
# ---------------------
# Both models have the same size, and see about as many tokens in training, so that the
# one without does not simply train less: it sees the same few users more often.

from sklearn.metrics import roc_auc_score


def fit(extra_texts, epochs):
    """Fit the whole pipeline, with further texts for its language model."""
    embedder = LLMEmbedder(
        extra_texts=extra_texts, n_params=100_000, epochs=epochs, random_state=0
    )
    steps = [
        ("serialize", serializer),
        ("enrich", enricher),
        ("embed", embedder),
        ("classify", LogisticRegression()),
    ]
    return Pipeline(steps).fit(X_labelled, y_labelled)


pipelines = {
    "labelled users alone": fit(None, epochs=3),
    "with unlabelled users": fit(extra_texts, epochs=0.7),
}
for name, pipeline in pipelines.items():
    auc = roc_auc_score(y_test, pipeline.predict_proba(X_test)[:, 1])
    print(f"{name}: {pipeline['embed'].n_tokens_seen_:,} tokens, ROC-AUC {auc:.3f}")

# %%
# One split and one seed: a difference of a few hundredths is chance here. The standard
# deviation of a ROC-AUC over 200 clients is about 0.04 by itself.
#
# A map of the clients
# --------------------
# The first two principal components of the vectors, with the labelled clients in
# colour. Where the colours do not part by themselves, the target is not what the users
# differ by most; a classifier looks along other directions.

import matplotlib.pyplot as plt

from skllm4es.plotting import EmbeddingMapDisplay

target = y_labelled.reindex(X_rest.index).map({0: "stays", 1: "leaves"})
EmbeddingMapDisplay.from_estimator(
    pipelines["with unlabelled users"], X_rest, target, target_name="client"
)
plt.show()

# %%
# Without a pipeline, a model that learned from all users once serves many tasks: fit
# the embedder on the texts of all, and put it into each pipeline in a
# :class:`~sklearn.frozen.FrozenEstimator`.
