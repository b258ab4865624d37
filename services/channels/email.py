"""Alerts by mail: one message, in text and HTML, to all recipients, in one SMTP transaction.

A failure is either transient (4xx, connection, DNS, timeout) or permanent (5xx, certificate, configuration). When
the connection breaks after DATA nobody knows whether the mail went out: the alert is sent again under the same
Message-ID, so that the second copy can be recognised. A recipient refused among others accepted is logged and not
raised: repeating the alert would mail the others twice. Credentials only travel encrypted, or on loopback.
"""

from __future__ import annotations

import base64
import email.policy
import logging
import re
import smtplib
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import formatdate, parseaddr
from hashlib import sha256
from ipaddress import ip_address
from typing import Literal

from resilience.alerts.message import Message
from resilience.errors import PermanentError, Sent, ServiceError, TransientError
from resilience.logger import log
from resilience.redact import mask_address, quoted

_SUBMISSION_PORT = 587
_BROKEN = (smtplib.SMTPServerDisconnected, ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
_REFUSED: dict[type[smtplib.SMTPException], str] = {
    smtplib.SMTPAuthenticationError: "the login",
    smtplib.SMTPSenderRefused: "the sender",
    smtplib.SMTPRecipientsRefused: "every recipient",
    smtplib.SMTPDataError: "the message",
}
_HINTS = {
    -1: "; this does not look like a mail server: check SMTP_HOST, SMTP_PORT and security",
    530: "; if it asks for a login, set SMTP_USER and SMTP_PASS, and security: starttls or tls",
    534: "; it may ask for an app password instead of the account's own",
    535: "; check SMTP_USER and SMTP_PASS",
}


@dataclass(frozen=True)
class Email:
    """The mail channel.

    `security`: tls (encrypted from the start), starttls (refuses to go on without), plain, or auto: tls on port 465,
    starttls on 587, elsewhere STARTTLS if the server offers it, but for a relay on this machine that asks for no login.
    `timeout` in seconds, for each step of the dialogue.
    `cafile`: PEM file with the only CAs to trust, in place of the system's.
    """

    host: str
    port: int
    user: str = field(repr=False)
    password: str = field(repr=False)
    sender: str
    recipients: Sequence[str] = field(repr=False)
    security: Literal["auto", "tls", "starttls", "plain"] = "auto"
    timeout: float = 10
    cafile: str | None = None

    def send(self, message: Message) -> None:
        """Mail the alert. Raises TransientError or PermanentError."""
        try:
            mail = self._mail(message)
            with self._session() as smtp:
                refused = smtp.send_message(mail, to_addrs=self._addresses())
        except (OSError, ValueError) as exc:  # smtplib's own exceptions are OSErrors
            raise self._classified(exc) from None  # the chain could show a password the server echoed
        for address, (code, reply) in refused.items():
            log(
                "recipient_refused",
                level=logging.WARNING,
                service="email",
                alert_id=message.id,
                recipient=mask_address(address),
                status=code,
                reply=self._shown(reply),
            )

    def _addresses(self) -> list[str]:
        return [address for _, address in map(parseaddr, self.recipients) if address]

    def _mail(self, message: Message) -> EmailMessage:
        mail = EmailMessage(policy=email.policy.SMTP)
        mail["From"], mail["To"] = self.sender, ", ".join(self.recipients)
        mail["Subject"] = _one_line(message.subject)
        mail["Date"] = formatdate()
        mail["Message-ID"] = self._id(message.id)
        # Both name a mail that was never sent: whichever of a thread arrives first, the others join it.
        mail["In-Reply-To"] = mail["References"] = self._id(_thread(message))
        mail["Auto-Submitted"] = "auto-generated"
        # 8bit would need a server with 8BITMIME, which smtplib does not ask for.
        mail.set_content(_encodable(message.text), cte="quoted-printable")
        if message.html:
            mail.add_alternative(_encodable(message.html), subtype="html", cte="quoted-printable")
        return mail

    def _id(self, name: str) -> str:
        domain = parseaddr(self.sender)[1].rpartition("@")[2] or "localhost"
        return f"<{sha256(name.encode()).hexdigest()[:32]}@{domain}>"

    @contextmanager
    def _session(self) -> Iterator[smtplib.SMTP]:
        smtp = self._connected()
        try:
            self._encrypt(smtp)
            if self.user:
                self._refuse_to_leak(smtp)
                self._log_in(smtp)
            yield smtp
            # A failed goodbye must not have an accepted mail sent again; smtplib's own `with` would raise a 421.
            with suppress(OSError):
                smtp.quit()
        finally:
            smtp.close()

    def _connected(self) -> smtplib.SMTP:
        if self.security == "tls" or (self.security == "auto" and self.port == smtplib.SMTP_SSL_PORT):
            return smtplib.SMTP_SSL(self.host, self.port, timeout=self.timeout, context=self._tls())
        return smtplib.SMTP(self.host, self.port, timeout=self.timeout)

    def _encrypt(self, smtp: smtplib.SMTP) -> None:
        smtp.ehlo_or_helo_if_needed()
        if self.security == "plain" or isinstance(smtp, smtplib.SMTP_SSL):
            return
        # Between us and a relay on this machine there is no network, and its certificate is signed by nobody.
        offered = smtp.has_extn("starttls") and (self.user or self.cafile or not _is_local(smtp))
        if self.security == "starttls" or self.port == _SUBMISSION_PORT or offered:
            smtp.starttls(context=self._tls())

    def _tls(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=self.cafile)
        except OSError as exc:
            raise self._permanent(f"cannot read the CA file {self.cafile} ({exc.strerror or exc})") from exc

    def _refuse_to_leak(self, smtp: smtplib.SMTP) -> None:
        if isinstance(smtp.sock, ssl.SSLSocket) or _is_local(smtp):
            return
        raise self._permanent(
            "the connection is not encrypted, so SMTP_USER and SMTP_PASS were not sent; use port 587 or 465, "
            "set security: starttls or tls, or unset SMTP_USER"
        )

    def _log_in(self, smtp: smtplib.SMTP) -> None:
        smtp.ehlo_or_helo_if_needed()
        if "PLAIN" not in smtp.esmtp_features.get("auth", "").split():
            smtp.login(self.user, self.password)
            return
        # login() repeats a refused password by every other mechanism: it is locked out sooner, and a server that
        # hangs up on the repetition makes a wrong password look like a broken connection.
        smtp.user, smtp.password = self.user, self.password
        smtp.auth("PLAIN", smtp.auth_plain)

    def _classified(self, exc: OSError | ValueError) -> ServiceError:
        if isinstance(exc, smtplib.SMTPRecipientsRefused):
            answers = sorted(exc.recipients.values(), key=lambda answer: not _passes(answer[0]))
            return self._refusal(exc, *(answers or [(0, b"no recipient is configured")])[0])
        if isinstance(exc, smtplib.SMTPResponseException):
            return self._refusal(exc, exc.smtp_code, exc.smtp_error)
        named = isinstance(exc, (ValueError, ssl.SSLError, smtplib.SMTPException))
        if named and not isinstance(exc, _BROKEN):
            return self._permanent(self._cause(exc))
        text = f"{self._place} did not answer or broke off: {self._shown(getattr(exc, 'strerror', '') or str(exc))}"
        return TransientError(text, service="email", sent=Sent.UNKNOWN)

    def _refusal(self, exc: smtplib.SMTPException, code: int, reply: bytes | str) -> ServiceError:
        kind = TransientError if _passes(code) else PermanentError
        what = _REFUSED.get(type(exc), "the session")
        text = f"{self._place} refused {what}: {code} {self._shown(reply)}{_HINTS.get(code, '')}"
        return kind(text, service="email", status=code, sent=Sent.NO, alive=True)

    def _cause(self, exc: OSError | ValueError) -> str:
        match exc:
            case ssl.SSLCertVerificationError():
                fix = (
                    "check SMTP_HOST, name its CA in SSL_CERT_FILE, or set security: plain for a relay on this machine"
                )
                return f"certificate not accepted: {exc.verify_message}; {fix}"
            case ssl.SSLError():
                return f"no TLS: {exc.reason}; check that SMTP_PORT and security belong together"
            case smtplib.SMTPException():
                return f"{self._shown(str(exc))} Check that SMTP_PORT, SMTP_USER and security suit this server"
        # Raised for text that cannot be encoded; its own message may hold the password.
        return "the host, SMTP_USER, SMTP_PASS or an address has characters that cannot be sent"

    def _permanent(self, what: str) -> PermanentError:
        return PermanentError(f"{self._place}: {what}", service="email", sent=Sent.NO)

    @property
    def _place(self) -> str:
        return f"mail server {self.host}:{self.port}"

    def _shown(self, reply: bytes | str) -> str:
        # Servers echo commands they do not know, and a login is one line of base64.
        text = reply.decode("utf-8", "replace") if isinstance(reply, bytes) else reply
        plain = (f"\0{self.user}\0{self.password}", self.password) if self.password else ()
        for address in self._addresses():
            text = text.replace(address, mask_address(address))
        return quoted(text, [*plain, *(base64.b64encode(each.encode()).decode() for each in plain)])


def _thread(message: Message) -> str:
    """What the mails of one outage have in common; of what has no beginning, the mails of a day."""
    return f"{message.key} {message.data.get('since') or datetime.now(UTC).date()}"


def _passes(code: int) -> bool:
    return code in range(400, 500)


def _is_local(smtp: smtplib.SMTP) -> bool:
    return smtp.sock is not None and ip_address(smtp.sock.getpeername()[0]).is_loopback


def _one_line(text: str) -> str:
    # EmailMessage decodes encoded words in a header's value, and a newline in one becomes a new header line.
    return re.sub(r"[\s\x00-\x1f\x7f]+", " ", _encodable(text)).replace("=?", "= ?").strip()


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
