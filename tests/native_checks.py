"""Checks like scikit-learn's common checks, but on events and texts, the input that the estimators are for.

Each check is a function of an unfitted estimator and its `X`: a dataframe with one column of users' events or texts,
and users' names as its index.
"""

import copy
import io
import pickle

import joblib
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy import sparse
from sklearn import config_context
from sklearn.base import clone
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.exceptions import NotFittedError, UnsetMetadataPassedError
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import Ridge
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import FunctionTransformer, MaxAbsScaler, StandardScaler
from sklearn.utils import get_tags
from sklearn.utils.metadata_routing import get_routing_for_object

from skllm4es.baselines import EventAggregator

# Side effects


def check_input_is_not_changed(estimator, X):
    for frame in (X, with_objects(X)):
        before = pickle.dumps(frame)
        for method in (estimator.fit, estimator.transform, estimator.fit_transform):
            method(frame)
            pd.testing.assert_frame_equal(frame, pickle.loads(before))


def check_parameters_are_not_changed(estimator, X):
    params = estimator.get_params()
    before = copy.deepcopy(params)
    estimator.fit(X)
    estimator.transform(X)
    estimator.fit_transform(X)
    after = estimator.get_params()
    assert after.keys() == params.keys()
    for name, value in after.items():
        assert value is params[name]
        # Estimators compare by identity; their own parameters are among these too.
        assert hasattr(value, "get_params") or value == before[name]


def check_global_random_states_are_not_changed(estimator, X):
    import torch

    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    estimator.fit_transform(X)
    assert torch.equal(torch.get_rng_state(), torch_state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


def check_read_only_memory_maps(estimator, X, tmp_path):
    table = pa.table({name: pa.array(X[name].array) for name in X.columns})
    with pa.OSFile(str(tmp_path / "X.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    mapped = pa.ipc.open_file(pa.memory_map(str(tmp_path / "X.arrow"))).read_all()
    frame = pd.DataFrame({n: pd.arrays.ArrowExtensionArray(mapped[n]) for n in mapped.column_names}, index=X.index)
    assert_alike(estimator.fit(frame).transform(frame), clone(estimator).fit(X).transform(X))
    if get_tags(estimator).input_tags.string:
        joblib.dump(np.array(X.iloc[:, 0].to_list()), tmp_path / "X.joblib")
        texts = joblib.load(tmp_path / "X.joblib", mmap_mode="r")
        assert isinstance(texts, np.memmap)
        assert not texts.flags.writeable
        assert_alike(clone(estimator).fit(texts).transform(texts), estimator.transform(X))


# What the output depends on


def check_order_of_rows(estimator, X):
    rows = np.random.default_rng(0).permutation(len(X))
    estimator.fit(X)
    assert_alike(estimator.transform(X.iloc[rows]), values(estimator.transform(X))[rows])


def check_subsets(estimator, X):
    together = values(estimator.fit(X).transform(X))
    for rows in (slice(0, 1), slice(3, 4), slice(2, 9)):
        assert_alike(estimator.transform(X.iloc[rows]), together[rows])
    assert values(estimator.transform(X.iloc[:0])).shape == (0, together.shape[1])


def check_object_cells(estimator, X):
    objects = with_objects(X)
    assert_alike(clone(estimator).fit(objects).transform(objects), estimator.fit(X).transform(X))


def check_fit_forgets_earlier_fits(estimator, X):
    expected = values(estimator.fit(X).transform(X))
    np.testing.assert_array_equal(values(estimator.fit(X).transform(X)), expected)
    np.testing.assert_array_equal(values(estimator.fit(X.iloc[:9]).fit(X).transform(X)), expected)


def check_fit_transform(estimator, X):
    """`TextEnricher` adds columns to train on, which are not among its feature names."""
    out = estimator.set_output(transform="pandas").fit_transform(X)
    assert_alike(out[list(estimator.get_feature_names_out())], estimator.transform(X), exact=True)


def check_y_is_ignored(estimator, X):
    expected = estimator.fit(X).transform(X)
    assert_alike(clone(estimator).fit(X, np.arange(len(X))).transform(X), expected, exact=True)


def check_column_mismatch(estimator, X):
    (name,) = X.columns
    estimator.fit(X)
    with pytest.raises(ValueError, match="columns"):
        estimator.transform(X.set_axis(["other"], axis=1).assign(more=X[name]))
    if hasattr(estimator, "feature_names_in_"):
        assert estimator.feature_names_in_.tolist() == [name]
        assert_alike(estimator.transform(X.assign(more=1)), estimator.transform(X), exact=True)
        assert_alike(clone(estimator).fit(X.assign(more=1)).transform(X), estimator.transform(X), exact=True)
    else:  # The name of a single column of texts does not matter.
        assert_alike(estimator.transform(X.set_axis(["other"], axis=1)), estimator.transform(X))


# Copies


def check_clone(estimator, X):
    expected = estimator.fit(X).transform(X)
    copy = clone(estimator)
    assert repr(copy) == repr(estimator)
    with pytest.raises(NotFittedError):
        copy.transform(X)
    with pytest.raises(NotFittedError):
        copy.get_feature_names_out()
    assert_alike(copy.fit(X).transform(X), expected, exact=True)


def check_pickle(estimator, X):
    estimator.fit(X)
    copy = pickle.loads(pickle.dumps(estimator))
    assert copy.get_params().keys() == estimator.get_params().keys()
    assert_alike(copy.transform(X), estimator.transform(X), exact=True)


def check_joblib(estimator, X, tmp_path):
    expected = estimator.fit(X).transform(X)
    buffer = io.BytesIO()
    joblib.dump(estimator, buffer)
    buffer.seek(0)
    assert_alike(joblib.load(buffer).transform(X), expected, exact=True)
    joblib.dump(estimator, tmp_path / "estimator.joblib")
    assert_alike(joblib.load(tmp_path / "estimator.joblib", mmap_mode="r").transform(X), expected, exact=True)


# Output


def check_feature_names_out(estimator, X):
    names = estimator.fit(X).get_feature_names_out()
    assert (type(names), names.dtype) == (np.ndarray, object)
    assert values(estimator.transform(X)).shape == (len(X), len(names))
    assert len(set(names)) == len(names)
    assert pd.Series(names).str.fullmatch(r'[^\s",:\[\]{}\\]+').all()


def check_set_output_pandas(estimator, X):
    expected = values(estimator.fit(X).transform(X))
    configured = clone(estimator).set_output(transform="pandas").fit(X)
    with config_context(transform_output="pandas"):
        frames = [configured.transform(X), configured.fit_transform(X), estimator.transform(X)]
    names = list(estimator.get_feature_names_out())
    for frame in frames:
        assert isinstance(frame, pd.DataFrame)
        assert frame.index.equals(X.index)
        assert_alike(frame[names], expected)
    assert frames[0].columns.to_list() == names


def check_set_output_polars(estimator, X):
    pl = pytest.importorskip("polars", reason="needs polars")
    expected = values(estimator.fit(X).transform(X))
    configured = clone(estimator).set_output(transform="polars").fit(X)
    with config_context(transform_output="polars"):
        frames = [configured.transform(X), configured.fit_transform(X), estimator.transform(X)]
    names = list(estimator.get_feature_names_out())
    for frame in frames:
        assert isinstance(frame, pl.DataFrame)
        assert_alike(frame[names], expected)
    assert frames[0].columns == names


def check_polars_input(estimator, X):
    pl = pytest.importorskip("polars", reason="needs polars")
    expected = values(estimator.fit(X).transform(X))
    frame = pl.DataFrame({name: pl.from_arrow(pa.array(X[name].array)) for name in X.columns})
    assert_alike(clone(estimator).fit(frame).transform(frame), expected)


# Together with other estimators


def check_function_transformers(estimator, X):
    expected = estimator.fit(X).transform(X)
    assert_alike(FunctionTransformer(estimator.transform).fit_transform(X), expected)
    pipeline = make_pipeline(FunctionTransformer(), clone(estimator), FunctionTransformer())
    assert_alike(pipeline.fit(X).transform(X), expected)


def check_column_transformer(estimator, X):
    (name,) = X.columns
    estimator.fit(X)
    profile = pd.DataFrame({"age": np.arange(len(X), dtype=float), name: X[name], "other": "unused"})
    routed = ColumnTransformer([("steps", clone(estimator), [name]), ("age", StandardScaler(), ["age"])])
    out = routed.set_output(transform="pandas").fit(profile).transform(profile)
    expected = [*(f"steps__{name}" for name in estimator.get_feature_names_out()), "age__age"]
    assert out.columns.to_list() == list(routed.get_feature_names_out()) == expected
    assert out.index.equals(X.index)
    assert_alike(out[expected[:-1]], estimator.transform(X))


def check_feature_union(estimator, X):
    expected = values(estimator.fit(X).transform(X))
    union = FeatureUnion([("one", clone(estimator)), ("other", clone(estimator))]).fit(X)
    assert_alike(union.transform(X), np.hstack([expected, expected]))
    names = list(estimator.get_feature_names_out())
    assert list(union.get_feature_names_out()) == [f"{part}__{name}" for part in ("one", "other") for name in names]


def check_transformed_target_regressor(estimator, X):
    y = np.arange(len(X), dtype=float)
    regressor = make_pipeline(estimator, *steps_to_numbers(estimator), Ridge())
    model = TransformedTargetRegressor(regressor, func=np.log1p, inverse_func=np.expm1).fit(X, y)
    expected = np.expm1(clone(regressor).fit(X, np.log1p(y)).predict(X))
    np.testing.assert_allclose(model.predict(X), expected, rtol=1e-3, atol=1e-3)


def check_metadata_routing(estimator, X):
    y, weights = np.arange(len(X), dtype=float), np.linspace(0.1, 5, len(X))
    with config_context(enable_metadata_routing=True):
        for method in ("fit", "transform", "fit_transform"):
            assert not get_routing_for_object(estimator).consumes(method, ["sample_weight", "groups"])
        steps = clone(estimator), *steps_to_numbers(estimator)
        with pytest.raises(UnsetMetadataPassedError):
            make_pipeline(*steps, Ridge()).fit(X, y, sample_weight=weights)
        weighted = make_pipeline(*steps, Ridge().set_fit_request(sample_weight=True)).fit(X, y, sample_weight=weights)
    numbers = weighted[:-1].transform(X)
    np.testing.assert_allclose(weighted[-1].coef_, Ridge().fit(numbers, y, weights).coef_, rtol=1e-2, atol=1e-3)
    assert not np.allclose(weighted[-1].coef_, Ridge().fit(numbers, y).coef_, rtol=1e-2, atol=1e-3)


# Tags


def check_input_tags(estimator, X):
    (name,) = X.columns
    tags = get_tags(estimator).input_tags
    assert accepts(estimator, X[name].to_list()) == tags.one_d_array == tags.string
    assert accepts(estimator, np.zeros((len(X), 2))) == tags.two_d_array
    assert accepts(estimator, sparse.csr_array(np.eye(len(X)))) == tags.sparse
    with_missing = X.copy()
    with_missing.iloc[1, 0] = None
    assert accepts(estimator, with_missing) == tags.allow_nan


def check_output_tags(estimator, X):
    tags = get_tags(estimator)
    assert tags.estimator_type is None
    assert not tags.target_tags.required
    assert tags.requires_fit
    assert tags.transformer_tags.preserves_dtype == []
    out = values(estimator.fit_transform(X))
    assert out.dtype == (object if writes_texts(estimator) else np.float32)
    assert writes_texts(estimator) or np.isfinite(np.nan_to_num(out) if may_be_missing(estimator) else out).all()


def check_non_deterministic_tag(estimator, X):
    if "random_state" in estimator.get_params():
        assert not get_tags(estimator).non_deterministic
        estimator.set_params(random_state=None)
        assert get_tags(estimator).non_deterministic
    else:
        first, second = (values(clone(estimator).fit_transform(X)) for _ in range(2))
        np.testing.assert_array_equal(first, second)


CHECKS = [check for name, check in list(vars().items()) if name.startswith("check_")]


def with_objects(X):
    """Return a dataframe whose cells are Python objects: lists of dicts for events, strings for texts."""
    cells = {name: pa.array(X[name].array).to_pylist() for name in X.columns}
    return pd.DataFrame({name: pd.Series(cells[name], X.index, dtype=object) for name in cells})


def values(output):
    """Return an output as an array of numbers or texts."""
    if sparse.issparse(output):
        return output.toarray()
    return output.to_numpy() if hasattr(output, "to_numpy") else np.asarray(output)


def assert_alike(output, expected, *, exact=False):
    """Compare outputs: texts exactly, and numbers up to rounding in float32 unless `exact`."""
    output, expected = values(output), values(expected)
    if exact or expected.dtype == object:
        np.testing.assert_array_equal(output, expected)
    else:
        np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-5)


def may_be_missing(estimator):
    """Return whether an estimator returns NaN for statistics of nothing."""
    return isinstance(estimator, EventAggregator)


def writes_texts(estimator):
    """Return whether an estimator returns texts rather than vectors."""
    return type(estimator).__name__ in ("EventSerializer", "TextEnricher")


def steps_to_numbers(estimator):
    """Return the pipeline steps that turn the output of an estimator into input for a linear model."""
    words = [ColumnTransformer([("words", CountVectorizer(), "text")])] if writes_texts(estimator) else []
    return [*words, *([SimpleImputer()] if may_be_missing(estimator) else []), MaxAbsScaler()]


def accepts(estimator, X):
    """Return whether an estimator accepts `X` without a TypeError."""
    try:
        clone(estimator).fit(X).transform(X)
    except TypeError:
        return False
    return True
