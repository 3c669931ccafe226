"""The nodes of one chain behind one door: which of them is asked, and what their answers amount to.

Reads go to the first endpoint that can be used, and on to the next when it gives no answer; nothing that sends is
sent to an endpoint twice. A call ends within the time that its methods may take, whatever the endpoints do; while all
of them are paused it ends at once. A gateway is made for a piece of work and used by one thread; what it meets is
shared through the endpoints' health and rows.
"""

import math
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from django.conf import settings

from signer import slowness
from signer.errors import ChainMismatchError, RpcError, RpcTransportError, RpcUnavailableError
from signer.rpc import pauses, quorum, surveying
from signer.rpc.breaker import Pause, wants_another
from signer.rpc.contacts import PROOF, Contact, Reply
from signer.rpc.door import LATEST, Call, Rpc, send_calls
from signer.rpc.gathering import Asked, Gathered, ask, gather
from signer.rpc.hedging import GivenUpError, Hedge, OvertakenError, Question, Race
from signer.rpc.merging import merge
from signer.rpc.methods import LIGHT, seconds_for, share
from signer.rpc_errors import ErrorClass, Rule, classify
from signer.states import PauseKind

# After the first success the others get so long; what they say later counts for their health alone.
GRACE_SECONDS = 0.25


class Gateway(Rpc):
    """The way to a chain's nodes."""

    def __init__(self, chain_id: int, block_seconds: float, contacts: Sequence[Contact]) -> None:
        self.chain_id = chain_id
        self._contacts = sorted(contacts, key=_preference)
        self._block_seconds = block_seconds
        self._pause_seconds = float(settings.SIGNER["pause_seconds"])
        self._hedge_seconds = float(settings.SIGNER["hedge_seconds"])

    @property
    def host(self) -> str:  # type: ignore[override]
        """The hosts, for messages."""
        return ", ".join(contact.host for contact in self._contacts)

    @property
    def has_several(self) -> bool:
        """Whether there is anybody to agree with."""
        return len(self._contacts) > 1

    # --- Reads --------------------------------------------------------------------------------------------

    def batch(self, calls: Sequence[Call], *, prove: bool = False) -> list[Any]:
        answers: list[Any] = []
        while len(answers) < len(calls):
            readers = self._readers()
            if not readers:
                return answers + [self._unavailable()] * (len(calls) - len(answers))
            room = max(1, readers[0].size - len(PROOF))
            part = calls[len(answers) : len(answers) + room]
            got = self._read(part, readers, prove)
            answers += got
            # Nobody answers: the rest need not wait for it too.
            if all(wants_another(answer) for answer in got):
                answers += [got[-1]] * (len(calls) - len(answers))
        return answers

    def _read(self, calls: Sequence[Call], readers: Sequence[Contact], prove: bool) -> list[Any]:
        """Ask one after the other until each call has an answer, within the time that the calls may take."""
        answers: list[Any] = [None] * len(calls)
        left = list(range(len(calls)))
        waiting = deque(readers)
        deadline = time.monotonic() + seconds_for(calls)
        while left and waiting and time.monotonic() < deadline and not self._has_given_up():
            question = Question([calls[place] for place in left], deadline, prove)
            for place, answer in zip(left, self._ask(waiting.popleft(), question, waiting), strict=True):
                answers[place] = answer
            left = [place for place in left if wants_another(answers[place])]
        return answers

    def _ask(self, contact: Contact, question: "Question", others: deque[Contact]) -> list[Any]:
        """Return the answers of this endpoint, or of one of the others when they are there first."""
        race = Race(
            contact.health.patience(question.share, self._hedge_seconds),
            question.seconds_left(),
            partial(self._hedge, question, others),
            self._may_wait,
            lambda: contact.health.is_paused(time.monotonic()),
        )
        began = time.monotonic()
        try:
            answers = self._noted(contact, question.put_to(contact, race))
        except OvertakenError as overtaken:
            self._note_silence(contact, time.monotonic() - began, question)
            return self._noted(overtaken.hedge.contact, overtaken.reply)
        except GivenUpError:
            answers = self._note_silence(contact, time.monotonic() - began, question)
        if race.hedge is None:
            return answers
        if not self._has_given_up() and all(wants_another(answer) for answer in answers):
            return self._noted(race.hedge.contact, race.hedge.future.result())
        self._leave(race.hedge.contact, race.hedge.future)
        return answers

    def _hedge(self, question: "Question", others: deque[Contact]) -> Hedge | None:
        while others:
            contact = others.popleft()
            future = contact.health.crew.submit(partial(question.put_to, contact))
            if future is not None:
                return Hedge(contact, future)
        return None

    # --- Sending ------------------------------------------------------------------------------------------

    def broadcast(self, raws: Sequence[bytes | str], rules: Sequence[Rule] = ()) -> list[Any]:
        calls, usable = send_calls(raws), self._usable()
        if calls and len(usable) == 1:
            return self._send_to(usable[0], calls, seconds_for(calls))
        return self.begin_broadcast(raws, rules)()

    def begin_broadcast(
        self, raws: Sequence[bytes | str], rules: Sequence[Rule] = ()
    ) -> Callable[[], list[Any]]:
        calls, usable = send_calls(raws), self._usable()
        if not calls or not usable:
            return lambda: [self._unavailable()] * len(calls)
        seconds = seconds_for(calls)
        asked = ask(usable, lambda contact: contact.send(calls, seconds), len(calls))
        return partial(self._sent, usable, asked, calls, rules)

    def _sent(
        self, contacts: Sequence[Contact], asked: Asked, calls: Sequence[Call], rules: Sequence[Rule]
    ) -> list[Any]:
        gathered = self._gather(
            contacts,
            asked,
            calls,
            enough=lambda replies: any(_has_taken(reply, rules) for reply in replies.values()),
            grace=GRACE_SECONDS,
        )
        silent = [RpcTransportError(f"{contact.host}: no answer yet") for contact in gathered.late]
        said = [reply.answers for reply in gathered.replies.values()]
        return [
            merge(params[0], [*silent, *(answers[place] for answers in said)], rules)
            for place, (_, params) in enumerate(calls)
        ]

    def _send_to(self, contact: Contact, calls: Sequence[Call], seconds: float) -> list[Any]:
        patience = contact.health.patience(share(calls), self._hedge_seconds)
        race = Race(patience, seconds, lambda: None, self._may_wait, lambda: False)
        began = time.monotonic()
        try:
            return self._noted(contact, contact.send(calls, seconds, waiting=race))
        except GivenUpError:
            return self._note_silence(contact, time.monotonic() - began, Question(calls, began + seconds))

    # --- Agreement ----------------------------------------------------------------------------------------

    def agreed(self, calls: Sequence[Call]) -> list[Any]:
        readers = self._readers()
        if len(readers) <= 1 or not calls:
            return self.batch(calls)
        needed = quorum.majority(len(readers))
        first, spare = readers[: quorum.asked(len(readers))], readers[quorum.asked(len(readers)) :]
        replies = self._votes(first, calls, needed)
        if spare and sum(_is_whole(reply) for reply in replies) < needed:
            replies += self._votes(spare, calls, needed)
        silent: list[Any] = [RpcTransportError(f"chain {self.chain_id}: too few nodes answer")]
        return [
            quorum.agree(call, [reply.answers[place] for reply in replies] or silent, needed)
            if len(replies) >= needed
            else silent[0]
            for place, call in enumerate(calls)
        ]

    def begin_opinions(self, calls: Sequence[Call]) -> Callable[[], list[list[Any]]]:
        others = self._readers()[1 : quorum.SMALL]
        if not others:
            return list
        seconds = seconds_for(calls)
        asked = ask(others, lambda contact: contact.ask(calls, seconds, prove=True), len(calls))
        return partial(self._opinions, others, asked, calls)

    def _opinions(self, contacts: Sequence[Contact], asked: Asked, calls: Sequence[Call]) -> list[list[Any]]:
        gathered = self._gather(
            contacts, asked, calls, enough=lambda replies: True, grace=GRACE_SECONDS, seconds=GRACE_SECONDS
        )
        return [reply.answers for reply in gathered.replies.values()]

    def _votes(self, contacts: Sequence[Contact], calls: Sequence[Call], needed: int) -> list[Reply]:
        seconds = seconds_for(calls)
        gathered = self._gather(
            contacts,
            ask(contacts, lambda contact: contact.ask(calls, seconds), len(calls)),
            calls,
            enough=lambda replies: sum(_is_whole(reply) for reply in replies.values()) >= needed,
            grace=self._hedge_seconds,
        )
        return list(gathered.replies.values())

    # --- Heads --------------------------------------------------------------------------------------------

    def latest_header(self) -> Any:
        """As of Rpc; now and then every endpoint is asked, to see who is behind."""
        usable, readers = self._usable(), self._readers()
        if len(usable) < 2 or not surveying.is_due(usable, time.monotonic()):
            header = super().latest_header()
            if len(usable) == 1:
                surveying.record({usable[0]: header}, self._block_seconds, time.monotonic())
            return header
        seconds = seconds_for([LATEST])
        gathered = self._gather(
            usable,
            ask(usable, lambda contact: contact.ask([LATEST], seconds), 1),
            [LATEST],
            enough=lambda replies: readers[0] in replies,
            grace=GRACE_SECONDS,
        )
        headers = {contact: reply.answers[0] for contact, reply in gathered.replies.items()}
        surveying.record(headers, self._block_seconds, time.monotonic())
        answer = headers.get(readers[0])
        return super().latest_header() if answer is None or isinstance(answer, RpcError) else answer

    # --- Who may be asked -----------------------------------------------------------------------------------

    def _usable(self) -> list[Contact]:
        """Return who is not paused. When all are, one whose pause is over is asked whether it works again."""
        self._write()
        if self._has_given_up():
            return []
        usable = [contact for contact in self._contacts if contact.health.is_usable()]
        if usable:
            return usable
        return next(([contact] for contact in self._contacts if self._works_again(contact)), [])

    def _readers(self) -> list[Contact]:
        usable = self._usable()
        return [contact for contact in usable if not contact.is_behind] or usable

    def probe(self) -> None:
        """Ask each endpoint whose pause is over whether it works again."""
        self._write()
        for contact in self._contacts:
            if not contact.health.is_usable():
                self._works_again(contact)

    def _works_again(self, contact: Contact) -> bool:
        """Return whether a paused endpoint may be used: asked by one process, when the pause is over."""
        if contact.health.is_paused(time.monotonic()):
            return False
        if not pauses.claim_probe(contact.pk):
            if pauses.is_open(contact.pk):
                contact.resume()
            return contact.health.is_usable()
        reply = contact.prove(max(1.0, contact.health.patience(LIGHT, self._hedge_seconds)))
        if reply.is_proven:
            contact.resume()
            pauses.resume(contact.pk, self.chain_id)
        else:
            contact.pause(reply.answers[0], is_lone=self._is_lone(contact), pause_seconds=self._pause_seconds)
            self._write()
        return reply.is_proven

    def _is_lone(self, contact: Contact) -> bool:
        return not any(other.health.is_usable() for other in self._contacts if other is not contact)

    def _unavailable(self) -> RpcError:
        if self._has_given_up():
            return RpcUnavailableError(f"chain {self.chain_id} is slow, and another worker waits for it")
        paused = [(contact, contact.health.pause) for contact in self._contacts]
        wrong = [pause for _, pause in paused if pause and pause.kind == PauseKind.WRONG_CHAIN]
        if len(wrong) == len(paused):
            return ChainMismatchError(wrong[0].reason)
        left = min(contact.health.paused_until for contact in self._contacts) - time.monotonic()
        until = datetime.now(UTC) + timedelta(seconds=max(0.0, left))
        why = "; ".join(f"{contact.host} {pause.kind.label}" for contact, pause in paused if pause)
        return RpcUnavailableError(
            f"no node of chain {self.chain_id} is asked before {until:%H:%M:%S} UTC: {why}"
        )

    # --- What was met ---------------------------------------------------------------------------------------

    def _gather(
        self,
        contacts: Sequence[Contact],
        asked: Asked,
        calls: Sequence[Call],
        *,
        enough: Any,
        grace: float,
        seconds: float = math.inf,
    ) -> Gathered:
        kind = share(calls)
        requests = math.ceil(len(calls) / min(contact.size for contact in contacts))
        gathered = gather(
            asked,
            seconds=min(seconds, seconds_for(calls) * requests),
            grace=grace,
            enough=enough,
            patience=max(contact.health.patience(kind, self._hedge_seconds) for contact in contacts),
            may_wait=self._may_wait,
        )
        for contact, reply in gathered.replies.items():
            self._noted(contact, reply)
        for contact, future in gathered.late.items():
            self._leave(contact, future)
        return gathered

    def _leave(self, contact: Contact, future: "Future[Reply]") -> None:
        """Have a reply that nobody waits for any more count for the endpoint's health."""
        future.add_done_callback(lambda done: self._note(contact, done.result()))

    def _noted(self, contact: Contact, reply: Reply) -> list[Any]:
        self._note(contact, reply)
        self._write()
        return reply.answers

    def _note(self, contact: Contact, reply: Reply) -> None:
        contact.note(reply, is_lone=self._is_lone(contact), pause_seconds=self._pause_seconds)

    def _note_silence(self, contact: Contact, seconds: float, question: "Question") -> list[Any]:
        """Count an answer that was not waited for as a failure; return what stands for it."""
        error = RpcTransportError(f"{contact.host}: no answer within {seconds:.1f} s")
        contact.health.waited_in_vain(seconds, question.share)
        return self._noted(contact, Reply([error] * len(question.calls), seconds, question.share))

    def _write(self) -> None:
        """Write what was met to the rows. Only in the gateway's own thread: the crews' have no database."""
        for contact in self._contacts:
            for item in contact.health.take_unwritten():
                if isinstance(item, Pause):
                    pauses.write(contact.pk, self.chain_id, item)
                else:
                    pauses.write_batch_size(contact.pk, item)

    def _may_wait(self) -> bool:
        return slowness.may_wait(self.chain_id)

    def _has_given_up(self) -> bool:
        return slowness.has_given_up(self.chain_id)


def _preference(contact: Contact) -> tuple[int, float]:
    """Order by position; among the same position at random, so that each comes first as often as its weight says."""
    return contact.position, -(random.random() ** (1 / max(1, contact.weight)))  # noqa: S311


def _has_taken(reply: Reply, rules: Sequence[Rule]) -> bool:
    return any(
        not isinstance(answer, RpcError) or classify(answer, rules) is ErrorClass.KNOWN
        for answer in reply.answers
    )


def _is_whole(reply: Reply) -> bool:
    return not any(isinstance(answer, RpcError) for answer in reply.answers)
