"""That a search reaches the parameters it varies."""

import numpy as np
from sklearn.model_selection import GridSearchCV


def search_in_which_candidates_differ(pipeline, grid, X, y):
    """Search over a grid, and assert that the vectors before the last step differ between all candidates."""

    def size_of_vectors(fitted, X, y):
        fitted.predict(X)
        return float(np.abs(np.asarray(fitted[:-1].transform(X), dtype=np.float64)).sum())

    search = GridSearchCV(pipeline, grid, cv=2, scoring=size_of_vectors, error_score="raise").fit(X, y)
    sizes = np.sort(search.cv_results_["mean_test_score"])
    assert len(sizes) > 1
    assert (np.diff(sizes) > 1e-6 * sizes[:-1]).all()
