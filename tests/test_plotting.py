"""The displays draw their data, and say what they need."""

import io
import sys

import numpy as np
import pandas as pd
import pytest
from lightgbm import LGBMClassifier
from sklearn.decomposition import PCA
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import VotingClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tiny_models import frozen_model

from skllm4es import EventSerializer, FineTuning, FromScratch, LLMEmbedder
from skllm4es.baselines import BagOfEvents, EventAggregator
from skllm4es.datasets import make_transactions
from skllm4es.plotting import (
    ContributionsDisplay,
    DataEfficiencyDisplay,
    EmbeddingMapDisplay,
    FineTuningLossDisplay,
    PoolingDepthDisplay,
    TokenLengthDisplay,
)

matplotlib = pytest.importorskip("matplotlib", reason="needs matplotlib")
matplotlib.use("Agg")
plt = pytest.importorskip("matplotlib.pyplot")

TINY = FromScratch(config={"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2})
SCORES = np.array([[0.6, 0.7], [0.8, 0.9], [0.5, 0.7]])


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def transactions():
    return make_transactions(30, mean_events=5, random_state=0)


@pytest.fixture(scope="module")
def pipeline(transactions):
    """A fitted pipeline whose embedder held users out and reads 64 tokens at once."""
    embedder = LLMEmbedder(TINY, max_length=64, random_state=0, finetune=FineTuning(epochs=1, validation_fraction=0.2))
    classifier = LGBMClassifier(n_estimators=5, n_jobs=1, verbose=-1)
    return make_pipeline(EventSerializer(["mcc", "amount"]), embedder, classifier).fit(*transactions)


def _cv_results(depths=(2, 1, 3), metric="score", train=False, **others):
    """Results of a search over depths, with the scores SCORES."""
    results = {"param_embed__pooling_depth": np.ma.array(depths, dtype=object), **others}
    kinds = ("test", "train") if train else ("test",)
    for kind in kinds:
        results |= {f"split{split}_{kind}_{metric}": SCORES[:, split] for split in range(2)}
        results[f"mean_{kind}_{metric}"] = SCORES.mean(axis=1)
    return results


class TestEveryDisplay:
    DISPLAYS = (
        PoolingDepthDisplay(
            param_name="pooling_depth", param_range=np.array([1, 2, 3]), train_scores=SCORES, test_scores=SCORES
        ),
        DataEfficiencyDisplay(train_sizes=np.array([10, 20, 40]), train_scores=SCORES, test_scores=SCORES),
        FineTuningLossDisplay(loss_curve=[3.0, 2.0, 1.0]),
        TokenLengthDisplay(lengths=np.array([3, 4, 5])),
        EmbeddingMapDisplay(positions=np.zeros((3, 2))),
        ContributionsDisplay(contributions=pd.Series({"title: Heat": 0.3, "title: Alien": -0.4})),
    )

    @pytest.mark.parametrize("display", DISPLAYS, ids=lambda display: type(display).__name__)
    def test_draws_into_given_axes_and_keeps_them(self, display):
        figure, ax = plt.subplots()
        assert display.plot(ax=ax) is display
        assert (display.ax_, display.figure_) == (ax, figure)
        assert ax.has_data()
        assert ax.get_xlabel() or isinstance(display, EmbeddingMapDisplay)

    @pytest.mark.parametrize("display", DISPLAYS, ids=lambda display: type(display).__name__)
    def test_makes_a_figure_if_there_is_none(self, display):
        assert not plt.get_fignums()
        assert display.plot().figure_.number in plt.get_fignums()

    @pytest.mark.parametrize("display", DISPLAYS, ids=lambda display: type(display).__name__)
    def test_names_the_extra_without_matplotlib(self, display, monkeypatch):
        monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
        with pytest.raises(ImportError, match=r"pip install 'skllm4es\[plot\]'"):
            display.plot()


def test_what_looks_like_a_formula_is_drawn_as_it_is():
    dollars = "A$AP_ {$}"
    loss, scores = {"loss_curve": [3.0, 2.0]}, {"train_scores": SCORES, "test_scores": SCORES}
    displays = [
        ContributionsDisplay(contributions=pd.Series({dollars: 0.3})).plot(),
        EmbeddingMapDisplay.from_embeddings(np.eye(2), pd.Series([dollars, "b"], name=dollars)),
        EmbeddingMapDisplay.from_embeddings(np.eye(2), pd.Series([0.5, 1.0], name=dollars)),
        FineTuningLossDisplay(**loss).plot(name=dollars),
        EmbeddingMapDisplay(positions=np.zeros((3, 2)), axis_names=(dollars, "b")).plot(),
        DataEfficiencyDisplay(train_sizes=np.array([10, 20, 40]), **scores).plot(name=dollars),
        DataEfficiencyDisplay(train_sizes=np.array([10, 20, 40]), score_name=dollars, **scores).plot(),
        PoolingDepthDisplay(
            param_name="pooling_depth", param_range=np.array([1, 2, 3]), score_name=dollars, **scores
        ).plot(),
    ]
    displays[5].plot(ax=displays[5].ax_, name=dollars)
    displays[5].plot(ax=displays[5].ax_)
    for display in displays:
        texts = display.figure_.findobj(matplotlib.text.Text)
        assert any(dollars in text.get_text() for text in texts)
        display.figure_.savefig(io.BytesIO())


class TestPoolingDepth:
    def test_draws_the_means_of_a_search_by_depth(self):
        display = PoolingDepthDisplay.from_cv_results(_cv_results(depths=(2, 1, 3)))
        (line,) = display.lines_
        assert line.get_xdata().tolist() == [1, 2, 3]
        np.testing.assert_allclose(line.get_ydata(), [0.85, 0.65, 0.6])

    def test_rings_the_best_depth(self):
        display = PoolingDepthDisplay.from_cv_results(_cv_results(depths=(2, 1, 3)))
        assert (display.best_.get_xdata(), display.best_.get_ydata()) == (1, pytest.approx(0.85))

    def test_error_bars_have_a_name_and_a_ring(self):
        results = _cv_results(depths=(2, 1, 3))
        display = PoolingDepthDisplay.from_cv_results(results, name="ridge", std_display_style="errorbar")
        assert (display.best_.get_xdata(), display.best_.get_ydata()) == (1, pytest.approx(0.85))
        assert [text.get_text() for text in display.ax_.get_legend().get_texts()] == ["ridge"]
        scores = {"train_scores": SCORES, "test_scores": SCORES}
        other = DataEfficiencyDisplay(train_sizes=np.array([10, 20, 40]), **scores)
        other.plot(name="ridge", score_type="both", std_display_style="errorbar")
        assert [text.get_text() for text in other.ax_.get_legend().get_texts()] == ["ridge, train", "ridge"]

    def test_bands_are_a_standard_deviation_wide(self):
        display = PoolingDepthDisplay.from_cv_results(_cv_results(depths=(1, 2, 3)))
        heights = display.fill_between_[0].get_paths()[0].vertices[:, 1]
        assert (heights.min(), heights.max()) == (pytest.approx(0.5), pytest.approx(0.9))

    def test_takes_the_best_candidate_of_each_depth(self):
        display = PoolingDepthDisplay.from_cv_results(_cv_results(depths=(1, 1, 2), param_other=["a", "b", "a"]))
        np.testing.assert_allclose(display.test_scores, SCORES[[1, 2]])

    def test_a_candidate_that_failed_is_not_the_best_of_its_depth(self):
        results = _cv_results(depths=(1, 1, 2))
        for key in ("split0_test_score", "split1_test_score", "mean_test_score"):
            results[key] = np.array([np.nan, *results[key][1:]])
        display = PoolingDepthDisplay.from_cv_results(results)
        np.testing.assert_allclose(display.test_scores, SCORES[[1, 2]])

    def test_negated_errors_are_drawn_as_errors(self):
        display = PoolingDepthDisplay(
            param_name="pooling_depth", param_range=np.array([1, 2, 3]), train_scores=-SCORES, test_scores=-SCORES
        ).plot(negate_score=True)
        np.testing.assert_allclose(display.lines_[0].get_ydata(), SCORES.mean(axis=1))
        assert display.best_.get_xdata() == 3

    def test_reads_one_metric_of_several(self):
        display = PoolingDepthDisplay.from_cv_results(_cv_results(metric="roc_auc"), metric="roc_auc")
        assert display.ax_.get_ylabel() == "roc_auc"

    def test_names_the_available_metrics(self):
        with pytest.raises(ValueError, match=r"no metric 'score'; it has \['roc_auc'\]"):
            PoolingDepthDisplay.from_cv_results(_cv_results(metric="roc_auc"))

    def test_draws_training_users_too(self):
        display = PoolingDepthDisplay.from_cv_results(_cv_results(train=True), score_type="both", name="LLM")
        training, held_out = display.lines_
        assert display.best_.get_color() == held_out.get_color() != training.get_color()
        labels = [text.get_text() for text in display.ax_.get_legend().get_texts()]
        assert labels == ["LLM, train", "LLM"]

    def test_bands_have_the_colour_of_their_line(self):
        display = PoolingDepthDisplay.from_cv_results(_cv_results(), line_kw={"color": "green"})
        assert matplotlib.colors.same_color(display.fill_between_[0].get_facecolor()[0, :3], "green")

    def test_says_how_a_search_keeps_scores_of_training_users(self):
        with pytest.raises(ValueError, match="return_train_score=True"):
            PoolingDepthDisplay.from_cv_results(_cv_results(), score_type="train")

    def test_asks_which_of_two_parameters(self):
        results = _cv_results(param_b__pooling_depth=[1, 1, 1])
        with pytest.raises(ValueError, match="Choose one with param_name="):
            PoolingDepthDisplay.from_cv_results(results)
        display = PoolingDepthDisplay.from_cv_results(results, param_name="embed__pooling_depth")
        assert display.param_range.tolist() == [1, 2, 3]

    def test_a_search_over_something_else_is_an_error(self):
        with pytest.raises(ValueError, match="0 parameters end in pooling_depth"):
            PoolingDepthDisplay.from_cv_results({"param_C": [1], "mean_test_score": [0.5]})

    def test_one_depth_makes_no_curve(self, pipeline, transactions):
        with pytest.raises(ValueError, match=r"at least two pooling depths; got \[2, 2, 2\]"):
            PoolingDepthDisplay.from_cv_results(_cv_results(depths=(2, 2, 2)))
        with pytest.raises(ValueError, match=r"at least two pooling depths; got \[2\]"):
            PoolingDepthDisplay.from_estimator(pipeline, *transactions, depths=[2])
        with pytest.raises(ValueError, match=r"at least two train_sizes; got \[5\]"):
            DataEfficiencyDisplay.from_estimator(pipeline, *transactions, train_sizes=[5])

    def test_candidates_without_a_depth_are_left_out(self):
        depths = np.ma.array([1, 0, 3], mask=[False, True, False], dtype=object)
        results = _cv_results() | {"param_embed__pooling_depth": depths}
        display = PoolingDepthDisplay.from_cv_results(results)
        assert display.param_range.tolist() == [1, 3]
        np.testing.assert_array_equal(display.test_scores, SCORES[[0, 2]])

    @pytest.mark.parametrize("depth", ["auto", 1.5, True])
    def test_depths_are_numbers(self, depth):
        with pytest.raises(ValueError, match="whole numbers; got"):
            PoolingDepthDisplay.from_cv_results(_cv_results(depths=(1, depth, 3)))

    def test_from_estimator_draws_what_a_search_finds(self, pipeline, transactions, tmp_path):
        pipeline = make_pipeline(*[step for _, step in pipeline.steps])
        pipeline.set_params(
            llmembedder__memory=tmp_path,
            llmembedder__finetune__validation_fraction=None,
            llmembedder__features="hidden",
        )
        search = GridSearchCV(pipeline, {"llmembedder__pooling_depth": [1, 3]}, scoring="roc_auc", cv=2, refit=False)
        found = PoolingDepthDisplay.from_cv_results(search.fit(*transactions).cv_results_)
        display = PoolingDepthDisplay.from_estimator(pipeline, *transactions, depths=[3, 1], scoring="roc_auc", cv=2)
        np.testing.assert_array_equal(display.test_scores, found.test_scores)
        assert display.score_name == "Roc auc"


class TestDataEfficiency:
    def test_draws_scores_against_labelled_users(self, transactions):
        aggregates = make_pipeline(EventAggregator(), SimpleImputer(), StandardScaler(), LogisticRegression())
        display = DataEfficiencyDisplay.from_estimator(
            aggregates, *transactions, train_sizes=[10, 20], cv=3, scoring="roc_auc", random_state=0
        )
        assert display.lines_[0].get_xdata().tolist() == [10, 20]
        assert display.test_scores.shape == (2, 3)
        assert display.ax_.get_xscale() == "log"

    def test_two_estimators_share_axes(self, transactions):
        X, y = transactions
        vectors = make_pipeline(EventAggregator(columns=["amount"]), SimpleImputer(), StandardScaler()).fit_transform(X)
        display = DataEfficiencyDisplay.from_estimator(Ridge(), vectors, y, train_sizes=[5, 10], name="ridge")
        other = DataEfficiencyDisplay.from_estimator(
            Ridge(9), vectors, y, train_sizes=[5, 20], name="stiff", ax=display.ax_
        )
        assert [text.get_text() for text in other.ax_.get_legend().get_texts()] == ["ridge", "stiff"]
        assert [label.get_text() for label in other.ax_.get_xticklabels()] == ["5", "10", "20"]
        assert display.lines_[0].get_color() != other.lines_[0].get_color()

    def test_a_line_across_the_axes_is_no_number_of_users(self):
        _, ax = plt.subplots()
        ax.axhline(0.5)
        sizes = np.array([10, 20, 2_000_000])
        DataEfficiencyDisplay(train_sizes=sizes, train_scores=SCORES, test_scores=SCORES).plot(ax=ax)
        assert [label.get_text() for label in ax.get_xticklabels()] == ["10", "20", "2000000"]

    def test_negated_errors_are_drawn_as_errors(self, transactions):
        X, y = transactions
        ridge = make_pipeline(EventAggregator(columns=["amount"]), SimpleImputer(), StandardScaler(), Ridge())
        display = DataEfficiencyDisplay.from_estimator(
            ridge, X, y, train_sizes=[5, 10], scoring="neg_mean_absolute_error", negate_score=True
        )
        assert (display.lines_[0].get_ydata() > 0).all()
        assert display.ax_.get_ylabel() == "Mean absolute error"

    def test_a_fit_that_fails_is_an_error(self, transactions):
        X, y = transactions
        with pytest.raises(ValueError, match="class"):
            DataEfficiencyDisplay.from_estimator(
                LogisticRegression(), BagOfEvents().fit_transform(X), np.zeros_like(y), train_sizes=[5, 6]
            )


class TestFineTuningLoss:
    def test_draws_both_losses_over_the_tokens(self, pipeline):
        embedder = pipeline["llmembedder"]
        display = FineTuningLossDisplay.from_estimator(pipeline)
        np.testing.assert_array_equal(display.line_.get_ydata(), embedder.loss_curve_)
        np.testing.assert_array_equal(display.validation_line_.get_ydata(), embedder.validation_loss_curve_)
        np.testing.assert_array_equal(display.validation_line_.get_xdata(), embedder.validation_loss_curve_tokens_)
        assert embedder.loss_curve_tokens_[-1] == embedder.n_tokens_seen_
        assert display.line_.get_xdata()[-1] < embedder.n_tokens_seen_

    def test_draws_evaluations_where_they_were_however_often_losses_are_logged(self):
        texts = [f"a|b\n{user}, x\n{user}, {user % 7}" for user in range(60)]
        steps = {"logging_steps": 4, "eval_steps": 5, "save_steps": 5}
        finetuning = FineTuning(epochs=1, batch_tokens=64, validation_fraction=0.2, training_args=steps)
        embedder = LLMEmbedder(FromScratch(n_params=1000), finetune=finetuning, random_state=0).fit(texts)
        logs, evaluations = embedder.loss_curve_tokens_, embedder.validation_loss_curve_tokens_
        # Twelve steps of about equal batches.
        np.testing.assert_allclose(logs, np.array([1, 2, 3]) * logs[0], rtol=0.1)
        np.testing.assert_allclose(evaluations, np.array([5, 10, 12]) * logs[0] / 4, rtol=0.1)
        assert logs[-1] == embedder.n_tokens_seen_
        display = FineTuningLossDisplay.from_estimator(embedder)
        np.testing.assert_allclose(display.line_.get_xdata(), (np.array([0, *logs[:-1]]) + logs) / 2)
        np.testing.assert_allclose(display.validation_line_.get_xdata(), evaluations)

    def test_rings_the_lowest_loss_on_users_held_out(self):
        curves = {"loss_curve": [3, 2, 1], "validation_loss_curve": [2, 1, 3]}
        tokens = {"loss_curve_tokens": [100, 200, 300], "validation_loss_curve_tokens": [80, 160, 240]}
        display = FineTuningLossDisplay(**curves, **tokens).plot()
        assert (display.best_.get_xdata(), display.best_.get_ydata()) == (160, 1)
        display = FineTuningLossDisplay(**curves).plot()
        assert display.best_.get_xdata() == pytest.approx(2 / 3)

    def test_without_users_held_out_there_is_one_line(self):
        display = FineTuningLossDisplay(loss_curve=[3, 2, 1]).plot()
        assert display.validation_line_ is None
        assert len(display.ax_.get_lines()) == 1

    def test_takes_a_frozen_embedder(self, pipeline):
        frozen = FrozenEstimator(pipeline["llmembedder"])
        assert FineTuningLossDisplay.from_estimator(frozen).loss_curve == pipeline["llmembedder"].loss_curve_

    def test_an_embedder_that_was_not_trained_is_an_error(self, pipeline, transactions, tmp_path):
        pipeline["llmembedder"].save_pretrained(tmp_path / "saved")
        embedder = LLMEmbedder(str(tmp_path / "saved"), finetune=None).fit(["a|b\n1, 2"])
        with pytest.raises(ValueError, match="was not trained, as with finetune=None"):
            FineTuningLossDisplay.from_estimator(embedder)

    def test_no_losses_are_an_error(self):
        with pytest.raises(ValueError, match="There are 0 losses"):
            FineTuningLossDisplay(loss_curve=[]).plot()

    @pytest.mark.parametrize("estimator", [LLMEmbedder(), make_pipeline(StandardScaler(), Ridge())])
    def test_an_estimator_without_a_fitted_embedder_is_an_error(self, estimator):
        with pytest.raises(ValueError, match="Pass a fitted LLMEmbedder"):
            FineTuningLossDisplay.from_estimator(estimator)


class TestTokenLength:
    def test_counts_the_tokens_that_the_embedder_reads(self, pipeline, transactions):
        X, _ = transactions
        display = TokenLengthDisplay.from_estimator(pipeline, X)
        texts = pipeline["eventserializer"].transform(X)
        tokenizer = pipeline["llmembedder"].load_model()[1]
        assert display.lengths.tolist() == [len(tokenizer(text)["input_ids"]) for text in texts["text"]]
        assert sum(bar.get_height() for bar in display.bars_) == 30

    def test_marks_max_length_and_counts_longer_texts(self, pipeline, transactions):
        X, _ = transactions
        display = TokenLengthDisplay.from_estimator(pipeline, X)
        longer = (display.lengths > 64).sum()
        assert display.cut_.get_xdata() == [64, 64]
        assert 0 < longer < 30
        assert display.ax_.get_title() == f"{longer} of 30 texts are longer than max_length"

    def test_event_features_cut_no_texts(self, tmp_path):
        texts = ["a|b\n" + "1, 2\n" * user for user in range(1, 9)]
        embedder = LLMEmbedder(frozen_model(), finetune=None, max_length=16).fit(texts)
        assert embedder.features_ == ["events"]
        display = TokenLengthDisplay.from_estimator(embedder, texts)
        assert display.lengths.max() > 16
        assert (display.cut_, display.ax_.get_title()) == (None, "")

    def test_texts_and_a_tokenizer_are_enough(self, pipeline):
        display = TokenLengthDisplay.from_texts(["a", "a b c d e"], pipeline["llmembedder"].load_model()[1])
        assert display.lengths[0] < display.lengths[1]
        assert display.cut_ is None

    def test_no_texts_are_an_error(self, pipeline):
        with pytest.raises(ValueError, match="There are 0 texts"):
            TokenLengthDisplay.from_texts([], pipeline["llmembedder"].load_model()[1])


class TestEmbeddingMap:
    VECTORS = np.random.default_rng(0).normal(size=(30, 4))

    def test_takes_a_sparse_matrix(self, transactions):
        X, y = transactions
        vectors = BagOfEvents(n_components=None).fit_transform(X)
        display = EmbeddingMapDisplay.from_embeddings(vectors, y)
        np.testing.assert_allclose(
            display.positions, EmbeddingMapDisplay.from_embeddings(vectors.toarray(), y).positions, atol=1e-6
        )

    def test_is_the_first_two_principal_components_of_the_vectors_as_they_are(self):
        vectors = self.VECTORS * [1, 10, 1, 5]
        display = EmbeddingMapDisplay.from_embeddings(vectors)
        expected = PCA(2, svd_solver="full").fit_transform(vectors)
        np.testing.assert_allclose(display.scatters_[0].get_offsets(), expected)
        assert "% of variance" in display.ax_.get_xlabel()

    def test_leaves_out_the_classifier_of_a_pipeline(self, pipeline, transactions):
        display = EmbeddingMapDisplay.from_estimator(pipeline, *transactions)
        expected = EmbeddingMapDisplay.from_embeddings(pipeline[:-1].transform(transactions[0]))
        np.testing.assert_array_equal(display.positions, expected.positions)

    def test_leaves_out_a_predictor_that_transforms(self, transactions):
        X, y = transactions
        vote = VotingClassifier([("linear", LogisticRegression()), ("forest", DummyClassifier())], voting="soft")
        pipeline = make_pipeline(EventAggregator(), SimpleImputer(), StandardScaler(), vote).fit(X, y)
        display = EmbeddingMapDisplay.from_estimator(pipeline, X, y)
        expected = EmbeddingMapDisplay.from_embeddings(pipeline[:-1].transform(X))
        np.testing.assert_array_equal(display.positions, expected.positions)

    @pytest.mark.parametrize("dtype", ["Int64", "Float64", "int64[pyarrow]", "double[pyarrow]", object])
    def test_numbers_of_any_library_are_classes_or_a_scale(self, dtype):
        few = EmbeddingMapDisplay.from_embeddings(self.VECTORS, pd.Series([1234567, 1234568, None] * 10, dtype=dtype))
        labels = [text.get_text() for text in few.ax_.get_legend().get_texts()]
        assert labels == ["unknown", "1234567", "1234568"]
        many = EmbeddingMapDisplay.from_embeddings(self.VECTORS, pd.Series([*range(29), None], dtype=dtype))
        assert many.colorbar_ is not None

    def test_a_class_may_begin_with_an_underscore(self):
        display = EmbeddingMapDisplay.from_embeddings(self.VECTORS, ["_a", "b", "c"] * 10)
        assert [text.get_text() for text in display.ax_.get_legend().get_texts()] == ["_a", "b", "c"]

    @pytest.mark.parametrize("kind", ["numbers", "texts", "booleans", "categories", "polars"])
    def test_each_class_has_a_colour(self, kind):
        numbers = np.arange(30) % 2
        target = {
            "numbers": numbers,
            "texts": np.array(["a", "b"])[numbers].tolist(),
            "booleans": numbers == 1,
            "categories": pd.Series(np.array(["a", "b"])[numbers]).astype(pd.CategoricalDtype(["z", "b", "a"])),
            "polars": numbers.tolist(),
        }[kind]
        if kind == "polars":
            target = pytest.importorskip("polars").Series("label", target)
        display = EmbeddingMapDisplay.from_embeddings(self.VECTORS, target)
        assert [len(points.get_offsets()) for points in display.scatters_] == [15, 15]
        assert display.colorbar_ is None

    @pytest.mark.parametrize("n_classes", [11, 25])
    def test_many_classes_have_their_colours_and_a_legend_beside_the_map(self, n_classes):
        target = [f"class {row % n_classes}" for row in range(30)]
        display = EmbeddingMapDisplay.from_embeddings(self.VECTORS, target)
        assert len({tuple(points.get_facecolor()[0]) for points in display.scatters_}) == n_classes
        display.figure_.canvas.draw()
        assert display.ax_.get_legend().get_window_extent().x0 > display.ax_.get_window_extent().x1

    def test_categories_keep_their_order(self):
        target = pd.Categorical(["low", "high"] * 15, categories=["low", "medium", "high"], ordered=True)
        display = EmbeddingMapDisplay.from_embeddings(self.VECTORS, target)
        assert [text.get_text() for text in display.ax_.get_legend().get_texts()] == ["low", "high"]

    def test_numbers_have_a_colour_scale(self):
        target = pd.Series(np.linspace(20, 60, 30), name="age", index=np.arange(30) + 100)
        display = EmbeddingMapDisplay.from_embeddings(self.VECTORS, target)
        np.testing.assert_array_equal(display.scatters_[0].get_array(), target)
        assert display.colorbar_.ax.get_ylabel() == "age"

    @pytest.mark.parametrize("target", [[0, 1, None] * 10, ["a", "b", None] * 10, [0.5, 1.5, np.nan] * 10])
    def test_users_without_a_target_are_grey(self, target):
        display = EmbeddingMapDisplay.from_embeddings(self.VECTORS, target)
        grey = display.scatters_[0]
        assert grey.get_label() == "unknown"
        assert sum(len(points.get_offsets()) for points in display.scatters_) == 30
        assert len(grey.get_offsets()) == 10

    def test_whole_numbers_beside_missing_ones_are_written_as_whole_numbers(self):
        display = EmbeddingMapDisplay.from_embeddings(self.VECTORS, [0, 1, None] * 10)
        assert [text.get_text() for text in display.ax_.get_legend().get_texts()] == ["unknown", "0", "1"]

    @pytest.mark.parametrize("shape", [(1, 4), (30, 1), (30,), (0, 4)])
    def test_too_few_vectors_are_an_error(self, shape):
        with pytest.raises(ValueError, match="at least 2 users and 2 dimensions"):
            EmbeddingMapDisplay.from_embeddings(np.zeros(shape))

    def test_vectors_that_are_not_numbers_are_an_error(self):
        with pytest.raises(ValueError, match="embeddings contains NaN"):
            EmbeddingMapDisplay.from_embeddings(np.where(self.VECTORS > 2, np.nan, self.VECTORS))

    def test_equal_vectors_are_an_error(self):
        with pytest.raises(ValueError, match="All 30 embeddings are the same"):
            EmbeddingMapDisplay.from_embeddings(np.ones((30, 4)))

    def test_a_target_of_other_users_is_an_error(self):
        with pytest.raises(ValueError, match="29 entries, but there are 30 users"):
            EmbeddingMapDisplay.from_embeddings(self.VECTORS, np.zeros(29))

    def test_an_unknown_method_is_an_error(self):
        with pytest.raises(ValueError, match="method='tsne' must be one of"):
            EmbeddingMapDisplay.from_embeddings(self.VECTORS, method="tsne")

    def test_umap_names_its_extra(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "umap", None)
        with pytest.raises(ImportError, match=r"pip install 'skllm4es\[umap\]'"):
            EmbeddingMapDisplay.from_embeddings(self.VECTORS, method="umap")

    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore:Tensorflow not installed:ImportWarning")
    def test_umap_keeps_clusters_apart(self):
        pytest.importorskip("umap", reason="needs umap-learn")
        vectors = np.vstack([self.VECTORS, self.VECTORS + 20])
        display = EmbeddingMapDisplay.from_embeddings(vectors, method="umap", random_state=0)
        centres = display.positions[:30].mean(axis=0), display.positions[30:].mean(axis=0)
        spread = display.positions[:30].std(axis=0).max()
        assert np.linalg.norm(centres[0] - centres[1]) > 3 * spread
        assert display.ax_.get_xlabel() == "UMAP 1"


class TestContributions:
    CONTRIBUTIONS = pd.DataFrame(
        {
            "user": [0, 0, 0, 0, 1],
            "event": ["a", "b", "c", "(average user)", "a"],
            "contribution": [0.1, -0.5, 0.2, 0.3, 9.0],
        }
    )

    def labels(self, display):
        return [label.get_text() for label in display.ax_.get_yticklabels()]

    def test_draws_the_largest_of_one_user_first_and_all_others_together(self):
        display = ContributionsDisplay.from_contributions(self.CONTRIBUTIONS, n_bars=2)
        assert self.labels(display) == ["(all others)", "(average user)", "b"]
        np.testing.assert_allclose([bar.get_width() for bar in display.bars_], [0.3, 0.3, -0.5])

    def test_bars_sum_to_the_score(self):
        display = ContributionsDisplay.from_contributions(self.CONTRIBUTIONS, n_bars=1)
        assert sum(bar.get_width() for bar in display.bars_) == pytest.approx(0.1)

    def test_events_of_the_same_name_have_a_bar_each(self):
        display = ContributionsDisplay(contributions=pd.Series([1.0, 2.0, 3.0], index=["a", "a", "b"])).plot(n_bars=2)
        assert self.labels(display) == ["(all others)", "a", "b"]
        np.testing.assert_allclose([bar.get_width() for bar in display.bars_], [1, 2, 3])

    def test_nothing_is_left_over_if_all_have_a_bar(self):
        display = ContributionsDisplay.from_contributions(self.CONTRIBUTIONS, user=1)
        assert self.labels(display) == ["a"]

    def test_signs_have_colours(self):
        bars = ContributionsDisplay.from_contributions(self.CONTRIBUTIONS).bars_
        colours = [matplotlib.colors.to_hex(bar.get_facecolor()) for bar in bars]
        red, blue, grey = map(matplotlib.colors.to_hex, ("tab:red", "tab:blue", "tab:gray"))
        assert colours == [red, red, grey, blue]

    def test_takes_settings_of_the_bars(self):
        bars = ContributionsDisplay.from_contributions(self.CONTRIBUTIONS, bar_kw={"color": "black"}).bars_
        assert {bar.get_facecolor() for bar in bars} == {(0.0, 0.0, 0.0, 1.0)}

    def test_rejects_a_user_without_contributions_and_no_bars(self):
        with pytest.raises(ValueError, match="user=2 is not among the 2 users"):
            ContributionsDisplay.from_contributions(self.CONTRIBUTIONS, user=2)
        with pytest.raises(ValueError, match="n_bars=0 must be at least 1"):
            ContributionsDisplay.from_contributions(self.CONTRIBUTIONS, n_bars=0)
