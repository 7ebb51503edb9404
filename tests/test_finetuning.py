"""`LLMEmbedder.fit`: what is trained, on which texts and batches, and how training is reported."""

import json
import math
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from tiny_models import NOISE, TEXTS, TINY, TINY_CONFIG, save_model
from transformers import LlamaConfig, LlamaForCausalLM

from skllm4es import FineTuning, FromScratch, LLMEmbedder, LoRA
from skllm4es.lm import finetuning
from skllm4es.lm.finetuning import finetune
from skllm4es.lm.packing import collate, make_packs, pack, packed_attention
from skllm4es.lm.processes import Processes
from skllm4es.lm.schedule import Schedule
from skllm4es.lm.windows import Window

ONE_PROCESS = Processes(0, 1)


def embedder(**params):
    return LLMEmbedder(TINY, **{"random_state": 0, "dtype": "float32", **params})


def weights_of(fitted):
    return {name: weights.detach().clone() for name, weights in fitted.load_model()[0].named_parameters()}


def assert_equal_weights(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def windows_of(lengths, seed=0):
    generator = np.random.default_rng(seed)
    return [Window(generator.integers(3, 300, size=length).tolist(), 0) for length in lengths]


def loss_sum(model, window):
    """The loss of one text by transformers itself, summed over its tokens."""
    ids = torch.tensor([window.ids])
    return model(input_ids=ids, labels=ids).loss.item() * (len(window.ids) - 1)


def llama():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**TINY_CONFIG, max_position_embeddings=512)).eval()


class TestPacking:
    """Texts share a window without seeing each other."""

    def test_windows_are_nearly_full_on_lognormal_lengths(self):
        lengths = np.random.default_rng(0).lognormal(5, 0.8, size=2000).astype(int).clip(2, 2048)
        packs = pack(lengths, 2048)
        assert sorted(i for positions in packs for i in positions) == list(range(2000))
        assert max(sum(lengths[i] for i in positions) for positions in packs) <= 2048
        assert lengths.sum() / (len(packs) * 2048) > 0.95

    def test_the_loss_of_a_pack_is_that_of_its_texts_one_at_a_time(self):
        texts = windows_of([7, 30, 2, 101])
        model = llama()
        with torch.inference_mode():
            losses = [loss_sum(model, window) for window in texts]
            with packed_attention(model):
                packed = model(**collate(texts)).loss.item()
        assert packed == pytest.approx(sum(losses) / sum(len(window.ids) - 1 for window in texts), abs=1e-5)

    def test_training_on_packs_equals_training_on_texts(self):
        """One step on one pack changes the weights as much as one accumulated step on the same texts."""
        texts = windows_of([20, 31, 12, 40])
        packed, separate = llama(), llama()
        schedule = {"epochs": 1, "learning_rate": 1e-2, "weight_decay": 0.0, "arguments": {"bf16": False}}
        _, packed_log = finetune(
            packed, texts, Schedule(batch_tokens=103, **schedule), max_length=103, seed=0, group=ONE_PROCESS
        )
        separate.config.sliding_window = 512  # This prevents packing.
        _, separate_log = finetune(
            separate, texts, Schedule(batch_tokens=103, **schedule), max_length=103, seed=0, group=ONE_PROCESS
        )
        assert packed_log.losses == pytest.approx(separate_log.losses, abs=1e-5)
        for left, right in zip(packed.parameters(), separate.parameters(), strict=True):
            torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)

    def test_texts_with_nothing_to_predict_are_left_out(self):
        assert make_packs([Window([1], 0), Window([2, 3], 0)], 10) == [[Window([2, 3], 0)]]

    def test_what_an_earlier_window_had_is_no_label_again(self):
        batch = collate([Window([1, 2, 3, 4], 2), Window([1, 2, 5, 6], 2, n_repeated=2)])
        assert batch["labels"].tolist() == [[-100, 2, 3, 4, -100, -100, 5, 6]]

    def test_a_window_longer_than_may_share_is_a_pack_by_itself(self):
        packs = make_packs(windows_of([10, 3, 30, 4]), capacity=40, longest=20)
        assert sorted(sorted(len(window.ids) for window in pack) for pack in packs) == [[3, 4, 10], [30]]

    def test_a_batch_has_as_many_tokens_as_asked_for(self):
        """128 texts of 16 tokens take 4 steps in batches of 512 tokens, and 32 steps in batches of 64."""
        for batch_tokens, steps in ((512, 4), (64, 32)):
            schedule = Schedule(epochs=1, learning_rate=1e-3, weight_decay=0.0, batch_tokens=batch_tokens)
            _, log = finetune(llama(), windows_of([16] * 128), schedule, max_length=128, seed=0, group=ONE_PROCESS)
            assert len(log.losses) == steps
            assert log.n_tokens == 128 * 16


def test_a_batch_that_processes_cannot_share_is_announced():
    with pytest.warns(UserWarning, match=r"about 2,048 tokens, not the 512 that were asked for, because each of 8 "):
        finetuning._check_batch(8 * 256, 512, Processes(0, 8))


@pytest.mark.parametrize("finetune", ["full", "lora"])
def test_sharded_weights_are_gathered_after_training(tmp_path, monkeypatch, finetune):
    """The Trainer itself saves them, as with FSDP and DeepSpeed, which do not run on a CPU."""
    LLMEmbedder(TINY, random_state=0, dtype="float32").fit(TEXTS).save_pretrained(tmp_path / "model")
    settings = {"features": "hidden", "random_state": 0, "dtype": "float32"}
    fit = LLMEmbedder(tmp_path / "model", finetune=finetune, **settings).fit
    monkeypatch.setattr(finetuning, "can_slice", lambda model: False)  # Sharded heads are not sliced.
    expected = fit(TEXTS).transform(TEXTS)
    monkeypatch.setattr(finetuning, "_is_sharded", lambda trainer: True)
    np.testing.assert_allclose(fit(TEXTS).transform(TEXTS), expected, rtol=1e-5, atol=1e-6)


class TestSchedule:
    """The learning rate over the steps."""

    def schedule(self, warmup):
        return Schedule(epochs=1, learning_rate=1, weight_decay=0, batch_tokens=1, warmup=warmup)

    @pytest.mark.parametrize(
        ("warmup", "steps", "expected"), [(None, 100, 10), (None, 10**6, 608), (0.25, 100, 25), (7, 100, 7), (0, 9, 0)]
    )
    def test_warmup_is_a_share_or_a_number_of_steps_or_the_default(self, warmup, steps, expected):
        assert self.schedule(warmup).warmup_steps(steps) == expected

    @pytest.mark.parametrize(("n_tokens", "n_epochs"), [(100, 10), (40_000, 2.5), (300_000, 1), (10**6, 0.5)])
    def test_a_small_corpus_is_repeated_and_a_large_one_is_cut_short(self, n_tokens, n_epochs):
        schedule = Schedule(epochs=None, learning_rate=1, weight_decay=0, batch_tokens=1)
        assert schedule.n_epochs(n_tokens) == n_epochs

    @pytest.mark.parametrize(
        "changed",
        [
            {"epochs": 3},
            {"learning_rate": 1e-2},
            {"warmup": 3},
            {"weight_decay": 0.5},
            {"batch_tokens": 200},
            {"training_args": {"adam_beta2": 0.5}},
            {"training_args": {"lr_scheduler_type": "linear"}},
        ],
    )
    def test_each_setting_changes_the_weights(self, changed):
        def fit(**params):
            return weights_of(embedder(finetune=FineTuning(**{"epochs": 4, "batch_tokens": 100, **params})).fit(TEXTS))

        plain, other = fit(), fit(**changed)
        assert not all(torch.equal(plain[name], other[name]) for name in plain)


class TestTrainerSettings:
    """`training_args`."""

    def test_gradient_checkpointing_gives_the_same_weights(self):
        plain = embedder(finetune=FineTuning(epochs=2, training_args={"bf16": False})).fit(TEXTS)
        saving = embedder(
            finetune=FineTuning(epochs=2, training_args={"bf16": False}, gradient_checkpointing=True)
        ).fit(TEXTS)
        for name, weights in weights_of(plain).items():
            torch.testing.assert_close(weights_of(saving)[name], weights, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(saving)).transform(TEXTS), saving.transform(TEXTS))

    def test_evaluations_that_save_no_weights_raise(self):
        finetune = FineTuning(validation_fraction=0.5, training_args={"eval_steps": 6, "save_steps": 18})
        with pytest.raises(
            ValueError, match="sets eval_steps=6 and save_steps=18, but the weights with the lowest loss"
        ):
            embedder(finetune=finetune).fit(TEXTS)

    @pytest.mark.parametrize("folder", [None, "elsewhere"])
    def test_losses_are_reported_to_tensorboard(self, tmp_path, monkeypatch, folder):
        pytest.importorskip("tensorboard", reason="needs tensorboard")
        monkeypatch.chdir(tmp_path)
        if folder:
            monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", folder)
        embedder(finetune=FineTuning(training_args={"report_to": "tensorboard"})).fit(TEXTS)
        assert list((tmp_path / (folder or "runs")).rglob("events.out.tfevents.*"))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"adam_beta3": 1}, r"\['adam_beta3'\], which are not settings of TrainingArguments. Did you mean"),
            ({"learning_rte": 1}, r"Did you mean \['learning_rate'\]"),
            ({"learning_rate": 1}, r"cannot take 'learning_rate' \(set learning_rate instead\)"),
            (
                {"seed": 1, "max_steps": 3},
                r"'seed' \(set random_state of LLMEmbedder instead\), 'max_steps' \(set epochs ",
            ),
            ({"remove_unused_columns": True}, "packing needs it as it is"),
            ({"full_determinism": True}, r"'full_determinism' \(set random_state of LLMEmbedder instead\)"),
            ({"save_only_model": True}, r"'save_only_model' \(set checkpoint_dir instead\)"),
            ({"eval_steps": 2}, r"sets 'eval_steps', which does nothing without validation_fraction. Set it, "),
            ({"save_steps": 2}, "'save_steps', which does nothing without checkpoint_dir or validation_fraction"),
        ],
    )
    def test_unknown_and_conflicting_settings_raise(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            embedder(finetune=FineTuning(training_args=arguments)).fit(TEXTS)


def test_a_model_whose_loss_is_not_of_the_next_token_is_refused(tmp_path):
    from transformers import BartConfig, BartForCausalLM

    save_model(embedder(finetune=FineTuning(epochs=1)).fit(TEXTS), tmp_path)
    size = {"d_model": 8, "decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 8}
    vocab_size = json.loads((tmp_path / "config.json").read_text())["vocab_size"]
    BartForCausalLM(BartConfig(vocab_size=vocab_size, **size)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="BartForCausalLM cannot be fine-tuned by next-token prediction"):
        LLMEmbedder(tmp_path, finetune=FineTuning(epochs=1), random_state=0).fit(TEXTS)


PUBLISHED = {"epochs": 2, "learning_rate": 1e-5, "weight_decay": 1e-6, "batch_tokens": 16_384, "warmup": None}


@pytest.mark.parametrize(
    ("finetuning", "from_scratch", "expected"),
    [
        (FineTuning(), False, PUBLISHED),
        (LoRA(), False, PUBLISHED | {"learning_rate": 1e-4}),
        (
            FineTuning(),
            True,
            PUBLISHED | {"epochs": None, "learning_rate": 5e-3, "weight_decay": 1e-2, "batch_tokens": 512},
        ),
    ],
)
def test_the_defaults_are_those_that_the_docs_name(finetuning, from_scratch, expected):
    schedule = finetuning._schedule(from_scratch=from_scratch)
    assert {name: getattr(schedule, name) for name in expected} == expected


def test_the_optimiser_is_that_of_the_docs(monkeypatch):
    used = []
    train = transformers.Trainer.train
    monkeypatch.setattr(transformers.Trainer, "train", lambda self, **kw: used.append(self.args) or train(self, **kw))
    embedder(finetune=FineTuning(epochs=1)).fit(TEXTS)
    (arguments,) = used
    assert (arguments.adam_beta1, arguments.adam_beta2, arguments.lr_scheduler_type) == (0.9, 0.95, "cosine")
    assert arguments.optim.startswith("adamw")
    assert arguments.report_to == []  # No logger hears of it, whichever is installed.


def test_training_uses_the_first_gpu_and_says_so_of_others():
    with pytest.raises(ValueError, match=r"device='cuda:1': training uses the first .* CUDA_VISIBLE_DEVICES=1"):
        embedder(device="cuda:1").fit(TEXTS)


class TestHeldOutUsers:
    """`validation_fraction` and `patience`."""

    def test_held_out_users_are_evaluated_and_not_trained_on(self):
        fitted = embedder(finetune=FineTuning(validation_fraction=0.25, epochs=4)).fit(TEXTS)
        everything = embedder(finetune=FineTuning(epochs=4)).fit(TEXTS)
        assert fitted.validation_loss_curve_
        assert everything.validation_loss_curve_ == []
        assert fitted.n_tokens_seen_ == pytest.approx(0.75 * everything.n_tokens_seen_, rel=0.05)

    def test_all_texts_of_a_user_are_held_out_together(self):
        """Of two users, one is held out: the tokenizer knows the words of only the other one."""
        frame = pd.DataFrame({"text": ["a", "b"], "variant_0": ["aaaa aaaa", "bbbb bbbb"], "variant_1": ["aaa", "bbb"]})
        tokenizer = embedder(finetune=FineTuning(validation_fraction=0.5)).fit(frame).load_model()[1]
        assert ("aa" in tokenizer.get_vocab()) != ("bb" in tokenizer.get_vocab())

    def test_training_stops_when_the_loss_rises_and_keeps_the_best_weights(self):
        fitted = embedder(finetune=FineTuning(validation_fraction=0.5, epochs=200, learning_rate=0.05, patience=2)).fit(
            NOISE
        )
        curve = fitted.validation_loss_curve_
        assert int(np.argmin(curve)) == len(curve) - 3
        assert len(fitted.loss_curve_) < 50

    def test_the_weights_are_those_of_the_evaluation_with_the_lowest_loss(self):
        texts, held_out = windows_of([40] * 8), windows_of([40] * 4, seed=1)
        schedule = Schedule(
            epochs=100, learning_rate=0.02, weight_decay=0, batch_tokens=80, patience=2, arguments={"bf16": False}
        )
        model, log = finetune(llama(), texts, schedule, max_length=40, seed=0, group=ONE_PROCESS, held_out=held_out)
        assert int(np.argmin(log.validation_losses)) < len(log.validation_losses) - 1
        with torch.inference_mode():
            loss = sum(loss_sum(model, window) for window in held_out) / (4 * 39)
        assert loss == pytest.approx(min(log.validation_losses), abs=1e-4)

    def test_a_validation_fraction_that_leaves_no_users_raises(self):
        with pytest.raises(ValueError, match=r"A validation fraction of 0.5 holds out 1 of 1 users"):
            embedder(finetune=FineTuning(validation_fraction=0.5)).fit(TEXTS[:1])

    def test_the_validation_loss_is_the_mean_over_tokens(self):
        """A long text and a short one are two packs: the mean is over tokens, not over packs."""
        long, short = windows_of([120, 3])
        schedule = Schedule(epochs=1, learning_rate=1e-9, weight_decay=0, batch_tokens=120, arguments={"bf16": False})
        model = llama()
        _, log = finetune(model, [long], schedule, max_length=120, seed=0, group=ONE_PROCESS, held_out=[long, short])
        with torch.inference_mode():
            sums = [loss_sum(model, window) for window in (long, short)]
        assert log.validation_losses[-1] == pytest.approx(sum(sums) / 121, abs=1e-5)


class TestExtraTexts:
    """Texts of other data sets and of unlabelled users."""

    def test_extra_texts_are_trained_on_like_those_of_X(self):
        separate, together = embedder(extra_texts=TEXTS[6:]).fit(TEXTS[:6]), embedder().fit(TEXTS)
        assert_equal_weights(weights_of(separate), weights_of(together))

    def test_extra_texts_can_be_enriched(self):
        extra = pd.DataFrame({"text": TEXTS[6:], "variant_0": TEXTS[6:], "variant_1": TEXTS[6:]})
        enriched = embedder(extra_texts=extra).fit(TEXTS[:6])
        assert enriched.n_tokens_seen_ > 1.8 * embedder().fit(TEXTS[:6]).n_tokens_seen_

    def test_bad_extra_texts_raise(self):
        with pytest.raises(TypeError, match="row 1 of column 'text' is int"):
            embedder(extra_texts=["a", 1]).fit(TEXTS)

    def test_one_embedder_serves_two_data_sets(self):
        """Like the paper's best model: fitted on the texts of both and frozen in two pipelines."""
        from sklearn.frozen import FrozenEstimator
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline

        cards = [f"mcc|amount\n{5411 + i % 3}, {i}.00" for i in range(10)]
        shared = embedder().fit([*TEXTS, *cards])
        for texts in (TEXTS, cards):
            y = np.arange(len(texts)) % 2
            pipe = make_pipeline(FrozenEstimator(shared), LogisticRegression()).fit(texts, y)
            assert pipe.predict(texts).shape == y.shape


class TestReporting:
    """What a user sees of training."""

    def test_the_loss_curve_includes_the_last_step(self):
        """Of 103 steps, the loss of every second one and of the last one is logged."""
        schedule = Schedule(epochs=103, learning_rate=1e-3, weight_decay=0, batch_tokens=20)
        _, log = finetune(llama(), windows_of([20]), schedule, max_length=20, seed=0, group=ONE_PROCESS)
        assert len(log.losses) == 52
        assert log.losses[0] == pytest.approx(math.log(300), rel=0.1)

    def test_tokens_and_time_are_counted(self):
        one, three = (
            embedder(finetune=FineTuning(epochs=1)).fit(TEXTS),
            embedder(finetune=FineTuning(epochs=3)).fit(TEXTS),
        )
        assert three.n_tokens_seen_ == 3 * one.n_tokens_seen_ > 12 * 10
        assert three.training_time_ > 0

    def test_verbose_shows_packing_loss_and_speed(self, capfd):
        embedder(verbose=1, finetune=FineTuning(epochs=3)).fit(TEXTS)
        shown = capfd.readouterr()
        assert "fine-tuning on 12 texts" in shown.out + shown.err
        assert "% full" in shown.out + shown.err
        assert "tokens/s" in shown.err
        assert "loss" in shown.err

    def test_fit_is_silent_by_default(self, capfd):
        embedder(finetune=FineTuning(validation_fraction=0.5, epochs=3)).fit(TEXTS)
        assert capfd.readouterr() == ("", "")

    def test_scikit_learn_callbacks_are_called_at_every_step(self):
        pytest.importorskip("sklearn.callback", reason="needs scikit-learn 1.9")
        calls = []

        class Recorder:
            def setup(self, estimator, context):
                calls.append("setup")

            def teardown(self, estimator, context):
                calls.append("teardown")

            def on_fit_task_begin(self, estimator, context):
                calls.append(context.task_name)

            def on_fit_task_end(self, estimator, context):
                calls.append(f"end of {context.task_name}")

        embedder(finetune=FineTuning(epochs=2)).set_callbacks(Recorder()).fit(TEXTS)
        step = ["step", "end of step"]
        assert calls == [
            "setup", "fit", "fine-tuning", *step, *step, "end of fine-tuning", "end of fit", "teardown",
        ]  # fmt: skip


class TestSize:
    """`n_params`."""

    @pytest.mark.parametrize("n_params", [150_000, 1_500_000])
    def test_a_model_from_scratch_has_about_n_params_weights(self, n_params):
        model, _ = LLMEmbedder(FromScratch(n_params=n_params), random_state=0).fit(TEXTS).load_model()
        assert 0.5 * n_params < model.num_parameters() < 1.7 * n_params

    @pytest.mark.parametrize("config", [{"num_hidden_layers": 2}, {"intermediate_size": 16}])
    def test_n_params_counts_with_what_config_sets(self, config):
        model, _ = LLMEmbedder(FromScratch(1_000_000, config=config), random_state=0).fit(TEXTS).load_model()
        assert 0.8 * 1_000_000 < model.num_parameters() < 1.2 * 1_000_000

    @pytest.mark.parametrize(("width", "n_heads"), [(70, 1), (96, 3), (100, 2)])
    def test_heads_divide_the_width_into_even_parts(self, width, n_heads):
        model, _ = LLMEmbedder(FromScratch(config={"hidden_size": width}), random_state=0).fit(TEXTS).load_model()
        assert model.config.num_attention_heads == n_heads

    def test_more_text_gives_a_larger_model(self):
        texts = [f"mcc|amount\n{i}, {i * i}\n{i * 7}, {i * 31}" * 40 for i in range(600)]
        few, many = (
            LLMEmbedder(features="hidden", finetune=FineTuning(epochs=1e-9))
            .fit(subset)
            .load_model()[0]
            .num_parameters()
            for subset in (texts[:9], texts)
        )
        assert many > 2 * few

    def test_n_params_of_a_pretrained_model_raises(self, tmp_path):
        with pytest.raises(ValueError, match=r"model__n_params cannot be set, because model=.* is not an object"):
            LLMEmbedder(str(tmp_path / "model")).set_params(model__n_params=1000)

    def test_config_overrides_the_size(self):
        fitted = LLMEmbedder(FromScratch(config={"hidden_size": 64}), features="hidden", random_state=0).fit(TEXTS)
        assert fitted.n_features_out_ == 64


@pytest.mark.parametrize("texts", [["a"], [""], ["a|b\n1, 2"]])
def test_one_short_text_is_enough(texts):
    assert np.isfinite(embedder().fit_transform(texts)).all()


@pytest.mark.parametrize("seed", [0, np.random.RandomState(0)])
def test_the_same_seed_gives_the_same_weights_bit_by_bit(seed):
    def fit():
        return embedder(
            random_state=np.random.RandomState(0) if seed else 0, finetune=FineTuning(epochs=3, validation_fraction=0.2)
        ).fit(TEXTS)

    assert_equal_weights(weights_of(fit()), weights_of(fit()))


def test_a_training_that_diverges_in_its_last_step_stores_no_model(tmp_path):
    with pytest.raises(ValueError, match="Lower the learning rate"):
        embedder(memory=tmp_path, finetune=FineTuning(learning_rate=1e38, epochs=0.01)).fit(TEXTS)
    assert list(tmp_path.glob("models/*/model.safetensors")) == []


def test_a_diverging_training_stops_at_once():
    with pytest.raises(ValueError, match=r"The loss became (nan|inf) in step \d+ of 20 .*Lower the learning rate"):
        embedder(finetune=FineTuning(learning_rate=1e30, epochs=20)).fit(TEXTS)
