"""Answer with the score of a user's events.

PIPELINE=pipeline.joblib uvicorn --factory serve_with_fastapi:make_app
"""

import os
import warnings
from datetime import date, datetime
from typing import Annotated, Any

import joblib
import pandas as pd
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    StrictBool,
    StrictInt,
    create_model,
)

MAX_EVENTS = 10_000


def characters(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(
            "holds half of a surrogate pair, which is no character"
        ) from None
    return text


#: What JSON holds for each kind of values that `fit` saw; times are in ISO 8601.
TYPES: dict[str, Any] = {
    "numbers": Annotated[StrictInt, Field(ge=-(2**63), lt=2**63)]
    | Annotated[FiniteFloat, Field(strict=True)],
    "texts": Annotated[str, AfterValidator(characters)],
    "booleans": StrictBool,
    "dates": date,
    "times": datetime,
}


def event_model(kinds: dict[str, str], time: str | None) -> type[BaseModel]:
    """Return what an event must be: every field that `fit` saw, of the same kind.

    Only the time may not be null.
    """
    fields: dict[str, Any] = {}
    for name, kind in kinds.items():
        type_ = TYPES.get("times" if kind.startswith("times of ") else kind)
        if type_ is None:
            raise TypeError(
                f"The field {name!r} holds {kind}, which this service does not read "
                "from JSON."
            )
        if kind == "times":
            type_ = Annotated[datetime, AfterValidator(without_zone)]
        elif kind.startswith("times of "):
            type_ = Annotated[datetime, AfterValidator(with_zone)]
        fields[name] = (type_ if name == time else type_ | None, ...)
    return create_model("Event", __config__=ConfigDict(extra="forbid"), **fields)


def without_zone(time: datetime) -> datetime:
    if time.tzinfo is not None:
        raise ValueError("must have no time zone, as in training")
    return time


def with_zone(time: datetime) -> datetime:
    if time.tzinfo is None:
        raise ValueError("must have a time zone, as in training")
    return time


def make_app(pipeline: Any = None, memory: str | None = None) -> FastAPI:
    """Return the service for a fitted pipeline, by default the environment's."""
    pipeline = joblib.load(os.environ["PIPELINE"]) if pipeline is None else pipeline
    serializer = pipeline[0]
    embedder = next(step for step in pipeline if hasattr(step, "load_model"))
    embedder.set_params(memory=memory or os.environ.get("MEMORY"), device="cpu")
    embedder.load_model()  # Not with the first answer.
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
        if serializer.time_ is not None:
            events.sort(key=lambda event: event[serializer.time_])
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            probability = pipeline.predict_proba(pd.DataFrame({"events": [events]}))[
                0, 1
            ]
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
