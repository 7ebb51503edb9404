"""
================================================
Choosing the pooling depth with ``GridSearchCV``
================================================

With ``features="hidden"``, a user's vector is the mean of the last ``pooling_depth``
hidden layers of the language model. The best depth depends on the model and the task:
the last layers are tuned to predict the next token, and earlier ones hold more general
features. It is a hyperparameter, and a cheap one: all layers come from the same forward
pass.
"""

# %%
# A cache for the search
# ----------------------
# ``memory`` keeps each fold's language model and the layers of each text. So a search
# over pooling depths trains once per fold, not once for each depth in each fold.

from tempfile import TemporaryDirectory

from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from skllm4es import (
    EventSerializer,
    FineTuning,
    FromScratch,
    LLMEmbedder,
    TextEnricher,
)
from skllm4es.datasets import make_transactions
from skllm4es.vocabularies import load_mcc_names

X, y = make_transactions(n_users=240, mean_events=20, random_state=0)
cache = TemporaryDirectory()

serializer = EventSerializer(
    ["mcc", "amount", "type"], labels={"mcc": load_mcc_names()}, max_events=20
)
embedder = LLMEmbedder(
    FromScratch(config={"num_hidden_layers": 6}),
    features="hidden",
    finetune=FineTuning(epochs=0.25),
    memory=cache.name,
    random_state=0,
)
pipeline = Pipeline(
    [
        ("serialize", serializer),
        ("enrich", TextEnricher(random_state=0)),
        ("embed", embedder),
        ("classify", make_pipeline(StandardScaler(), LogisticRegression(C=0.01))),
    ]
)
search = GridSearchCV(
    pipeline, {"embed__pooling_depth": [1, 2, 3, 4, 5, 6]}, scoring="roc_auc", cv=3
)
search.fit(X, y)
print(search.best_params_)

# %%
# Six depths, three folds and the final fit on all clients make 19 fits, but only one
# model for each fold and one at the end.

info = search.best_estimator_["embed"].cache_info()
print(f"{info.n_models} models, {info.n_vectors} texts embedded")

# %%
# The validation curve
# --------------------
# The line is the mean over the folds, the band one standard deviation on each side, and
# the ring marks the best mean.

import matplotlib.pyplot as plt

from skllm4es.plotting import PoolingDepthDisplay

PoolingDepthDisplay.from_cv_results(search.cv_results_, score_name="ROC-AUC")
plt.show()

# %%
# If the band is much wider than the curve's variation, as it is with so few clients,
# the choice hardly matters. With thousands of users and a pretrained model with many
# layers, it can matter a lot.

cache.cleanup()
