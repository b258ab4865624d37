"""What the simulation once found, each as the short list of steps that it was shrunk to."""

from __future__ import annotations

from tests.simulation.plan import DAY, Step

WARM = Step(0.0, "enqueue", seconds=1.0, arg="warm")  # the store has begun an attempt, and knows its server

FOUND: dict[str, list[Step]] = {
    # The look-up's window began a minute before the dial, by the clock of another machine.
    "the provider's clock is two minutes behind": [
        WARM,
        Step(0.0, "clock", "provider", -120.0),
        Step(20.0, "crash", "w1", 1.0, "answer"),
        Step(20.0, "crash", "w2", 1.0, "answer"),
        Step(20.0, "enqueue", seconds=1.0, arg="a"),
    ],
    # Each timed probe cost its contact an attempt.
    "hours of 503 use up no contact": [
        WARM,
        Step(37.0, "outage", "all", 7655.0, "503"),
        Step(40.0, "enqueue", seconds=5.0, arg="a"),
        Step(4102.0, "enqueue", seconds=1.0, arg="b"),
    ],
    # Look-ups that failed with the service used up `give_up`.
    "hours of silence put no contact into review": [
        WARM,
        Step(45.0, "outage", "all", 3420.0, "silent"),
        Step(46.0, "enqueue", seconds=5.0, arg="a"),
        Step(622.0, "enqueue", seconds=1.0, arg="b"),
    ],
    # The slots' keys lived for an hour more.
    "Redis's clock is set back by an hour": [
        WARM,
        Step(49.0, "clock", "redis", -3600.0),
        Step(60.0, "enqueue", seconds=3.0, arg="a"),
    ],
    # Neither an attempt, nor an end, nor an alert.
    "a call that must be looked up with a key that may not": [
        WARM,
        Step(20.0, "redis_restart", seconds=0.1),
        Step(20.0, "no_scope", seconds=DAY),
        Step(21.0, "enqueue", seconds=1.0, arg="a"),
    ],
    # The stale report's conversation id was thrown away.
    "a worker reports a call placed past its lease": [
        WARM,
        Step(10.0, "lag", seconds=600.0),
        Step(20.0, "suspend", "w1", 60.0, "finish"),
        Step(20.0, "suspend", "w2", 60.0, "finish"),
        Step(20.0, "enqueue", seconds=1.0, arg="a"),
    ],
    # Only deferred calls went through the ramp.
    "the ramp bounds the backlog after a recovery": [
        WARM,
        Step(20.0, "outage", "all", 80.0, "503"),
        Step(21.0, "enqueue", seconds=10.0, arg="a"),
        *(Step(110.0 + 2 * n, "enqueue", seconds=30.0, arg=f"b{n}") for n in range(15)),
    ],
    # The ramp grew with the time in which nothing was tried: after each pause all workers went at once.
    "a service that throttles gets no more requests from more contacts": [
        WARM,
        Step(14.0, "outage", "all", 328.0, "429"),
        Step(30.0, "enqueue", seconds=100.0, arg="a"),
    ],
}
