"""What the API answers, for the OpenAPI document and for ninja, which checks every answer against it."""

from typing import Any, Generic, TypeVar

from ninja import Schema
from pydantic import ConfigDict, Field, JsonValue

T = TypeVar("T")


class Problem(Schema):
    """An error, as RFC 9457 has it."""

    type: str
    title: str
    status: int
    detail: str
    code: str = Field(description="stable; docs/reference/errors.md lists them")
    retryable: bool = Field(description="whether the same request may succeed later")
    fix: str
    correlation_id: str
    errors: dict[str, list[str]] | None = Field(None, description="by the field's path")


class Failure(Schema):
    """Why a step, run or transaction failed."""

    model_config = ConfigDict(extra="allow")

    code: str = ""
    message: str = ""


class Page(Schema, Generic[T]):
    """A part of a list."""

    items: list[T]
    next_cursor: str | None = Field(description="the parameter `cursor` of the next page; null at the end")


class DefinitionStep(Schema):
    """A step of a workflow."""

    name: str
    effect: str


class Definition(Schema):
    """A workflow that can be started."""

    name: str
    version: int
    steps: list[DefinitionStep]
    input_schema: dict[str, Any]


class Step(Schema):
    """A step of a run, or the undo of one."""

    name: str
    operation_id: str
    state: str
    attempt: int
    output: JsonValue
    error: Failure | None
    transaction_id: str | None = Field(description="the first one, when the step sent several")
    transaction_ids: list[str]
    started_at: str | None
    finished_at: str | None


class Run(Schema):
    """One execution of a workflow."""

    id: str
    workflow: str
    version: int
    state: str
    waiting_for: str
    input: JsonValue
    output: JsonValue
    error: Failure | None
    correlation_id: str
    priority: int
    parent_id: str | None = Field(description="the run that waits for this one, or that it is a branch of")
    branch: str | None = Field(description="the parent's operation that it carries out")
    forked_from: str | None
    created_at: str
    deadline_at: str | None
    finished_at: str | None
    steps: list[Step]


class Event(Schema):
    """An entry of a run's history."""

    seq: int
    kind: str
    at: str
    data: JsonValue
    previous_hash: str
    hash: str


class History(Page[Event]):
    """A run's history, oldest first."""

    run_id: str


class Signal(Schema):
    """A message to a run."""

    id: str
    run_id: str
    name: str
    dedup_id: str | None
    sender: str
    created_at: str


class DeadLetter(Schema):
    """A run that needs, or needed, a person."""

    id: str
    run_id: str
    workflow: str
    operation_id: str
    reason: str
    error: Failure
    fingerprint: str = Field(description="the same for errors that differ only in numbers and names")
    state: str
    created_at: str
    resolved_at: str | None
    resolved_by: str
    resolution: str
    note: str


class LetterGroup(Schema):
    """Dead letters that are one trouble."""

    fingerprint: str
    count: int
    first_at: str
    last_at: str
    sample: DeadLetter = Field(description="the newest of them")


class BulkJob(Schema):
    """One decision about a frozen list of dead letters."""

    id: str
    action: str
    actor: str
    reason: str
    state: str
    per_second: int
    total: int
    counts: dict[str, int] = Field(description="how many of them are PENDING, DONE, FAILED, SKIPPED")
    created_at: str
    finished_at: str | None


class BulkItem(Schema):
    """What became of one dead letter of a job."""

    dead_letter_id: str
    state: str
    detail: str = Field(description="why it was refused, or who had resolved it before")
    done_at: str | None


class Vote(Schema):
    """One person's word on an approval."""

    actor: str
    approved: bool
    reason: str
    at: str


class Approval(Schema):
    """A question to people: may this run go on?"""

    id: str
    run_id: str
    workflow: str
    operation_id: str
    group: str
    needed: int
    show: JsonValue
    state: str
    votes: list[Vote]
    due_at: str | None
    created_at: str
    decided_at: str | None


class Completed(Schema):
    """That a completion token was taken."""

    accepted: bool


class Attempt(Schema):
    """One signed form of a transaction."""

    seq: int
    purpose: str
    state: str
    hash: str
    nonce: int
    max_fee_per_gas_wei: str
    max_priority_fee_per_gas_wei: str
    max_fee_per_blob_gas_wei: str
    gas_limit: int
    send_count: int
    first_sent_at: str | None
    last_sent_at: str | None
    last_error: str
    last_error_message: str


class Log(Schema):
    """One event of a contract."""

    address: str
    topics: list[str]
    data: str


class Receipt(Schema):
    """The proof that a transaction was executed."""

    transaction_id: str
    transaction_hash: str
    chain_id: int
    block_number: int
    block_hash: str
    gas_used: int
    contract_address: str | None
    logs: list[Log]
    status: int = Field(description="1: it was carried out; 0: it reverted")


class AccessListItem(Schema):
    """A contract and its storage slots, as in EIP-2930."""

    address: str
    storageKeys: list[str]  # noqa: N815


class Authorization(Schema):
    """An account that is handed to a contract (EIP-7702)."""

    authority: str
    delegate: str
    nonce: int | None = Field(description="of the authority, once it is signed")


class Transaction(Schema):
    """One intent, executed at most once."""

    id: str
    state: str
    sub_state: str
    why: str = Field(description="what it waits for, or how it ended, as a sentence for people")
    chain_id: int
    sender: str = Field(alias="from")
    to: str | None
    value: str
    data: str
    nonce: int | None = Field(description="null: not given yet; by a custody, not until it has sent it")
    hash: str | None
    envelope: str = Field(description="legacy, access_list, dynamic_fee, blob or set_code")
    access_list: list[AccessListItem] | None
    blob_count: int
    authorizations: list[Authorization]
    priority: int
    speed: str
    valid_until: str | None
    label: str
    correlation_id: str
    attempts: list[Attempt]
    receipt: Receipt | None
    error: Failure | None
    created_at: str
    settled_at: str | None


class Lane(Schema):
    """The nonces of one address on one chain."""

    id: str
    chain_id: int
    address: str
    state: str
    state_reason: str
    in_custody: bool = Field(description="the custody of its key gives the nonces, offers the fees and sends")
    next_nonce: int | None = Field(description="null: not known yet, or given by the custody")
    in_flight: int
    in_flight_cap: int
    waiting: int
    oldest_waits_since: str | None
    created_at: str


class Difference(Schema):
    """A lane beside its chain."""

    next_nonce: int | None
    proposed_next_nonce: int
    chain_latest: int
    chain_pending: int
    chain_final: int
    highest_given: int | None
    in_flight: int
    foreign: list[str]
    notes: list[str]
    in_step: bool


class Resync(Schema):
    """What differs between a lane and its chain, or differed before it was mended."""

    confirmed: bool
    difference: Difference
    lane: Lane


class Key(Schema):
    """A key that signs; what it signs with is never shown."""

    id: str
    alias: str
    address: str
    public_key: str
    backend: str
    uri: str = Field(
        description="where it is: the backend and what that calls the key, as `fireblocks:7/ETH`"
    )
    origin: str
    state: str
    state_reason: str
    not_before: str | None
    not_after: str | None
    replaces: str | None = Field(description="the id of the key that it takes over from, or has")
    created_at: str


class Rotation(Schema):
    """The run that hands a key over; or the question that people must answer first, in the console."""

    run: Run | None
    question_id: str | None


class Webhook(Schema):
    """A receiver of events."""

    id: str
    host: str = Field(description="of its URL, which is not shown: it may hold a key")
    events: list[str]
    description: str
    enabled: bool
    disabled_because: str
    pending: int
    pending_since: str | None = Field(description="the oldest event that it has not taken")
    dead: int = Field(description="given up; they may be replayed")
    paused_until: str | None = Field(description="it was not there, and is left alone until then")
    delivered_at: str | None = Field(description="when it last took an event")
    last_error: str
    last_error_at: str | None
    created_at: str


class WebhookWithSecret(Webhook):
    """A receiver and what its deliveries are signed with."""

    secret: str | None = Field(description="shown once: null when the request is repeated")


class Delivery(Schema):
    """An event for one receiver."""

    id: str = Field(description="the header webhook-id, the same at every attempt")
    webhook_id: str
    transaction_id: str | None = Field(description="null: an event for a trial")
    type: str
    state: str
    attempts: int
    next_at: str | None = Field(
        description="when it is sent, at the earliest; null when it is not sent again"
    )
    last_status: int | None
    last_error: str
    created_at: str
    settled_at: str | None


READ_ERRORS: dict[Any, Any] = {frozenset({401, 403, 404, 422}): Problem}
WRITE_ERRORS: dict[Any, Any] = {frozenset({400, 401, 403, 404, 409, 413, 422}): Problem}


def idempotency_key(*, required: bool) -> dict[str, Any]:
    """Return how the OpenAPI document describes the header Idempotency-Key."""
    description = "The same at every repetition of this request; a repetition gets the first answer again."
    header = {"name": "Idempotency-Key", "in": "header", "required": required, "description": description}
    return {"parameters": [{**header, "schema": {"type": "string", "minLength": 1, "maxLength": 255}}]}
