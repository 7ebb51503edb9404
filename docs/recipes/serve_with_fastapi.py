"""Answer with the score of a user's events.

PIPELINE=pipeline.joblib uvicorn --factory serve_with_fastapi:make_app
"""

import os
import re
import warnings
from collections.abc import Iterator
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import joblib
import pandas as pd
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    StrictBool,
    StrictInt,
    create_model,
)

from skllm4es import EventSerializer, LLMEmbedder

MAX_EVENTS = 10_000


def characters(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(
            "holds half of a surrogate pair, which is no character"
        ) from None
    return text


def iso_8601(value: Any) -> Any:
    # Otherwise numbers would count as seconds since 1970.
    if not isinstance(value, str) or not re.match(r"\d{4}-\d\d-\d\d", value):
        raise ValueError("must be in ISO 8601, such as 2024-05-01T10:00:00")
    return value


#: What JSON holds for each kind of values that `fit` saw; times are in ISO 8601.
TYPES: dict[str, Any] = {
    "numbers": Annotated[StrictInt, Field(ge=-(2**63), lt=2**63)]
    | Annotated[FiniteFloat, Field(strict=True, ge=-1e30, le=1e30)],
    "texts": Annotated[str, AfterValidator(characters)],
    "booleans": StrictBool,
    "dates": Annotated[date, BeforeValidator(iso_8601)],
    "times": Annotated[datetime, BeforeValidator(iso_8601)],
}


def event_model(kinds: dict[str, str], time: str | None) -> type[BaseModel]:
    """Return what an event must be: every field that `fit` saw, of the same kind.

    Only the time may not be null.
    """
    fields: dict[str, Any] = {}
    for name, kind in kinds.items():
        zoned = kind.startswith("times of ") and kind != "times of day"
        type_ = TYPES.get("times" if zoned else kind)
        if type_ is None:
            raise TypeError(
                f"The field {name!r} holds {kind}, which this service does not read "
                "from JSON: fit without it, or with numbers or texts in its place."
            )
        if kind == "times":
            type_ = Annotated[type_, AfterValidator(without_zone)]
        elif zoned:
            zone = ZoneInfo(kind.removeprefix("times of "))
            type_ = Annotated[type_, AfterValidator(partial(in_zone, zone))]
        fields[name] = (type_ if name == time else type_ | None, ...)
    return create_model("Event", __config__=ConfigDict(extra="forbid"), **fields)


def without_zone(time: datetime) -> datetime:
    if time.tzinfo is not None:
        raise ValueError("must have no time zone, as in training")
    return time


def in_zone(zone: ZoneInfo, time: datetime) -> datetime:
    if time.tzinfo is None:
        raise ValueError("must have a time zone, as in training")
    return time.astimezone(zone)


def moment(time: Any) -> Any:
    # Times of one zone compare by its clock, which is set back in autumn.
    zoned = isinstance(time, datetime) and time.tzinfo is not None
    return time.astimezone(UTC) if zoned else time


def parts_of(estimator: Any) -> Iterator[Any]:
    """Yield the steps of pipelines in pipelines and unions, as event_pipeline has."""
    yield estimator
    for name in ("steps", "transformer_list"):
        for _, part in getattr(estimator, name, []):
            yield from parts_of(part)


def only(kind: type, parts: list[Any]) -> Any:
    found = [part for part in parts if isinstance(part, kind)]
    if len(found) != 1:
        raise TypeError(
            f"The service needs a pipeline with one {kind.__name__}, in steps of "
            f"pipelines and unions; it has {len(found)}."
        )
    return found[0]


def make_app(pipeline: Any = None, memory: str | None = None) -> FastAPI:
    """Return the service for a fitted pipeline, by default the environment's."""
    pipeline = joblib.load(os.environ["PIPELINE"]) if pipeline is None else pipeline
    parts = list(parts_of(pipeline))
    serializer, embedder = only(EventSerializer, parts), only(LLMEmbedder, parts)
    if not isinstance(serializer.events, str):
        raise TypeError(
            "The service passes the events of a user in one column: fit on events as "
            "nest_events returns them."
        )
    has_scores = hasattr(pipeline, "predict_proba")
    if not has_scores or len(getattr(pipeline, "classes_", ())) != 2:
        raise TypeError(
            "The score is a probability: the service needs predict_proba, of two "
            "classes."
        )
    if memory := memory or os.environ.get("MEMORY"):
        Path(memory).mkdir(parents=True, exist_ok=True)
        embedder.set_params(memory=memory)
    if serializer.unlabelled == "error":
        serializer.set_params(unlabelled="keep")
    embedder.load_model()  # Not with the first answer.
    one_at_a_time = Lock()  # Warnings of one answer must not reach another.
    Event = event_model(serializer.kinds_, serializer.time_)

    class User(BaseModel):
        model_config = ConfigDict(extra="forbid")
        events: list[Event] = Field(min_length=1, max_length=MAX_EVENTS)  # type: ignore[valid-type]

    class Answer(BaseModel):
        score: float
        n_events: int
        warnings: list[str]

    app = FastAPI(title="Scores of users")

    @app.post("/score")
    def score(user: User) -> Answer:
        events = [event.model_dump() for event in user.events]
        if serializer.time_ in serializer.kinds_:
            events.sort(key=lambda event: moment(event[serializer.time_]))
        X = pd.DataFrame({serializer.events: [events]})
        with one_at_a_time, warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            probability = pipeline.predict_proba(X)[0, 1]
        messages = [
            str(warning.message) for warning in seen if warning.category is UserWarning
        ]
        return Answer(score=probability, n_events=len(events), warnings=messages)

    @app.exception_handler(RequestValidationError)
    def refuse(request: Request, error: RequestValidationError) -> JSONResponse:
        # Without the input, which an answer need not repeat and JSON may not hold.
        problems = [
            {"loc": problem["loc"], "msg": problem["msg"]} for problem in error.errors()
        ]
        return JSONResponse({"detail": problems}, status_code=422)

    return app
