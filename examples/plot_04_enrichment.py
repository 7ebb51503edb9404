"""
====================
What enrichment does
====================

Serialised events all look alike: a header, then line after line in the same form. A
language model trained only on such text quickly learns the form, and little else. So
the method rewrites each text in other formats, such as JSON, HTML and prose, and trains
on these. This tutorial looks at such texts and measures their effect.
"""

# %%
# One history, many texts
# -----------------------

from skllm4es import EventSerializer, TextEnricher
from skllm4es.datasets import make_transactions
from skllm4es.vocabularies import load_mcc_names

X, y = make_transactions(n_users=240, mean_events=20, random_state=0)
serializer = EventSerializer(
    ["event_time", "mcc", "amount"], labels={"mcc": load_mcc_names()}, max_events=20
)
texts = serializer.fit_transform(X)
two_events = [
    "date|mcc|amount\n2023-03-05, Groceries, 1250\n2023-03-06, Service Stations, 300.5"
]
variants = TextEnricher(n_variants=4, random_state=1).fit_transform(two_events)
for name in variants.columns:
    print(f"--- {name}\n{variants[name].iloc[0]}\n")

# %%
# :class:`~skllm4es.TextEnricher` returns columns of rewritten texts only from
# ``fit_transform``; ``transform`` returns the raw text alone. So the language model
# trains on many forms, but every user, in training or new, is embedded from the same
# raw form.

# %%
# Training with and without rewritten texts
# -----------------------------------------
# Two models of the same size see each user equally often: the second has two texts per
# user and half the epochs. A fifth of the users is held out to measure the loss on
# texts of unseen users. ``features="scores"`` compares what each user did with what the
# model expected of whole texts, so it depends on training more than event features do.

from skllm4es import FineTuning, FromScratch, LLMEmbedder

enriched = TextEnricher(random_state=0).fit_transform(texts)
embedders = {
    name: LLMEmbedder(
        FromScratch(n_params=100_000),
        features="scores",
        finetune=FineTuning(epochs=epochs, validation_fraction=0.2),
        random_state=0,
    ).fit(training_texts)
    for name, epochs, training_texts in [
        ("raw", 0.4, texts),
        ("raw and rewritten", 0.2, enriched),
    ]
}

# %%
# The losses are in nats per token. The two models read different texts, and rewritten
# texts are longer and harder to predict, so do not compare the levels. Compare the gap
# within each pair: a held-out loss that stays above the training loss means that the
# model memorises.

import matplotlib.pyplot as plt

from skllm4es.plotting import FineTuningLossDisplay

figure, ax = plt.subplots(layout="constrained")
for name, embedder in embedders.items():
    FineTuningLossDisplay.from_estimator(embedder, ax=ax, name=name)
plt.show()

# %%
# What the vectors predict
# ------------------------
# Both models embed the raw texts, and the vectors predict who leaves.

import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import RepeatedStratifiedKFold, cross_val_score

folds = RepeatedStratifiedKFold(n_splits=4, n_repeats=5, random_state=0)
scores = {
    name: cross_val_score(
        LogisticRegression(), embedder.transform(texts), y, scoring="roc_auc", cv=folds
    )
    for name, embedder in embedders.items()
}
pd.DataFrame(scores).agg(["mean", "std"]).T.round(3)

# %%
# The language models saw the texts of all users, without labels, so that one training
# serves all folds; the classifier saw only its training users. One training with one
# seed on 240 users does not decide whether enrichment helps: compare over several seeds
# on your own data, with and without the step. To skip it in a pipeline, use
# ``pipeline.set_params(enrich="passthrough")``.
#
# Are the rewritten texts faithful?
# ---------------------------------
# ``report_`` has one row per rewritten text. Templates lose nothing, so they are
# compared only if you set ``check``; with a language model as rewriter, texts are
# compared by default. The format "breakdown" is a summary that loses events by design.

enricher = TextEnricher(check="retry", random_state=0)
enricher.fit_transform(texts)
enricher.report_.groupby("format")[["recall", "precision"]].mean().round(2)
