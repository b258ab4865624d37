"""The apprise channel: apprise itself, against an HTTP server on loopback."""

from __future__ import annotations

import io
import logging
import os
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from apprise.decorators import notify

from resilience.errors import PermanentError, Sent, TransientError
from services.channels.apprise import Apprise
from tests.services.channels.alert import DOWN
from tests.support import ROOT

# apprise's own import of a module that Python 3.13 no longer has.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")

ALERT = replace(
    DOWN, text="*3* calls_wait <b> & more.\nGrüße \N{TELEPHONE RECEIVER} :smile: \\n", html="<p>not this</p>"
)


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """What reaches our own log. caplog would also listen to loggers that keep to themselves."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logging.getLogger().addHandler(handler)
    yield stream
    logging.getLogger().removeHandler(handler)


def at(receiver: Any, schema: str, path: str = "/hook") -> str:
    return receiver.url.replace("http://", f"{schema}://") + path


def test_an_alert_arrives_as_it_is_written(alert_receiver: Any) -> None:
    Apprise(at(alert_receiver, "json")).send(ALERT)

    (arrival,) = alert_receiver.arrivals
    assert arrival.path == "/hook"
    assert (arrival.body["title"], arrival.body["message"]) == (ALERT.subject, ALERT.text)


@pytest.mark.parametrize(
    ("status", "severity", "type_"),
    [
        ("firing", "critical", "failure"),
        ("firing", "warning", "warning"),
        ("info", "info", "info"),
        ("resolved", "info", "success"),
        ("resolved", "critical", "success"),
    ],
)
def test_the_severity_becomes_apprises_type(alert_receiver: Any, status: Any, severity: Any, type_: str) -> None:
    Apprise(at(alert_receiver, "json")).send(replace(ALERT, status=status, severity=severity))

    assert alert_receiver.arrivals[0].body["type"] == type_


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 503])
def test_a_place_that_does_not_take_it_is_transient_and_its_reason_told(
    alert_receiver: Any, alert_reply: Any, status: int
) -> None:
    alert_receiver.replies = [alert_reply(status, "no")]

    with pytest.raises(TransientError, match=rf"URL 2 of APPRISE_URLS \(JSON\) did not take the alert.*{status}") as e:
        Apprise(at(alert_receiver, "json"), position=2).send(ALERT)

    assert (e.value.service, e.value.sent) == ("apprise", Sent.UNKNOWN)
    assert len(alert_receiver.arrivals) == 1


def test_retries_asked_for_in_the_url_are_left_to_the_task(alert_receiver: Any, alert_reply: Any) -> None:
    alert_receiver.replies = [alert_reply(500)]

    with pytest.raises(TransientError):
        Apprise(at(alert_receiver, "json", "/hook?retry=3&wait=5")).send(ALERT)

    assert len(alert_receiver.arrivals) == 1


def test_a_redirect_is_not_followed(alert_receiver: Any, alert_reply: Any) -> None:
    alert_receiver.replies = [alert_reply(302, "", {"Location": f"{alert_receiver.url}/other"})]

    with pytest.raises(TransientError):
        Apprise(at(alert_receiver, "json")).send(ALERT)

    assert len(alert_receiver.arrivals) == 1


def test_apprises_pause_of_seconds_between_two_requests_is_off(alert_receiver: Any) -> None:
    begin = time.monotonic()

    Apprise(at(alert_receiver, "ntfy", "/topic-one/topic-two")).send(ALERT)
    Apprise(at(alert_receiver, "ntfy", "/topic-one/topic-two")).send(ALERT)

    assert len(alert_receiver.arrivals) == 4
    assert time.monotonic() - begin < 5  # apprise pauses 5.5 s before each but the first of a place


@pytest.mark.parametrize("answer", [{"silent": True}, {"hang_up": True}])
def test_no_answer_is_transient_after_the_timeout(
    alert_receiver: Any, alert_reply: Any, answer: dict[str, bool]
) -> None:
    alert_receiver.replies = [alert_reply(**answer)]
    begin = time.monotonic()

    with pytest.raises(TransientError):
        Apprise(at(alert_receiver, "json", "/hook?rto=20"), timeout=(2, 0.2)).send(ALERT)

    assert time.monotonic() - begin < 5


def test_a_place_out_of_reach_is_transient() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]

    with pytest.raises(TransientError):
        Apprise(f"json://127.0.0.1:{port}", timeout=(2, 2)).send(ALERT)


@pytest.mark.parametrize(
    "url", ["nope://secret-token", "no-url", "", "json://", "json://[::1", "slack://secret-token", "tgram://1", "://"]
)
def test_a_url_that_cannot_be_used_is_permanent_and_named_by_its_position(
    url: str, capfd: pytest.CaptureFixture[str], logged: io.StringIO
) -> None:
    with pytest.raises(PermanentError, match="URL 3 of APPRISE_URLS cannot be used") as caught:
        Apprise(url, position=3).send(ALERT)

    shown = "".join(traceback.format_exception(caught.value)) + repr(vars(caught.value)) + logged.getvalue()
    assert (caught.value.code, caught.value.sent) == ("bad_url", Sent.NO)
    assert "secret-token" not in shown + "".join(capfd.readouterr())


@pytest.mark.parametrize("status", [200, 400, 500, None])
def test_no_piece_of_the_url_is_in_any_text(
    alert_receiver: Any,
    alert_reply: Any,
    logged: io.StringIO,
    capfd: pytest.CaptureFixture[str],
    status: int | None,
) -> None:
    alert_receiver.replies = [alert_reply(status, "T0TOKEN q-token") if status else alert_reply(hang_up=True)]
    url = alert_receiver.url.replace("http://", "json://user:pass-word@") + "/T0TOKEN/B%2BTOKEN?-key=q-token"
    place = Apprise(url)
    shown = repr(place)

    try:
        place.send(ALERT)
    except TransientError as exc:
        shown += "".join(traceback.format_exception(exc)) + repr(vars(exc))

    shown += logged.getvalue() + "".join(capfd.readouterr())
    for secret in ("TOKEN", "q-token", "pass-word", "127.0.0.1"):
        assert secret not in shown


def test_a_plugin_that_crashes_is_transient() -> None:
    @notify(on="crashing")
    def crash(*_args: Any, **_named: Any) -> bool:
        raise RuntimeError("secret-token")

    with pytest.raises(TransientError, match="did not take the alert") as caught:
        Apprise("crashing://secret-token").send(ALERT)

    assert "secret-token" not in str(caught.value) + repr(vars(caught.value))
    assert caught.value.__context__ is None


def test_a_process_that_sends_nothing_by_apprise_does_not_import_it() -> None:
    code = "import sys, services.channels.apprise; sys.exit('apprise' in sys.modules)"
    root = ROOT

    done = subprocess.run([sys.executable, "-c", code], cwd=root, env=os.environ, check=False, timeout=60)

    assert done.returncode == 0
