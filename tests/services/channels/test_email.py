"""The mail channel against real SMTP servers on loopback."""

from __future__ import annotations

import logging
import pickle
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

from resilience.errors import PermanentError, TransientError
from services.channels.email import Email
from tests.services.channels.alert import DOWN

PASSWORD = "correct horse"
ALERT = replace(DOWN, id="elevenlabs:down:7")
# Its own loopback address, so that the well-known ports can be bound beside a real mail server.
QUIET_ADDRESS = "127.83.25.87"


@dataclass
class Mailbox:
    """What arrived, and what to answer to an address or a command instead of 250."""

    replies: dict[str, str] = field(default_factory=dict)
    hang_up_at: str = ""
    mails: list[EmailMessage] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)
    logins: list[tuple[bytes, bytes]] = field(default_factory=list)
    encrypted: list[bool] = field(default_factory=list)

    async def handle_MAIL(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        envelope.mail_from = address
        return self.replies.get("MAIL", "250 OK")

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        reply = self.replies.get(address, "250 OK")
        if reply.startswith("2"):
            envelope.rcpt_tos.append(address)
        return reply

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.raw.append(envelope.content)
        mail = message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(mail, EmailMessage)
        self.mails.append(mail)
        self.encrypted.append(server.transport.get_extra_info("ssl_object") is not None)
        if self.hang_up_at == "DATA":
            server.transport.abort()
        return self.replies.get("DATA", "250 OK")

    async def handle_QUIT(self, server: Any, session: Any, envelope: Any) -> str:
        if self.hang_up_at == "QUIT":
            server.transport.abort()
        return self.replies.get("QUIT", "221 Bye")

    def authenticate(self, server: Any, session: Any, envelope: Any, mechanism: str, auth: LoginPassword) -> AuthResult:
        self.logins.append((auth.login, auth.password))
        if "AUTH" in self.replies:
            return AuthResult(success=False, handled=False, message=self.replies["AUTH"])
        return AuthResult(success=auth.password == PASSWORD.encode(), handled=False)


class FreePort(Controller):
    """A Controller on the port that the kernel chose."""

    def _trigger_server(self) -> None:
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()


Serve = Callable[..., Controller]


@pytest.fixture
def serve() -> Iterator[Serve]:
    running: list[Controller] = []

    def start(mailbox: Mailbox, hostname: str = "127.0.0.1", port: int = 0, **options: Any) -> Controller:
        if options.get("auth_required"):
            options |= {"authenticator": mailbox.authenticate}
        controller = FreePort(mailbox, hostname=hostname, port=port, **options)
        controller.start()
        running.append(controller)
        return controller

    yield start
    for controller in running:
        controller.stop()


@dataclass(frozen=True)
class Authority:
    cafile: str
    server: ssl.SSLContext


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    ca = trustme.CA()
    cafile = tmp_path_factory.mktemp("ca") / "ca.pem"
    ca.cert_pem.write_to_path(str(cafile))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost", "127.0.0.1", QUIET_ADDRESS).configure_cert(context)
    return Authority(str(cafile), context)


def channel(server: Controller, **changes: Any) -> Email:
    settings: dict[str, Any] = {
        "host": server.hostname,
        "port": server.port,
        "user": "",
        "password": "",
        "sender": "Lineman <lineman@example.com>",
        "recipients": ["ann@example.com"],
        "timeout": 5,
    }
    return Email(**(settings | changes))


def test_a_local_relay_gets_the_mail_without_encryption_or_login(serve: Serve) -> None:
    box = Mailbox()

    channel(serve(box), recipients=["ann@example.com", "Bob <bob@example.com>"]).send(ALERT)

    (mail,) = box.mails
    assert mail["Subject"] == "ElevenLabs is down"
    assert mail["From"] == "Lineman <lineman@example.com>"
    assert mail["To"] == "ann@example.com, Bob <bob@example.com>"
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail["Date"].datetime is not None
    assert mail.get_content_type() == "text/plain"
    assert mail.get_content().strip() == "3 calls wait."
    assert box.encrypted == [False]


def test_a_repeated_alert_carries_the_same_message_id_and_another_alert_a_different_one(serve: Serve) -> None:
    box = Mailbox()
    email = channel(serve(box))

    email.send(ALERT)
    email.send(ALERT)
    email.send(replace(ALERT, id="another alert, \N{SNOWMAN}"))

    first, second, other = (mail["Message-ID"] for mail in box.mails)
    assert first == second != other
    assert first.startswith("<")
    assert first.endswith("@example.com>")


def test_the_mails_of_one_outage_are_one_thread(serve: Serve) -> None:
    box = Mailbox()
    email = channel(serve(box))
    firing = replace(ALERT, data={"since": "2026-01-31T23:59:00Z"})

    email.send(firing)
    email.send(replace(firing, id="8-reminder"))
    email.send(replace(firing, id="9-resolved", status="resolved", data=firing.data | {"duration_s": 600}))
    email.send(replace(firing, id="next outage", data={"since": "2026-02-01T04:00:00Z"}))
    email.send(replace(firing, id="other key", key="crm:service_down"))

    assert len({mail["Message-ID"] for mail in box.mails}) == 5
    assert all(mail["References"] == mail["In-Reply-To"] for mail in box.mails)
    first, reminder, resolved, later, other = (mail["References"] for mail in box.mails)
    assert first == reminder == resolved
    assert len({first, later, other}) == 3
    assert first.startswith("<")
    assert first.endswith("@example.com>")


def test_the_mails_of_a_day_are_one_thread_where_the_alert_has_no_beginning(serve: Serve) -> None:
    box = Mailbox()
    email = channel(serve(box))
    day = datetime.now(UTC).date()

    email.send(ALERT)
    email.send(replace(ALERT, id="8"))

    if datetime.now(UTC).date() != day:
        pytest.skip("midnight came in between")
    assert box.mails[0]["References"] == box.mails[1]["References"]


def test_html_goes_along_as_the_better_of_two_alternatives(serve: Serve) -> None:
    box = Mailbox()
    page = "<p>Größe: <b>3</b> calls wait \N{TELEPHONE RECEIVER}.</p>\n" + "<i>x</i>" * 500

    channel(serve(box)).send(replace(ALERT, html=page))

    (mail,) = box.mails
    assert mail.get_content_type() == "multipart/alternative"
    plain, html = mail.iter_parts()
    assert (plain.get_content_type(), html.get_content_type()) == ("text/plain", "text/html")
    assert plain.get_content().strip() == "3 calls wait."
    assert html.get_content().splitlines() == page.splitlines()
    assert box.raw[0].isascii()
    assert max(len(line) for line in box.raw[0].splitlines()) < 1000


def test_text_beyond_ascii_dots_and_long_lines_arrive_unchanged(serve: Serve) -> None:
    box = Mailbox()
    text = "Grüße \N{TELEPHONE RECEIVER}\n.\n.hidden\n" + "x" * 3000

    channel(serve(box)).send(replace(ALERT, subject="Störung \N{TELEPHONE RECEIVER} " * 20, text=text))

    (mail,) = box.mails
    assert mail["Subject"] == ("Störung \N{TELEPHONE RECEIVER} " * 20).strip()
    assert mail.get_content().splitlines() == text.splitlines()
    assert box.raw[0].isascii()
    assert max(len(line) for line in box.raw[0].splitlines()) < 1000


@pytest.mark.parametrize(
    "subject",
    [
        "down\r\nBcc: eve@example.com",
        "down\nBcc: eve@example.com",
        "down\u2028Bcc: eve@example.com\x00\x0b",
        "=?utf-8?q?down=0D=0ABcc:_eve@example.com?= " + "word " * 30,
        "=\n?utf-8?q?down=0D=0ABcc:_eve@example.com?=",
        "down \ud800",
    ],
)
def test_a_subject_cannot_add_a_header(serve: Serve, subject: str) -> None:
    box = Mailbox()

    channel(serve(box)).send(replace(ALERT, subject=subject, text="lone \ud800"))

    (mail,) = box.mails
    assert "Bcc" not in mail
    assert mail["Subject"].replace("= ?", "=?").startswith(("down", "=?", "= ?"))


def test_starttls_encrypts_before_the_mail(serve: Serve, authority: Authority) -> None:
    box = Mailbox()
    server = serve(box, tls_context=authority.server, require_starttls=True)

    channel(server, security="starttls", cafile=authority.cafile).send(ALERT)

    assert box.encrypted == [True]


def test_auto_takes_starttls_where_it_is_offered(serve: Serve, authority: Authority) -> None:
    box = Mailbox()

    channel(serve(box, tls_context=authority.server), cafile=authority.cafile).send(ALERT)

    assert box.encrypted == [True]


def test_implicit_tls_encrypts_from_the_start(serve: Serve, authority: Authority) -> None:
    box = Mailbox()

    channel(serve(box, ssl_context=authority.server), security="tls", cafile=authority.cafile).send(ALERT)

    assert box.encrypted == [True]


def test_auto_means_implicit_tls_on_port_465(serve: Serve, authority: Authority) -> None:
    box = Mailbox()
    server = _on_well_known_port(serve, box, 465, ssl_context=authority.server)

    channel(server, cafile=authority.cafile).send(ALERT)

    assert box.encrypted == [True]


def test_auto_means_starttls_or_nothing_on_port_587(serve: Serve) -> None:
    box = Mailbox()
    server = _on_well_known_port(serve, box, 587)

    with pytest.raises(PermanentError, match="STARTTLS"):
        channel(server).send(ALERT)

    assert box.mails == []


def _on_well_known_port(serve: Serve, box: Mailbox, port: int, **options: Any) -> Controller:
    try:
        return serve(box, hostname=QUIET_ADDRESS, port=port, **options)
    except OSError as exc:
        pytest.skip(f"cannot bind {QUIET_ADDRESS}:{port}: {exc}")


def test_starttls_is_refused_where_it_is_not_offered(serve: Serve) -> None:
    with pytest.raises(PermanentError, match="SMTP_PORT"):
        channel(serve(Mailbox()), security="starttls").send(ALERT)


def test_a_certificate_of_an_unknown_authority_is_permanent(serve: Serve, authority: Authority) -> None:
    box = Mailbox()

    with pytest.raises(PermanentError, match=r"certificate not accepted.*SSL_CERT_FILE"):
        channel(serve(box, tls_context=authority.server), security="starttls").send(ALERT)

    assert box.mails == []


def test_auto_asks_no_signed_certificate_of_a_relay_on_this_machine(serve: Serve, authority: Authority) -> None:
    box = Mailbox()

    channel(serve(box, tls_context=authority.server)).send(ALERT)

    assert box.encrypted == [False]


def test_a_certificate_for_another_name_is_permanent(serve: Serve, tmp_path: Path) -> None:
    ca, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    ca.issue_cert("mail.example.com").configure_cert(context)

    with pytest.raises(PermanentError, match="certificate not accepted"):
        channel(serve(Mailbox(), ssl_context=context), security="tls", cafile=str(tmp_path / "ca.pem")).send(ALERT)


def test_tls_to_a_plain_port_is_permanent_and_names_the_settings(serve: Serve) -> None:
    with pytest.raises(PermanentError, match="SMTP_PORT and security"):
        channel(serve(Mailbox()), security="tls").send(ALERT)


def test_an_unreadable_ca_file_is_permanent(serve: Serve) -> None:
    with pytest.raises(PermanentError, match=r"/nowhere/ca\.pem.*No such file"):
        channel(serve(Mailbox()), security="tls", cafile="/nowhere/ca.pem").send(ALERT)


def test_the_login_is_sent_over_tls(serve: Serve, authority: Authority) -> None:
    box = Mailbox()
    server = serve(box, tls_context=authority.server, auth_required=True)

    channel(server, user="lineman", password=PASSWORD, cafile=authority.cafile).send(ALERT)

    assert box.logins == [(b"lineman", PASSWORD.encode())]
    assert len(box.mails) == 1


@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")
def test_the_login_is_sent_in_the_clear_on_loopback(serve: Serve) -> None:
    box = Mailbox()
    server = serve(box, auth_required=True, auth_require_tls=False)

    channel(server, user="lineman", password=PASSWORD).send(ALERT)

    assert len(box.mails) == 1


@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")
@pytest.mark.parametrize("security", ["auto", "plain"])
def test_the_login_is_never_sent_in_the_clear_to_another_host(serve: Serve, security: str) -> None:
    box = Mailbox()
    server = serve(box, hostname=_own_address(), auth_required=True, auth_require_tls=False)

    with pytest.raises(PermanentError, match=r"not encrypted.*security: starttls"):
        channel(server, user="lineman", password=PASSWORD, security=security).send(ALERT)

    assert box.logins == []


def _own_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # chooses the interface, sends nothing
        except OSError:
            pytest.skip("this machine has no address beside loopback")
        return str(probe.getsockname()[0])


def test_a_wrong_password_is_permanent_and_stays_out_of_the_text(serve: Serve, authority: Authority) -> None:
    box = Mailbox()
    server = serve(box, tls_context=authority.server, auth_required=True)

    with pytest.raises(PermanentError, match="check SMTP_USER and SMTP_PASS") as caught:
        channel(server, user="lineman", password="wrong-pass", cafile=authority.cafile).send(ALERT)

    assert caught.value.status == 535
    assert "wrong-pass" not in str(caught.value)
    assert len(box.logins) == 1


def test_a_server_that_offers_only_login_gets_it(serve: Serve, authority: Authority) -> None:
    box = Mailbox()
    server = serve(box, tls_context=authority.server, auth_required=True, auth_exclude_mechanism=["PLAIN"])

    channel(server, user="lineman", password=PASSWORD, cafile=authority.cafile).send(ALERT)

    assert box.logins == [(b"lineman", PASSWORD.encode())]


def test_a_password_that_the_server_echoes_is_redacted(serve: Serve, authority: Authority) -> None:
    box = Mailbox(
        replies={"AUTH": f"535 {PASSWORD} AGxpbmVtYW4AY29ycmVjdCBob3JzZQ== Y29ycmVjdCBob3JzZQ== " + "x" * 300}
    )
    server = serve(box, tls_context=authority.server, auth_required=True)

    with pytest.raises(PermanentError) as caught:
        channel(server, user="lineman", password=PASSWORD, cafile=authority.cafile).send(ALERT)

    assert "535 *** *** *** xxx" in str(caught.value)
    assert len(str(caught.value)) < 350


def test_a_login_the_server_cannot_check_now_is_transient(serve: Serve, authority: Authority) -> None:
    server = serve(Mailbox(replies={"AUTH": "454 4.7.0 busy"}), tls_context=authority.server, auth_required=True)

    with pytest.raises(TransientError) as caught:
        channel(server, user="lineman", password=PASSWORD, cafile=authority.cafile).send(ALERT)

    assert caught.value.status == 454


def test_a_login_the_server_does_not_offer_is_permanent(serve: Serve, authority: Authority) -> None:
    server = serve(Mailbox(), tls_context=authority.server, auth_exclude_mechanism=["PLAIN", "LOGIN"])

    with pytest.raises(PermanentError, match="SMTP_USER"):
        channel(server, user="lineman", password=PASSWORD, cafile=authority.cafile).send(ALERT)


def test_a_password_that_smtp_cannot_carry_is_permanent_and_stays_out_of_the_text(
    serve: Serve, authority: Authority
) -> None:
    server = serve(Mailbox(), tls_context=authority.server, auth_required=True)

    with pytest.raises(PermanentError, match="SMTP_PASS") as caught:
        channel(server, user="lineman", password="gehÄim", cafile=authority.cafile).send(ALERT)

    assert "geh" not in str(caught.value)


def test_a_server_that_demands_a_login_is_permanent(serve: Serve, authority: Authority) -> None:
    server = serve(Mailbox(), tls_context=authority.server, auth_required=True)

    with pytest.raises(PermanentError, match="set SMTP_USER and SMTP_PASS"):
        channel(server, cafile=authority.cafile).send(ALERT)


@pytest.mark.parametrize("step", ["MAIL", "ann@example.com", "DATA"])
@pytest.mark.parametrize(("reply", "kind"), [("451 later", TransientError), ("554 never", PermanentError)])
def test_the_code_of_a_refusal_decides_whether_it_is_retried(
    serve: Serve, step: str, reply: str, kind: type[Exception]
) -> None:
    server = serve(Mailbox(replies={step: reply}))

    with pytest.raises(kind) as caught:
        channel(server).send(ALERT)

    assert caught.value.status == int(reply[:3])
    assert caught.value.service == "email"
    assert reply[4:] in str(caught.value)


def test_one_recipient_refused_for_now_makes_the_whole_refusal_transient(serve: Serve) -> None:
    replies = {"ann@example.com": "550 ann@example.com unknown", "bob@example.com": "452 mailbox full"}

    with pytest.raises(TransientError) as caught:
        channel(serve(Mailbox(replies)), recipients=["ann@example.com", "bob@example.com"]).send(ALERT)

    assert caught.value.status == 452


def test_a_goodbye_in_the_middle_is_transient(serve: Serve) -> None:
    server = serve(Mailbox({"bob@example.com": "421 shutting down"}))

    with pytest.raises(TransientError):
        channel(server, recipients=["ann@example.com", "bob@example.com"]).send(ALERT)


def test_a_recipient_refused_among_others_is_logged_masked_and_not_raised(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    box = Mailbox({"bob@example.com": "550 <bob@example.com> unknown"})

    with caplog.at_level(logging.WARNING, "lineman"):
        channel(serve(box), recipients=["ann@example.com", "bob@example.com"]).send(ALERT)

    (record,) = (record for record in caplog.records if record.name == "lineman")
    assert record.getMessage() == "recipient_refused"
    known, fields = record.lineman
    assert known["service"] == "email"
    assert (fields["recipient"], fields["status"]) == ("b***@example.com", 550)
    assert "bob" not in str(vars(record))
    assert len(box.mails) == 1


@pytest.mark.parametrize("recipients", [[], [""]])
def test_no_recipient_at_all_is_permanent(serve: Serve, recipients: list[str]) -> None:
    with pytest.raises(PermanentError, match="no recipient"):
        channel(serve(Mailbox()), recipients=recipients).send(ALERT)


@pytest.mark.parametrize("box", [Mailbox({"QUIT": "421 too busy"}), Mailbox(hang_up_at="QUIT")], ids=["421", "hang up"])
def test_an_accepted_mail_is_not_sent_again_for_a_failed_goodbye(serve: Serve, box: Mailbox) -> None:
    channel(serve(box)).send(ALERT)

    assert len(box.mails) == 1


def test_a_connection_lost_after_data_is_transient(serve: Serve) -> None:
    with pytest.raises(TransientError, match="broke off"):
        channel(serve(Mailbox(hang_up_at="DATA"))).send(ALERT)


def test_a_server_that_says_nothing_is_transient_after_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        email = Email("127.0.0.1", silent.getsockname()[1], "", "", "a@example.com", ["b@example.com"], timeout=0.2)

        with pytest.raises(TransientError, match="timed out"):
            email.send(ALERT)


def test_a_tls_handshake_without_an_answer_is_transient() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        email = Email("127.0.0.1", port, "", "", "a@example.com", ["b@example.com"], security="tls", timeout=0.2)

        with pytest.raises(TransientError, match="timed out"):
            email.send(ALERT)


def test_a_closed_port_is_transient() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]

    with pytest.raises(TransientError, match="refused"):
        Email("127.0.0.1", port, "", "", "a@example.com", ["b@example.com"], timeout=5).send(ALERT)


def test_a_host_name_without_address_is_transient() -> None:
    with pytest.raises(TransientError, match=r"mail\.invalid:25"):
        Email("mail.invalid", 25, "", "", "a@example.com", ["b@example.com"], timeout=5).send(ALERT)


def test_a_malformed_host_name_is_permanent() -> None:
    with pytest.raises(PermanentError, match="characters"):
        Email("mail..example", 25, "", "", "a@example.com", ["b@example.com"], timeout=5).send(ALERT)


def test_the_repr_shows_neither_login_nor_recipients() -> None:
    email = Email("mail.example.com", 587, "lineman", PASSWORD, "a@example.com", ["bob@example.com"])

    assert "mail.example.com" in repr(email)
    assert not any(secret in repr(email) for secret in ("'lineman'", PASSWORD, "bob"))


def test_an_error_survives_pickling_without_the_chain_that_could_hold_a_secret(serve: Serve) -> None:
    with pytest.raises(PermanentError) as caught:
        channel(serve(Mailbox({"DATA": "554 spam"}))).send(ALERT)

    copy = pickle.loads(pickle.dumps(caught.value))

    assert (str(copy), copy.status) == (str(caught.value), 554)
    assert caught.value.__suppress_context__
