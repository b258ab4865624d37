"""Where the simulation meets the product: with `virtual_redis`, the only file that knows the product's names.

Real are the Lua scripts on a real Redis, CallStore, CallProcessor, the ElevenLabs client down to its one request, the
classification, the health check, the collector and its outbox. Time and the network are not.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import redis

from resilience import healthcheck
from resilience.alerts.collector import Collector
from resilience.alerts.decisions import Situation
from resilience.calls.call import Claim, Finished, NotBegun, State, Verdict
from resilience.calls.contacts import Contact
from resilience.calls.processor import CallProcessor, Result
from resilience.calls.store import DIALER, CallStore
from resilience.circuit_breaker import CircuitBreaker, policy_of
from resilience.config.settings import Settings, load
from resilience.errors import LeaseExpired, Sent, ServiceError, StoreUnavailable
from services.classification import classify
from services.conversations import Conversation, Search
from services.elevenlabs import ElevenLabs
from services.failures import from_exception
from services.http import Answer, unconfirmed_success
from tests.simulation.provider import EPOCH, Provider
from tests.simulation.scheduler import Host, Scheduler
from tests.simulation.seen import Seen
from tests.simulation.virtual_redis import VirtualScripts

CHANNEL = "mail"
TERMINAL = {state.value for state in State if state.is_terminal}


@cache
def shipped() -> Settings:
    """The shipped policy, without jitter: a run depends on nothing but its plan."""
    logging.getLogger("lineman").setLevel(logging.CRITICAL)
    settings = load("config.yml", dict.fromkeys(("ELEVEN_API_KEY", "ELEVEN_AGENT_ID", "ELEVEN_PHONE_NUMBER_ID"), "x"))
    dialer = settings.services[DIALER]
    retry = dialer.retry.model_copy(update={"jitter": 0.0})
    services = {DIALER: dialer.model_copy(update={"retry": retry})}
    return settings.model_copy(update={"services": services})


class WatchedStore(CallStore):
    """The store, with a seam before and after each step of an attempt."""

    def __init__(self, scripts: VirtualScripts, settings: Settings, seen: Seen) -> None:
        super().__init__(scripts, settings)
        self.scheduler, self.seen = scripts.scheduler, seen

    def begin(self, id: str, owner: str, **more: Any) -> Claim | NotBegun:
        gate = self.scripts.client.hmget(self.scripts.key("cb", DIALER), "state", "health")
        begun = super().begin(id, owner, **more)
        if isinstance(begun, Claim):
            well = gate[0] in (None, "closed") and gate[1] != "down"
            self.seen.begun.append((self.scheduler.now, begun, well))
        self.scheduler.seam("begin", 0.001)
        return begun

    def finish(self, claim: Claim, verdict: Verdict, **more: Any) -> Finished:
        self.scheduler.seam("finish", 0.001)
        finished = super().finish(claim, verdict, **more)
        if verdict.to is State.PLACED and verdict.conversation_id:
            self.seen.placed.setdefault(claim.call_id, (self.scheduler.now, verdict.conversation_id))
        return finished


class VirtualElevenLabs(ElevenLabs):
    """The client with the network taken out: its one request goes to the model."""

    def __init__(self, scheduler: Scheduler, provider: Provider, settings: Settings) -> None:
        timeout = settings.services[DIALER].timeout
        super().__init__(base_url="https://x", api_key="key", agent_id="agent", agent_phone_number_id="phone",
                         timeout=(timeout.connect, timeout.read))  # fmt: skip
        self.scheduler, self.provider = scheduler, provider

    def look_up(
        self, call_id: str, *, installation: str, timeout: tuple[float, float] | None = None
    ) -> list[Conversation]:
        """By the virtual clocks: the date of the worker's host, and the time that passes."""
        return Search(self._get, call_id, installation, timeout or self.timeout, wall=self._wall,
                      clock=lambda: self.scheduler.now).conversations()  # fmt: skip

    def _wall(self) -> float:
        task = self.scheduler.current
        return EPOCH + self.scheduler.now + (task.host.ahead if task else 0.0)

    def _request(self, method: str, path: str, timeout: tuple[float, float] | None = None, **more: Any) -> Answer:
        dial = bool(more.get("dial"))
        kind = "dial" if dial else "list" if "/conversations" in path else "health"
        params = more.get("params") or {}
        data = (more.get("json") or {}).get("conversation_initiation_client_data", {})
        call_id = data.get("user_id") or params.get("user_id") or ""
        one = path.rpartition("/conversations/")[2] if "/conversations/" in path else ""
        seconds, failure = self.provider.connect(kind)
        self.scheduler.seam({"dial": "handshake", "list": "look-up", "health": "probe"}[kind], seconds)
        if failure is None:
            if not more.get("lease_covers", lambda: True)():
                raise LeaseExpired("the lease no longer covers the request", service="elevenlabs", sent=Sent.NO)
            self.scheduler.seam("POST" if dial else "GET", 0.0)
            read = (timeout or self.timeout)[1]
            delay, answer = self.provider.take(kind, call_id, read, params=params, conversation=one,
                                               variables=data.get("dynamic_variables", {}))  # fmt: skip
            self.scheduler.seam("answer" if dial else "seen", min(delay, read))
            failure = answer if isinstance(answer, Exception) else None
        if failure is not None:
            raise from_exception(failure, "elevenlabs", dial)
        error = classify(answer.status, answer.body, answer.headers, service="elevenlabs", dial=dial)
        if error is None and isinstance(answer.body, str):
            error = unconfirmed_success("not_json", answer.status, service="elevenlabs", dial=dial)
        if error is not None:
            raise error
        return answer


@cache
def _undecoded(client: redis.Redis) -> redis.ConnectionPool:
    return redis.ConnectionPool(**client.connection_pool.connection_kwargs | {"decode_responses": False})


class Fleet:
    """The product's parts over one Redis and one provider."""

    def __init__(self, client: redis.Redis, scheduler: Scheduler, provider: Provider) -> None:
        client.flushdb()
        self._cursor = "0-0"
        self.settings, self.seen, self.scheduler = shipped(), Seen(), scheduler
        self.redis_host = Host("redis")
        self.scripts = VirtualScripts(client, scheduler, self.redis_host)
        self.store = WatchedStore(self.scripts, self.settings, self.seen)
        self.client, self.provider = client, provider
        self.raw = redis.Redis(connection_pool=_undecoded(client))
        self.dialer = VirtualElevenLabs(scheduler, provider, self.settings)
        self.processor = CallProcessor(self.store, self.dialer, self.settings, clock=lambda: scheduler.now)
        self.rules = self.settings.services[DIALER]
        self.gate = CircuitBreaker(self.scripts, DIALER, policy_of(self.rules))
        self.collector = Collector(self.scripts, Situation(self.settings.alerts, (DIALER,), (CHANNEL,)))

    def enqueue(self, campaign: str, count: int) -> None:
        contacts = [Contact(str(n), f"+4930{1000000 + n}", "Ada") for n in range(1, count + 1)]
        self.store.enqueue(contacts, campaign)

    def place(self, id: str) -> Result:
        return self.processor.process(id)

    def look_up(self, id: str) -> None:
        self.processor.look_up(id)

    def check_health(self) -> None:
        """As tasks/health.py."""
        interval = self.rules.health.interval
        if self.scripts.take_slot(f"health:{DIALER}", interval / 2):
            self.seen.ticks["health"] = self.scheduler.now
            healthcheck.check(DIALER, self.dialer, self.gate, self.rules)

    def dispatch(self, waiting: Callable[[], int], publish: Callable[[str, str], None]) -> None:
        """As tasks/dispatch.py."""
        rules = self.settings.calls.dispatch
        if not self.scripts.take_slot("dispatch", rules.interval / 2):
            return
        self.seen.ticks["dispatch"] = self.scheduler.now
        more = True
        while more:
            work = self.store.dispatch(rules.feed - waiting())
            self.scheduler.seam("dispatch", 0.001)
            for kind, ids in (("place", work.place), ("look_up", work.look_up)):
                for id in ids:
                    publish(kind, id)
                    if len(ids) < 5:
                        self.scheduler.seam("publish", 0.001)
            more = work.more

    def alert(self) -> None:
        """As tasks/alerts.py, with a channel that takes everything."""
        if not self.scripts.take_slot("alerts", self.settings.alerts.interval / 2):
            return
        self.seen.ticks["alerts"] = self.scheduler.now
        now = self.scripts.clock()
        self.collector.collect(now=now)
        self.scheduler.seam("collect", 0.001)
        for id, channel in self.collector.outbox.take_due(now=now, again=120):
            self.scheduler.seam("deliver", 0.001)
            delivery = self.collector.outbox.claim(id, channel, f"{self.scheduler.steps}", lease=60, now=now)
            if delivery:
                self.seen.alerts += [(self.scheduler.now, said) for said in delivery.alert.notices]
                self.collector.outbox.sent(delivery, now=now)

    def command(self, action: str, id: str) -> None:
        if self.store.command(id, action).answer == "done" and action == "retry":
            self.seen.retried[id] = self.scheduler.now

    def save(self) -> dict[str, bytes]:
        """Everything that Redis holds."""
        return {key: value for key in self.raw.keys("*") if (value := self.raw.dump(key))}

    def load(self, saved: Mapping[str, bytes]) -> None:
        """Redis holds this and nothing else."""
        self.raw.flushdb()
        for key, value in saved.items():
            self.raw.restore(key, 0, value)

    def restart(self) -> None:
        """Redis has another run id than before."""
        key = self.scripts.key("server")
        if self.client.exists(key):
            self.client.hset(key, "run_id", "0")

    def calls(self) -> list[dict[str, str]]:
        return list(self.store.calls())

    def open_calls(self) -> int:
        """How many have not ended."""
        return sum(count for state, count in self.store.stats().items() if state not in TERMINAL)

    def due_calls(self) -> int:
        """How many have a deadline."""
        return int(self.client.zcard(self.scripts.key("due")))

    def due(self) -> dict[str, float]:
        return dict(self.client.zrange(self.scripts.key("due"), 0, -1, withscores=True))

    def new_events(self) -> list[dict[str, str]]:
        """Those since the last time."""
        events = self.client.xrange(self.scripts.key("events"), min=f"({self._cursor}")
        self._cursor = events[-1][0] if events else self._cursor
        return [event for _, event in events]

    def gate_now(self) -> tuple[str, str]:
        state, health = self.client.hmget(self.scripts.key("cb", DIALER), "state", "health")
        return state or "closed", health or "unknown"


__all__ = ["Fleet", "ServiceError", "StoreUnavailable"]
