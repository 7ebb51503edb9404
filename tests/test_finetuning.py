"""`LLMEmbedder.fit`: what is trained, on what, in which batches, and how that is told."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from skllm4es import FineTuning, FromScratch, LLMEmbedder
from skllm4es.lm import finetuning
from skllm4es.lm.finetuning import finetune
from skllm4es.lm.packing import collate, make_packs, pack, packed_attention
from skllm4es.lm.processes import Processes
from skllm4es.lm.schedule import Schedule

TINY_CONFIG = {
    "vocab_size": 300,
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
}
TINY = FromScratch(config=TINY_CONFIG)
TEXTS = [f"day|title|rating\n{day}, Heat, 5\n{day + 1}, Alien, {day % 5}" for day in range(12)]


def embedder(**params):
    return LLMEmbedder(TINY, **{"random_state": 0, "dtype": "float32", **params})


def weights_of(fitted):
    return {name: weights.detach().clone() for name, weights in fitted.load_model()[0].named_parameters()}


def assert_equal_weights(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def sequences(lengths, seed=0):
    generator = np.random.default_rng(seed)
    return [generator.integers(3, 300, size=length).tolist() for length in lengths]


def llama():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**TINY_CONFIG, max_position_embeddings=512)).eval()


class TestPacking:
    """Texts share a window, and know nothing of one another."""

    def test_windows_are_nearly_full_on_lognormal_lengths(self):
        lengths = np.random.default_rng(0).lognormal(5, 0.8, size=2000).astype(int).clip(2, 2048)
        packs = pack(lengths, 2048)
        assert sorted(i for positions in packs for i in positions) == list(range(2000))
        assert max(sum(lengths[i] for i in positions) for positions in packs) <= 2048
        assert lengths.sum() / (len(packs) * 2048) > 0.95

    def test_the_loss_of_a_pack_is_that_of_its_texts_one_by_one(self):
        texts = sequences([7, 30, 2, 101])
        model = llama()
        with torch.inference_mode():
            losses = [
                model(input_ids=torch.tensor([text]), labels=torch.tensor([text])).loss.item() * (len(text) - 1)
                for text in texts
            ]
            with packed_attention(model):
                packed = model(**collate(texts)).loss.item()
        assert packed == pytest.approx(sum(losses) / sum(len(text) - 1 for text in texts), abs=1e-5)

    def test_training_on_packs_is_training_on_texts(self):
        """One step on one pack moves the weights as one step on the same texts, accumulated."""
        texts = sequences([20, 31, 12, 40])
        packed, apart = llama(), llama()
        schedule = {"epochs": 1, "learning_rate": 1e-2, "weight_decay": 0.0, "arguments": {"bf16": False}}
        _, one = finetune(packed, texts, Schedule(batch_tokens=103, **schedule), max_length=103, seed=0, group=ONE)
        apart.config.sliding_window = 512  # Then it cannot be packed.
        _, four = finetune(apart, texts, Schedule(batch_tokens=103, **schedule), max_length=103, seed=0, group=ONE)
        assert one.losses == pytest.approx(four.losses, abs=1e-5)
        for ours, theirs in zip(packed.parameters(), apart.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)

    def test_texts_without_anything_to_predict_are_left_out(self):
        assert make_packs([[1], [2, 3]], 10) == [[[2, 3]]]

    def test_a_batch_has_the_tokens_asked_for(self):
        """128 texts of 16 tokens: in batches of 512 tokens they make 4 steps, in batches of 64 they make 32."""
        for batch_tokens, steps in ((512, 4), (64, 32)):
            schedule = Schedule(epochs=1, learning_rate=1e-3, weight_decay=0.0, batch_tokens=batch_tokens)
            _, log = finetune(llama(), sequences([16] * 128), schedule, max_length=128, seed=0, group=ONE)
            assert len(log.losses) == steps
            assert log.n_tokens == 128 * 16


ONE = Processes(0, 1)


@pytest.mark.parametrize("finetune", ["full", "lora"])
def test_weights_that_are_shared_out_among_processes_come_together_again(tmp_path, monkeypatch, finetune):
    """By way of the Trainer's own saving, as for FSDP and DeepSpeed, which do not run on a CPU."""
    LLMEmbedder(TINY, random_state=0, dtype="float32").fit(TEXTS).save_pretrained(tmp_path / "model")
    fit = LLMEmbedder(tmp_path / "model", random_state=0, dtype="float32", finetune=finetune).fit
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
    def test_warmup_is_a_share_or_a_number_or_that_of_the_authors(self, warmup, steps, expected):
        assert self.schedule(warmup).warmup_steps(steps) == expected

    @pytest.mark.parametrize(("n_tokens", "n_epochs"), [(100, 10), (40_000, 2.5), (300_000, 1), (10**6, 0.5)])
    def test_few_texts_are_seen_more_often_and_of_many_a_part(self, n_tokens, n_epochs):
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


class TestSettingsOfTheTrainer:
    """`training_args`."""

    def test_gradient_checkpointing_changes_nothing_but_memory(self):
        plain = embedder(finetune=FineTuning(epochs=2, training_args={"bf16": False})).fit(TEXTS)
        saving = embedder(
            finetune=FineTuning(epochs=2, training_args={"bf16": False}, gradient_checkpointing=True)
        ).fit(TEXTS)
        for name, weights in weights_of(plain).items():
            torch.testing.assert_close(weights_of(saving)[name], weights, rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize("chosen", [None, "elsewhere"])
    def test_losses_are_reported_to_what_the_trainer_knows(self, tmp_path, monkeypatch, chosen):
        pytest.importorskip("tensorboard", reason="needs tensorboard")
        monkeypatch.chdir(tmp_path)
        if chosen:
            monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", chosen)
        embedder(finetune=FineTuning(training_args={"report_to": "tensorboard"})).fit(TEXTS)
        assert list((tmp_path / (chosen or "runs")).rglob("events.out.tfevents.*"))

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
        ],
    )
    def test_unknown_and_contradictory_ones_are_refused(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            embedder(finetune=FineTuning(training_args=arguments)).fit(TEXTS)


class TestHeldOutUsers:
    """`validation_fraction` and `patience`."""

    def test_they_are_evaluated_and_not_trained_on(self):
        fitted = embedder(finetune=FineTuning(validation_fraction=0.25, epochs=4)).fit(TEXTS)
        everything = embedder(finetune=FineTuning(epochs=4)).fit(TEXTS)
        assert fitted.validation_loss_curve_
        assert everything.validation_loss_curve_ == []
        assert fitted.n_tokens_seen_ == pytest.approx(0.75 * everything.n_tokens_seen_, rel=0.05)

    def test_all_texts_of_a_user_are_held_out_together(self):
        """Two users, of whom one is held out: the words of either appear in no text that is trained on."""
        frame = pd.DataFrame({"text": ["a", "b"], "variant_0": ["aaaa aaaa", "bbbb bbbb"], "variant_1": ["aaa", "bbb"]})
        tokenizer = embedder(finetune=FineTuning(validation_fraction=0.5)).fit(frame).load_model()[1]
        assert ("aa" in tokenizer.get_vocab()) != ("bb" in tokenizer.get_vocab())

    def test_training_stops_where_the_loss_rises_and_takes_the_best_weights(self):
        noise = ["".join(chr(97 + (i * j * j) % 26) for j in range(1, 60)) for i in range(1, 13)]
        fitted = embedder(finetune=FineTuning(validation_fraction=0.5, epochs=200, learning_rate=0.05, patience=2)).fit(
            noise
        )
        curve = fitted.validation_loss_curve_
        assert int(np.argmin(curve)) == len(curve) - 3
        assert len(fitted.loss_curve_) < 50

    def test_a_share_that_leaves_nobody_is_refused(self):
        with pytest.raises(ValueError, match=r"validation_fraction=0.5 holds out 1 of 1 users"):
            embedder(finetune=FineTuning(validation_fraction=0.5)).fit(TEXTS[:1])

    def test_their_loss_is_the_mean_over_tokens(self):
        """One text fills a pack, and a short one is the other pack: each token counts, not each pack."""
        long, short = sequences([120, 3])
        schedule = Schedule(epochs=1, learning_rate=1e-9, weight_decay=0, batch_tokens=120, arguments={"bf16": False})
        model = llama()
        _, log = finetune(model, [long], schedule, max_length=120, seed=0, group=ONE, held_out=[long, short])
        with torch.inference_mode():
            sums = [
                model(input_ids=torch.tensor([text]), labels=torch.tensor([text])).loss.item() * (len(text) - 1)
                for text in (long, short)
            ]
        assert log.validation_losses[-1] == pytest.approx(sum(sums) / 121, abs=1e-5)


class TestFurtherTexts:
    """Several data sets, and users without a label."""

    def test_extra_texts_are_trained_on_as_if_they_were_in_X(self):
        apart, together = embedder(extra_texts=TEXTS[6:]).fit(TEXTS[:6]), embedder().fit(TEXTS)
        assert_equal_weights(weights_of(apart), weights_of(together))

    def test_extra_texts_may_be_enriched(self):
        extra = pd.DataFrame({"text": TEXTS[6:], "variant_0": TEXTS[6:], "variant_1": TEXTS[6:]})
        thrice = embedder(extra_texts=extra).fit(TEXTS[:6])
        assert thrice.n_tokens_seen_ > 1.8 * embedder().fit(TEXTS[:6]).n_tokens_seen_

    def test_bad_extra_texts_are_refused(self):
        with pytest.raises(TypeError, match="row 1 of column 'text' is int"):
            embedder(extra_texts=["a", 1]).fit(TEXTS)

    def test_one_embedder_serves_two_data_sets(self):
        """The paper's best row: fitted on the texts of both, used as it is in two pipelines."""
        from sklearn.frozen import FrozenEstimator
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline

        cards = [f"mcc|amount\n{5411 + i % 3}, {i}.00" for i in range(10)]
        shared = embedder().fit([*TEXTS, *cards])
        for texts in (TEXTS, cards):
            y = np.arange(len(texts)) % 2
            pipe = make_pipeline(FrozenEstimator(shared), LogisticRegression()).fit(texts, y)
            assert pipe.predict(texts).shape == y.shape


class TestObservation:
    """What a user sees of a training."""

    def test_loss_curve_reaches_the_last_step(self):
        """Of 103 steps, the losses of each two are noted, and that of the last one."""
        schedule = Schedule(epochs=103, learning_rate=1e-3, weight_decay=0, batch_tokens=20)
        _, log = finetune(llama(), sequences([20]), schedule, max_length=20, seed=0, group=ONE)
        assert len(log.losses) == 52
        assert log.losses[0] == pytest.approx(math.log(300), rel=0.1)

    def test_tokens_and_time_are_counted(self):
        one, three = (
            embedder(finetune=FineTuning(epochs=1)).fit(TEXTS),
            embedder(finetune=FineTuning(epochs=3)).fit(TEXTS),
        )
        assert three.n_tokens_seen_ == 3 * one.n_tokens_seen_ > 12 * 10
        assert three.training_time_ > 0

    def test_verbose_tells_packing_loss_and_speed(self, capfd):
        embedder(verbose=1, finetune=FineTuning(epochs=3)).fit(TEXTS)
        shown = capfd.readouterr()
        assert "fine-tuning on 12 texts" in shown.out + shown.err
        assert "% full" in shown.out + shown.err
        assert "tokens/s" in shown.err
        assert "loss" in shown.err

    def test_silent_by_default(self, capfd):
        embedder(finetune=FineTuning(validation_fraction=0.5, epochs=3)).fit(TEXTS)
        assert capfd.readouterr() == ("", "")

    def test_callbacks_of_scikit_learn_are_told_of_every_step(self):
        pytest.importorskip("sklearn.callback", reason="needs scikit-learn 1.9")
        told = []

        class Recorder:
            def setup(self, estimator, context):
                told.append("setup")

            def teardown(self, estimator, context):
                told.append("teardown")

            def on_fit_task_begin(self, estimator, context):
                told.append(context.task_name)

            def on_fit_task_end(self, estimator, context):
                told.append(f"end of {context.task_name}")

        embedder(finetune=FineTuning(epochs=2)).set_callbacks(Recorder()).fit(TEXTS)
        step = ["step", "end of step"]
        assert told == [
            "setup", "fit", "fine-tuning", *step, *step, "end of fine-tuning", "end of fit", "teardown",
        ]  # fmt: skip


class TestSize:
    """`n_params`."""

    @pytest.mark.parametrize("n_params", [150_000, 1_500_000])
    def test_the_model_from_scratch_has_about_as_many_weights_as_asked_for(self, n_params):
        model, _ = LLMEmbedder(FromScratch(n_params=n_params), random_state=0).fit(TEXTS).load_model()
        assert 0.5 * n_params < model.num_parameters() < 1.7 * n_params

    def test_more_text_gives_a_larger_model(self):
        texts = [f"mcc|amount\n{i}, {i * i}\n{i * 7}, {i * 31}" * 40 for i in range(600)]
        few, many = (
            LLMEmbedder(finetune=FineTuning(epochs=1e-9)).fit(part).load_model()[0].num_parameters()
            for part in (texts[:9], texts)
        )
        assert many > 2 * few

    def test_a_pretrained_model_has_the_size_that_it_has(self, tmp_path):
        with pytest.raises(ValueError, match=r"model__n_params cannot be set, because model=.* is not an object"):
            LLMEmbedder(str(tmp_path / "model")).set_params(model__n_params=1000)

    def test_settings_of_the_model_replace_its_size(self):
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


def test_a_training_that_diverges_in_its_last_step_gives_no_model(tmp_path):
    with pytest.raises(ValueError, match="Lower the learning rate"):
        embedder(memory=tmp_path, finetune=FineTuning(learning_rate=1e38, epochs=0.01)).fit(TEXTS)
    assert list(tmp_path.glob("models/*/model.safetensors")) == []


def test_a_diverging_training_ends_at_once():
    with pytest.raises(ValueError, match=r"The loss became (nan|inf) in step \d+ of 20 .*Lower the learning rate"):
        embedder(finetune=FineTuning(learning_rate=1e30, epochs=20)).fit(TEXTS)
