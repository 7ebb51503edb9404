"""scikit-learn's callbacks, new in version 1.9, called at every step of fine-tuning."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from skllm4es._compat import callback_context

if TYPE_CHECKING:
    from transformers import TrainerCallback


@contextmanager
def trainer_callbacks(estimator: Any) -> Iterator[list[TrainerCallback]]:
    """Yield callbacks for the Trainer that call those of an estimator in `fit`, in training and at each step."""
    fit = callback_context(estimator)
    if fit is None:
        yield []
        return
    from transformers import TrainerCallback

    class PassOn(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.training = fit.subcontext(task_name="fine-tuning", max_subtasks=state.max_steps)
            self.training.call_on_fit_task_begin(estimator=estimator)

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.step = self.training.subcontext(task_name="step")
            self.step.call_on_fit_task_begin(estimator=estimator)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.step.call_on_fit_task_end(estimator=estimator)

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.training.call_on_fit_task_end(estimator=estimator)

    fit.call_on_fit_task_begin(estimator=estimator)
    yield [PassOn()]
    fit.call_on_fit_task_end(estimator=estimator)
