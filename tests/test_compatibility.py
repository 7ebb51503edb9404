"""Every estimator of the package under scikit-learn's common checks, and under ours on events and texts."""

import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys

import numpy as np
import pytest
from estimators import BASELINES, IMPORTS_HOTPP, ON_EVENTS, ON_TEXTS, PARAMETER_OBJECTS, each_of, installed
from native_checks import CHECKS, assert_alike, check_column_transformer, values
from numeric_rows import RowTransformer
from sklearn.base import BaseEstimator, clone
from sklearn.pipeline import FeatureUnion
from sklearn.utils import estimator_checks

import skllm4es
from skllm4es import EventSerializer
from skllm4es.datasets import make_transactions

ESTIMATORS = ON_EVENTS | ON_TEXTS

#: Common checks that apply to any input: the others fit on arrays of numbers, or return at once if the tags say that
#: these are not accepted. The checks in the first list need no `fit`.
PARAMETER_CHECKS = [
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
CHECKS_OF_ANY_INPUT = [
    *PARAMETER_CHECKS,
    "check_param_validation",
    "check_transformers_unfitted",
    "check_get_feature_names_out_error",
]

#: All common checks run on these: the embedder, the baselines that count, and one baseline per way of training.
ON_ROWS = {
    "embedder": RowTransformer(ON_TEXTS["embedder"], texts=True),
    **{name: RowTransformer(BASELINES[name]) for name in ("aggregates", "bag", "random", "coles", "latte", "iftpp")},
}
CONTRASTS = {
    "check_fit2d_1sample": "Training contrasts different users, so one row is an error; its message counts users, but "
    "the check looks for the word sample."
}
EXPECTED_FAILURES = {
    "coles": CONTRASTS,
    "latte": CONTRASTS,
    "iftpp": {
        "check_fit2d_1feature": "A row of one number is a user with one event, after which there is no next one to "
        "predict; the message counts events, but the check looks for the word feature."
    },
}


#: What `parametrize_with_checks` would run, with shorter names.
ROW_CHECKS = [
    check
    for name, estimator in ON_ROWS.items()
    for check in estimator_checks.estimator_checks_generator(
        estimator, expected_failed_checks=EXPECTED_FAILURES.get(name), mark="xfail"
    )
]


def name_of(parameter):
    """Return the name of a check, or of the estimator that it runs on."""
    if isinstance(parameter, RowTransformer):
        return type(parameter.transformer).__name__
    return "-".join([parameter.func.__name__, *(f"{key}={value}" for key, value in parameter.keywords.items())])


@pytest.fixture(scope="module")
def users():
    X, _ = make_transactions(n_users=16, mean_events=12, random_state=0)
    return X.set_axis([f"user {i}" for i in range(len(X))])


@pytest.fixture(scope="module")
def texts(users):
    return EventSerializer(["mcc", "amount"]).fit_transform(users)


def test_every_public_estimator_is_checked():
    checked = {type(value) for value in (ESTIMATORS | PARAMETER_OBJECTS).values()}
    packages = [module.name for module in pkgutil.iter_modules(skllm4es.__path__, "skllm4es.") if module.ispkg]
    public = {
        value
        for module in map(importlib.import_module, ["skllm4es", *packages])
        for name in getattr(module, "__all__", [])
        if inspect.isclass(value := getattr(module, name)) and issubclass(value, BaseEstimator)
    }
    assert {cls for cls in public if not inspect.isabstract(cls)} == checked


@each_of(ESTIMATORS)
@pytest.mark.parametrize("check", CHECKS_OF_ANY_INPUT)
def test_common_checks_on_any_input(estimator, check):
    getattr(estimator_checks, check)(type(estimator).__name__, estimator)


@each_of(PARAMETER_OBJECTS)
@pytest.mark.parametrize("check", PARAMETER_CHECKS)
def test_common_checks_on_parameter_objects(estimator, check):
    getattr(estimator_checks, check)(type(estimator).__name__, estimator)


@each_of(ESTIMATORS | PARAMETER_OBJECTS)
def test_notebooks_show_the_name_and_every_parameter(estimator):
    shown = estimator._repr_html_()
    assert {type(estimator).__name__, *estimator.get_params(deep=False)} <= set(re.findall(r"\w+", shown))


@pytest.mark.parametrize(("estimator", "check"), ROW_CHECKS, ids=name_of)
def test_all_common_checks_on_rows_of_numbers(estimator, check):
    check(estimator)


def test_common_checks_of_array_api_run():
    """They need a setting that scipy reads on import, so they run in another process; without it they are skipped."""
    tests = [__file__, "-k", "on_rows_of_numbers and array_api", "-q", "-p", "no:cacheprovider"]
    tests += ["-W", "ignore:Array API does not support LU"]  # From randomized_svd, which then takes another way.
    environment = os.environ | {"SCIPY_ARRAY_API": "1"}
    done = subprocess.run([sys.executable, "-m", "pytest", *tests], env=environment, capture_output=True, text=True)
    if done.returncode == pytest.ExitCode.NO_TESTS_COLLECTED:
        pytest.skip("needs scikit-learn 1.9, which also checks estimators without array API")
    assert done.returncode == 0, done.stdout
    assert re.search(rf"^{len(ON_ROWS)} passed", done.stdout, re.MULTILINE), done.stdout
    assert "skipped" not in done.stdout


@each_of(ON_EVENTS)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_native_checks_on_events(estimator, check, users, request):
    run(check, estimator, users, request)


@each_of(ON_TEXTS)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_native_checks_on_texts(estimator, check, texts, request):
    if (estimator, check) == (ON_TEXTS["enricher"], check_column_transformer):
        reason = "scikit-learn names the output of fit_transform like that of transform, which has no variants."
        request.applymarker(pytest.mark.xfail(reason=reason))
    run(check, estimator, texts, request)


def run(check, estimator, X, request):
    fixtures = list(inspect.signature(check).parameters)[2:]
    check(clone(estimator), X, **{name: request.getfixturevalue(name) for name in fixtures})


@pytest.mark.parametrize(("estimators", "X"), [(ON_EVENTS, "users"), (ON_TEXTS, "texts")], ids=["events", "texts"])
@IMPORTS_HOTPP
def test_two_processes_return_what_one_returns(estimators, X, request):
    # Reversed, so that torch is imported first: joblib replaces workers that grow later.
    X, estimators = request.getfixturevalue(X), dict(reversed(installed(estimators).items()))
    union = FeatureUnion([(name, clone(estimator)) for name, estimator in estimators.items()], n_jobs=2).fit(X)
    alone = np.hstack([values(clone(estimator).fit(X).transform(X)) for estimator in estimators.values()])
    together = union.transform(X)
    texts = np.array([isinstance(value, str) for value in alone[0]])
    np.testing.assert_array_equal(together[:, texts], alone[:, texts])
    assert_alike(together[:, ~texts].astype(float), alone[:, ~texts].astype(float))
