"""A RabbitMQ node of the test's own: Debian's server, with a folder, a name and ports that nobody else has."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Self

from amqp.exceptions import AMQPError
from kombu import Connection

from local import child_process
from local.redis_server import _free_port
from tests.support import wait_until

# Not the one on PATH: that is a wrapper which lets only root and the service's user in, and changes to the latter.
BINARY = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")


class RabbitMQ:
    """One node, stopped on exit."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, _free_port()
        self._names = _free_port()  # of epmd, the name server, which would otherwise outlive the node
        self._running: list[subprocess.Popen[bytes]] = []

    def url(self, port: int) -> str:
        """At `port`, its own or that of a proxy before it."""
        return f"amqp://guest:guest@127.0.0.1:{port}//"

    def __enter__(self) -> Self:
        self.folder.mkdir()
        (self.folder / "plugins").write_text("[].")
        (self.folder / "env").touch()
        self._start("epmd", "-port", str(self._names), "-address", "127.0.0.1")
        self._start(str(BINARY))
        wait_until(self._answers, timeout=60, what="RabbitMQ to answer")
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._running):
            process.terminate()
            process.wait(20)

    def _start(self, *command: str) -> None:
        env = {
            "HOME": str(self.folder),  # where the node's cookie is
            "ERL_EPMD_PORT": str(self._names),
            "RABBITMQ_NODENAME": "lineman@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(_free_port()),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "env"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "config"),
            "RUNNING_UNDER_SYSTEMD": "true",  # makes the script become the server instead of waiting for it
        }
        with (self.folder / "node.log").open("ab") as log:
            self._running.append(
                child_process.start(
                    command, env=os.environ | env, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
                )
            )

    def _answers(self) -> bool:
        try:
            with Connection(self.url(self.port), connect_timeout=2) as connection:
                connection.connect()
        except (OSError, AMQPError):
            return False
        return True
