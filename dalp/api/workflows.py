"""Workflows over REST: which there are, and starting them."""

from typing import Any

from django.http import HttpRequest, HttpResponse
from ninja import Router, Schema
from pydantic import ConfigDict

from dalp.api import schemas
from dalp.api.auth import OPERATOR, VIEWER, caller, scope
from dalp.api.idempotency import once
from dalp.api.presenting import present_run
from dalp.api.problems import not_found
from dalp.api.schemas import READ_ERRORS as READ
from dalp.api.schemas import WRITE_ERRORS as WRITE
from dalp.api.schemas import Page as Listing
from dalp.api.schemas import idempotency_key
from workflows import definitions, find_definition, start_workflow

router = Router(tags=["workflows"], auth=VIEWER)


class StartRun(Schema):
    """What to start: the input of the workflow, by its input schema."""

    model_config = ConfigDict(extra="forbid")

    input: dict[str, Any]


@router.get(
    "/workflows",
    response={200: Listing[schemas.Definition], **READ},
    summary="The workflows that can be started",
)
def list_workflows(request: HttpRequest) -> dict[str, Any]:
    """List every definition with its steps and the JSON schema of its input."""
    items = [
        {
            "name": definition.name,
            "version": definition.version,
            "steps": [{"name": step.name, "effect": step.effect} for step in definition.steps],
            "input_schema": definition.input_model.model_json_schema(),
        }
        for definition in sorted(definitions(), key=lambda definition: (definition.name, definition.version))
    ]
    return {"items": items, "next_cursor": None}


@router.post(
    "/workflows/{name}/runs",
    auth=OPERATOR,
    response={202: schemas.Run, **WRITE},
    openapi_extra=idempotency_key(required=True),
    summary="Start a run",
)
def start_run(request: HttpRequest, name: str, payload: StartRun) -> HttpResponse:
    """Start a run of the workflow; needs an Idempotency-Key."""
    if find_definition(name) is None:
        raise not_found("workflow")

    def start(key: str) -> dict[str, Any]:
        run, _ = start_workflow(
            name,
            payload.input,
            idempotency_key=key,
            scope=scope(caller(request)),
            correlation_id=request.correlation_id,  # type: ignore[attr-defined]
        )
        return present_run(run)

    return once(request, payload.model_dump(mode="json"), start)
