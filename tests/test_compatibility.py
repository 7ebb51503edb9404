"""Every estimator of the package beside scikit-learn: its common checks, and ours on the input that each takes."""

import gc
import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys

import numpy as np
import pytest
from estimators import BASELINES, IMPORTS_HOTPP, OF_EVENTS, OF_TEXTS, PARAMETERS, each_of, installed
from native_checks import CHECKS, assert_alike, check_column_transformer, values
from numeric_rows import RowTransformer
from sklearn.base import BaseEstimator, clone
from sklearn.pipeline import FeatureUnion
from sklearn.utils import estimator_checks

import skllm4es
from skllm4es import EventSerializer
from skllm4es.datasets import make_transactions

ESTIMATORS = OF_EVENTS | OF_TEXTS

# joblib warns when it replaces a worker that has grown much; where warnings are errors, this one ends in a deadlock.
pytestmark = pytest.mark.filterwarnings("ignore:A worker stopped while some jobs were given:UserWarning")

#: The common checks that say something of any estimator, whatever its input: the others fit on arrays of numbers, or
#: return at once where the tags say that these are not taken. Those of the first list need no `fit`.
OF_PARAMETERS = [
    "check_estimator_cloneable",
    "check_estimator_repr",
    "check_estimator_tags_renamed",
    "check_valid_tag_types",
    "check_no_attributes_set_in_init",
    "check_do_not_raise_errors_in_init_or_set_params",
    "check_parameters_default_constructible",
    "check_get_params_invariance",
    "check_set_params",
    "check_mixin_order",
]
OF_ANY_INPUT = [
    *OF_PARAMETERS,
    "check_param_validation",
    "check_transformers_unfitted",
    "check_get_feature_names_out_error",
]

#: The whole suite runs on these: LLM4ES, and of the baselines those that count, and one of each way to train.
ON_ROWS = {
    "embedder": RowTransformer(OF_TEXTS["embedder"], texts=True),
    **{name: RowTransformer(BASELINES[name]) for name in ("aggregates", "bag", "random", "coles", "iftpp")},
}
EXPECTED_FAILURES = {
    "coles": {
        "check_fit2d_1sample": "Slices of different users are told apart, so that one row is an error; its message "
        "counts users, where the check looks for the word sample."
    },
    "iftpp": {
        "check_fit2d_1feature": "A row of one number is a user with one event, after which there is no next one to "
        "predict; the message counts events, where the check looks for the word feature."
    },
}


#: What `parametrize_with_checks` would run; of scikit-learn 1.6 it does not go with pytest 9.
ROW_CHECKS = [
    each
    for name, estimator in ON_ROWS.items()
    for each in estimator_checks.estimator_checks_generator(
        estimator, expected_failed_checks=EXPECTED_FAILURES.get(name), mark="xfail"
    )
]


def name_of(parameter):
    """Name a check or the estimator that it is run on."""
    if isinstance(parameter, RowTransformer):
        return type(parameter.transformer).__name__
    return "-".join([parameter.func.__name__, *(f"{key}={value}" for key, value in parameter.keywords.items())])


@pytest.fixture(scope="module", autouse=True)
def quick_garbage_collection():
    """Take what is imported out of garbage collection, which costs more than a training of so small models."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def users():
    X, _ = make_transactions(n_users=16, mean_events=12, random_state=0)
    return X.set_axis([f"user {i}" for i in range(len(X))])


@pytest.fixture(scope="module")
def texts(users):
    return EventSerializer(["mcc", "amount"]).fit_transform(users)


def test_every_public_estimator_is_checked():
    checked = {type(each) for each in (ESTIMATORS | PARAMETERS).values()}
    packages = [each.name for each in pkgutil.iter_modules(skllm4es.__path__, "skllm4es.") if each.ispkg]
    public = {
        value
        for module in map(importlib.import_module, ["skllm4es", *packages])
        for name in getattr(module, "__all__", [])
        if inspect.isclass(value := getattr(module, name)) and issubclass(value, BaseEstimator)
    }
    assert {each for each in public if not inspect.isabstract(each)} == checked


@each_of(ESTIMATORS)
@pytest.mark.parametrize("check", OF_ANY_INPUT)
def test_common_checks_of_any_input(estimator, check):
    getattr(estimator_checks, check)(type(estimator).__name__, estimator)


@each_of(PARAMETERS)
@pytest.mark.parametrize("check", OF_PARAMETERS)
def test_common_checks_of_parameters(estimator, check):
    getattr(estimator_checks, check)(type(estimator).__name__, estimator)


@pytest.mark.parametrize(("estimator", "check"), ROW_CHECKS, ids=name_of)
def test_all_common_checks_on_rows_of_numbers(estimator, check):
    check(estimator)


def test_the_common_checks_that_need_a_setting_of_scipy():
    """It is read when scipy is imported, hence another process; without it they are skipped."""
    tests = [__file__, "-k", "on_rows_of_numbers and array_api", "-q", "-p", "no:cacheprovider"]
    tests += ["-W", "ignore:Array API does not support LU"]  # randomized_svd says that it takes another way.
    environment = os.environ | {"SCIPY_ARRAY_API": "1"}
    done = subprocess.run([sys.executable, "-m", "pytest", *tests], env=environment, capture_output=True, text=True)
    if done.returncode == pytest.ExitCode.NO_TESTS_COLLECTED:
        pytest.skip("needs scikit-learn 1.9, which checks this of estimators without array API as well")
    assert done.returncode == 0, done.stdout
    assert re.search(rf"^{len(ON_ROWS)} passed", done.stdout, re.MULTILINE), done.stdout
    assert "skipped" not in done.stdout


@each_of(OF_EVENTS)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_native_checks_on_events(estimator, check, users, request):
    run(check, estimator, users, request)


@each_of(OF_TEXTS)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_native_checks_on_texts(estimator, check, texts, request):
    if (estimator, check) == (OF_TEXTS["enricher"], check_column_transformer):
        reason = "The names of columns are those of transform: scikit-learn has no others for fit_transform's variants."
        request.applymarker(pytest.mark.xfail(reason=reason))
    run(check, estimator, texts, request)


def run(check, estimator, X, request):
    fixtures = list(inspect.signature(check).parameters)[2:]
    check(clone(estimator), X, **{name: request.getfixturevalue(name) for name in fixtures})


@pytest.mark.parametrize(("estimators", "X"), [(OF_EVENTS, "users"), (OF_TEXTS, "texts")], ids=["events", "texts"])
@IMPORTS_HOTPP
def test_two_processes_give_what_one_gives(estimators, X, request):
    # Backwards, so that those that import torch come first: joblib replaces a worker that grows later.
    X, estimators = request.getfixturevalue(X), dict(reversed(installed(estimators).items()))
    union = FeatureUnion([(name, clone(each)) for name, each in estimators.items()], n_jobs=2).fit(X)
    alone = np.hstack([values(clone(each).fit(X).transform(X)) for each in estimators.values()])
    together = union.transform(X)
    texts = [isinstance(value, str) for value in alone[0]]
    np.testing.assert_array_equal(together[:, texts], alone[:, texts])
    numbers = np.logical_not(texts)
    assert_alike(together[:, numbers].astype(float), alone[:, numbers].astype(float))
