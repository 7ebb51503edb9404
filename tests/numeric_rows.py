"""Rows of numbers as users, so that scikit-learn's own checks, which pass arrays, can test the whole flow."""

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin, clone
from sklearn.pipeline import make_pipeline
from sklearn.utils.validation import check_is_fitted, validate_data

from skllm4es import EventSerializer, nest_events


def events_of(X):
    """Turn each row into a user, and each column into an event with its number and value."""
    n_rows, n_columns = X.shape
    table = {
        "row": np.repeat(np.arange(n_rows), n_columns),
        "column": np.tile(np.arange(n_columns), n_rows),
        "value": np.asarray(X, dtype=np.float64).ravel(),
    }
    return nest_events(pd.DataFrame(table), user="row", time="column")


class RowTransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Embed rows of numbers: wrap a transformer of events, so that it takes arrays.

    With `texts`, the transformer takes texts from an `EventSerializer`.
    """

    def __init__(self, transformer, *, texts=False):
        self.transformer = transformer
        self.texts = texts

    def fit(self, X, y=None):
        """Turn the rows into events and fit the transformer on them."""
        X = validate_data(self, X)
        serializer = [EventSerializer(["value"], formats={"value": ".2f"})] if self.texts else []
        self.pipeline_ = make_pipeline(*serializer, clone(self.transformer)).fit(events_of(X))
        return self

    def transform(self, X):
        """Turn the rows into events and return their vectors."""
        check_is_fitted(self)
        return self.pipeline_.transform(events_of(validate_data(self, X, reset=False)))

    @property
    def _n_features_out(self):
        return len(self.pipeline_[-1].get_feature_names_out())

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []
        return tags
