"""
=====================================
Few labels: the data-efficiency curve
=====================================

Labels are dear, events are not. A representation that is learned from events alone can
be learned from all users, and the few that have a label are left for the classifier.
How many does it need?
"""

# %%
# Vectors without labels
# ----------------------
# The language model learns from the texts of all clients. No label takes part in this.

from skllm4es import EventSerializer, LLMEmbedder, TextEnricher
from skllm4es.baselines import EventAggregator
from skllm4es.datasets import make_transactions
from skllm4es.vocabularies import load_mcc_names

X, y = make_transactions(n_users=400, mean_events=20, class_sep=3, random_state=0)
texts = EventSerializer(
    ["mcc", "amount", "type"], labels={"mcc": load_mcc_names()}, max_events=20
).fit_transform(X)
training_texts = TextEnricher(random_state=0).fit_transform(texts)
vectors = {
    "LLM embedding": LLMEmbedder(epochs=0.25, random_state=0)
    .fit(training_texts)
    .transform(texts),
    "aggregates": EventAggregator().fit_transform(X),
}
{name: array.shape for name, array in vectors.items()}

# %%
# A classifier for few labels
# ---------------------------
# With few labels and many dimensions, regularisation decides. Each representation gets
# the strength that suits it, by an inner cross-validation on its training users, which
# also chooses whether dimensions are scaled to the same variance: aggregates need it,
# the embedding is better as it is.

from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

classifier = GridSearchCV(
    make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
    [
        {"logisticregression__C": [0.0001, 0.001, 0.01]},
        {"standardscaler": ["passthrough"], "logisticregression__C": [0.1, 1, 10]},
    ],
    cv=3,
    scoring="roc_auc",
)

# %%
# The curve
# ---------
# Each number of labelled clients is drawn anew for each of ten splits, and scored on
# the same 120 clients held out.

import matplotlib.pyplot as plt
from sklearn.model_selection import StratifiedShuffleSplit

from skllm4es.plotting import DataEfficiencyDisplay

splits = StratifiedShuffleSplit(10, test_size=120, random_state=0)
figure, ax = plt.subplots(layout="constrained")
for name, array in vectors.items():
    DataEfficiencyDisplay.from_estimator(
        classifier,
        array,
        y,
        train_sizes=[25, 50, 100, 200, 280],
        cv=splits,
        scoring="roc_auc",
        score_name="ROC-AUC",
        random_state=0,
        name=name,
        ax=ax,
    )
ax.axhline(0.5, color="black", linestyle=":")
plt.show()

# %%
# The bands are a standard deviation over the splits wide. Both curves still rise where
# the labels end. The embedding is ahead by some hundredths throughout, which is less
# than one split differs from the next; a bank has many more clients without a label for
# its language model to read.
#
# To have the curve of a pipeline whose language model also sees no more than the
# labelled users, pass the whole pipeline and ``X`` instead of vectors: it trains once
# for each point and split.
