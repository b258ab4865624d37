"""The state of every call: the truth, of which Celery's messages are only wake-up calls.

Each method is one script and one round trip, safe to repeat. No transition leaves a terminal state except by an
operator's `retry`. Each names the owner of the attempt that it ends. Every non-terminal call has a deadline by which
the dispatcher looks at it again. The transitions are in lua/shared/call.lua and the scripts that use it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import uuid4

from resilience.calls.call import EVENT_OF, Claim, Finished, NotBegun, Verdict, Work, call_id
from resilience.calls.contacts import Contact
from resilience.calls.reader import BATCH, CallReader, batches
from resilience.circuit_breaker import Report, policy_of
from resilience.config.settings import Settings
from resilience.store.events import Events
from resilience.store.scripts import Scripts, ms

__all__ = ["BACKLOG_CHECK", "BATCH", "DIALER", "CallStore"]

DIALER = "elevenlabs"  # the service whose gate every call goes through
# Seconds that a call waits for its turn or its gate before the dispatcher checks that it is still in line.
BACKLOG_CHECK = 300.0


class CallStore(CallReader):
    """The calls in one Redis. Every method raises StoreUnavailable.

    `outboxes` are the names of those that a call is enrolled in when it ends. `now` is unix seconds, the server's time
    where it is left out.
    """

    def __init__(self, scripts: Scripts, settings: Settings, outboxes: Iterable[str] = ()) -> None:
        super().__init__(scripts)
        self.settings, self.events = settings, Events(scripts)
        self._common = {
            "backlog_check": ms(BACKLOG_CHECK),
            "retention": ms(settings.calls.retention),
            "outboxes": list(outboxes),
        }
        self._service = settings.services[DIALER]
        self._policy = policy_of(self._service)
        self._release = self._service.release.model_dump()
        self._new_id = uuid4().hex

    def enqueue(
        self, contacts: Iterable[Contact], campaign: str, *, delay: float = 0.0, now: float | None = None
    ) -> tuple[int, int]:
        """Writes the contacts' calls, in batches. Returns how many are new, and how many were known already.

        `delay`: seconds until they are due. Raises StoreFull where Redis is full; of that batch nothing was written.
        """
        new = known = 0
        for batch in batches(contacts):
            calls = [_as_args(contact, campaign) for contact in batch]
            answers = self._run("enqueue", now, calls=calls, service=DIALER, delay=ms(delay) or None)
            new, known = new + sum(answers), known + len(answers) - sum(answers)
        return new, known

    def begin(
        self,
        id: str,
        owner: str,
        *,
        contact: Contact | None = None,
        campaign: str = "default",
        early_ok: bool = False,
        now: float | None = None,
    ) -> Claim | NotBegun:
        """Begins an attempt, if the call is due and its gate admits it. `owner` is this run's own token."""
        a = self._run(
            "begin_attempt",
            now,
            id=id,
            owner=owner,
            service=DIALER,
            policy=self._policy,
            release=self._release,
            lease=ms(self.settings.lease(DIALER)),
            early_ok=early_ok or None,
            installation=self._new_id,
            contact=None if contact is None else _as_args(contact, campaign),
        )
        return _claim(id, owner, a) if a["answer"] == "go" else _not_begun(a)

    def finish(self, claim: Claim, verdict: Verdict, *, now: float | None = None) -> Finished:
        """Ends the attempt: reports its outcome to the gate and moves the call on."""
        args = {
            "reason": verdict.reason,
            "category": verdict.category,
            "code": verdict.code,
            "conversation_id": verdict.conversation_id,
        }
        a = self._run(
            "finish_attempt",
            now,
            id=claim.call_id,
            owner=claim.owner,
            policy=self._policy,
            report=verdict.report.as_args(),
            to=verdict.to,
            event=EVENT_OF[verdict.to],
            delay=ms(verdict.delay),
            grace=ms(self.settings.calls.dispatch.republish),
            dialed=verdict.dialed,
            used=verdict.used,
            service_fault=verdict.service_fault or None,
            **args,
        )
        return Finished(a["answer"], a["state"], a.get("breaker_state", ""), a.get("attempts", 0))

    def resolve(
        self,
        id: str,
        look: int,
        result: str,
        conversations: Sequence[str] = (),
        *,
        reason: str | None = None,
        report: Report | None = None,
        now: float | None = None,
    ) -> Finished:
        """Takes one look-up's result (found, absent, error). `look` is the count that get() said before looking.

        `report`: what a refused look-up says about the service.
        """
        rules, retry = self.settings.calls.look_up, self._service.retry
        a = self._run(
            "resolve_doubt",
            now,
            id=id,
            look=look,
            result=result,
            reason=reason,
            conversation_id=conversations[0] if conversations else None,
            conversations=len(conversations),
            found=" ".join(conversations),
            polls=rules.polls,
            interval=ms(rules.interval),
            give_up=ms(rules.give_up),
            max_attempts=retry.max_attempts,
            delay=ms(retry.initial_delay),
            doubt_after=ms(self.settings.alerts.doubt_after),
            policy=self._policy,
            report=None if report is None else report.as_args(),
        )
        return Finished(a["answer"], a["state"])

    def dispatch(self, room: int, *, batch: int = 500, now: float | None = None) -> Work:
        """One tick: what is due, what the gates release, and at most `room` calls for Celery's queue."""
        services = {
            name: {"policy": policy_of(s), **s.release.model_dump()}
            for name, s in self.settings.services.items()
            if s.enabled
        }
        a = self._run(
            "dispatch",
            now,
            batch=batch,
            room=room,
            dialer=DIALER,
            services=services,
            republish=ms(self.settings.calls.dispatch.republish),
            look_up_timeout=ms(2 * self.settings.lease(DIALER)),
            look_up_interval=ms(self.settings.calls.look_up.interval),
        )
        return Work(a.get("place", ()), a.get("look_up", ()), bool(a["more"]))

    def installation(self) -> str:
        """The id of this store. It is read each time, because a store that lost its data has another one."""
        return str(self._run("installation", None, installation=self._new_id))

    def remember(self, called_before: bool, *, now: float | None = None) -> bool:
        """Answers no_memory: `called_before` says that calls were placed, so the store has lost them.

        From then on calls are looked up before they are dialed. False: it was answered before.
        """
        return bool(self._run("remember", now, called_before=called_before))

    def command(self, id: str, action: str, *, now: float | None = None) -> Finished:
        """An operator's command, retry or cancel. The answer is done, refused or unknown."""
        a = self._run("command_call", now, id=id, action=action)
        return Finished(a["answer"], a["state"])

    def _run(self, script: str, now: float | None, **args: Any) -> Any:
        return self.scripts.run(script, self._common | args, now)


def _claim(id: str, owner: str, a: Mapping[str, Any]) -> Claim:
    return Claim(
        id,
        owner,
        a["attempt_id"],
        a["attempts"],
        Contact(a["contact_id"], a["phone"], a.get("name", ""), json.loads(a["fields"])),
        a["campaign"],
        a["breaker_state"],
        a["look_first"],
        a["must_look"],
        a["installation"],
        a["foreign_known"],
    )


def _not_begun(a: Mapping[str, Any]) -> NotBegun:
    wait = a.get("retry_after")
    return NotBegun(
        a["answer"],
        a.get("state", ""),
        a.get("breaker_state", ""),
        a.get("attempts", 0),
        None if wait is None else wait / 1000,
        a.get("reason", ""),
    )


def _as_args(contact: Contact, campaign: str) -> Mapping[str, str]:
    return {
        "id": call_id(campaign, contact.id),
        "campaign": campaign,
        "contact_id": contact.id,
        "phone": contact.phone,
        "name": contact.name,
        "fields": json.dumps(dict(contact.fields)),
    }
