"""
============================
Enrichment, and what it does
============================

Serialised events all look alike: one header, then line after line of the same form. A
language model that trains on such text alone learns the form in no time, and little
else. So the method rewrites each text into other formats, JSON, HTML, prose, and trains
on these. This tutorial looks at such texts, and measures what they do.
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
# :class:`~skllm4es.TextEnricher` gives the columns of rewritten texts only where it is
# fitted: ``transform`` gives the raw text alone. So the language model trains on many
# forms, and every user, of the training set or new, is embedded by the same raw form.

# %%
# Training on raw texts, and on raw and rewritten ones
# ----------------------------------------------------
# Two models of the same size, which see each user equally often: the second has two
# texts of each, and half the epochs. A fifth of the users is held out from training to
# watch the loss on texts of users that the model has not seen.

from skllm4es import LLMEmbedder

enriched = TextEnricher(random_state=0).fit_transform(texts)
settings = {"n_params": 100_000, "validation_fraction": 0.2, "random_state": 0}
embedders = {
    "raw": LLMEmbedder(epochs=0.4, **settings).fit(texts),
    "raw and rewritten": LLMEmbedder(epochs=0.2, **settings).fit(enriched),
}

# %%
# The losses are in nats a token, of other texts for each model, so their levels cannot
# be compared: the formats make the rewritten texts longer and harder to foresee. What
# can be compared is the gap in each pair. Where the loss on users held out stays above
# that of training, the model learns by heart.

import matplotlib.pyplot as plt

from skllm4es.plotting import FineTuningLossDisplay

figure, ax = plt.subplots(layout="constrained")
for name, embedder in embedders.items():
    FineTuningLossDisplay.from_estimator(embedder, ax=ax, name=name)
plt.show()

# %%
# What the vectors tell
# ---------------------
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
# Here the language models saw the texts of all users, without labels, so that one
# training serves all folds; the classifier saw its training users alone. One training
# with one seed on 240 users does not decide whether enrichment pays: compare over
# several seeds on your own data, with and without the step. To leave it out of a
# pipeline, put ``"passthrough"`` in its place:
# ``pipeline.set_params(enrich="passthrough")``.
#
# Is what was rewritten faithful?
# -------------------------------
# ``report_`` has a row for each rewritten text. Templates lose nothing, so they are
# compared only where ``check`` asks for it; with a language model as rewriter it is
# done by default. The format "breakdown" is a summary, and loses events by design.

enricher = TextEnricher(check="retry", random_state=0)
enricher.fit_transform(texts)
enricher.report_.groupby("format")[["recall", "precision"]].mean().round(2)
