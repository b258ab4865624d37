"""A Redis set on loopback: a primary, a replica and three sentinels over them, each with its password."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import redis

from local import child_process
from local.redis_server import _free_port, find
from tests.support import wait_until

NAME = "mymaster"
PASSWORD, QUOTED, ASKING = "p@ss/w0rd", "p%40ss%2Fw0rd", "s3ntinel-pw"
DATA = ("--save", "", "--appendonly", "yes", "--maxmemory-policy", "noeviction", "--repl-diskless-sync-delay", "0")
SENTINEL = """
sentinel monitor {name} 127.0.0.1 {primary} 2
sentinel auth-pass {name} {password}
sentinel down-after-milliseconds {name} 1000
sentinel failover-timeout {name} 3000
requirepass {asking}
sentinel sentinel-pass {asking}
"""


class SentinelSet:
    """Two data nodes, of which `nodes[0]` is the primary at first, and three sentinels."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nodes, self.sentinels = (_free_port(), _free_port()), tuple(_free_port() for _ in range(3))
        self._running: dict[int, subprocess.Popen[bytes]] = {}

    @property
    def url(self) -> str:
        """As REDIS_URL names it."""
        first, *others = (f"127.0.0.1:{port}" for port in self.sentinels)
        hosts = ";".join([f"sentinel://:{QUOTED}@{first}", *(f"sentinel://{other}" for other in others)])
        return f"{hosts}/0?master_name={NAME}&sentinel_password={ASKING}"

    def start(self) -> None:
        primary, replica = self.nodes
        login = ("--requirepass", PASSWORD, "--masterauth", PASSWORD)
        self._start(primary, *DATA, *login)
        self._start(replica, *DATA, *login, "--replicaof", "127.0.0.1", str(primary))
        for port in self.sentinels:
            config = self._folder(port) / "sentinel.conf"
            config.write_text(SENTINEL.format(name=NAME, primary=primary, password=PASSWORD, asking=ASKING))
            self._start(port, config="sentinel.conf", mode="--sentinel")
        wait_until(self._is_complete, timeout=20, what="sentinels that know each other and the replica")

    def stop(self) -> None:
        for process in self._running.values():
            process.kill()
            process.wait()

    def kill(self, node: int) -> None:
        """Ends a data node as a crash would."""
        self._running[node].kill()
        self._running[node].wait()

    def suspend(self) -> None:
        """Stops all of them in their tracks: connections stay open and nothing answers."""
        for process in self._running.values():
            process.send_signal(signal.SIGSTOP)

    def swap_by_hand(self) -> None:
        """The replica becomes the primary, as an operator does it; connections to the old one stay open."""
        primary, replica = self.nodes
        with self.client(replica) as client:
            client.replicaof("NO", "ONE")
        with self.client(primary) as client:
            client.replicaof("127.0.0.1", replica)
        for port in self.sentinels:
            with self.client(port, ASKING) as sentinel:
                sentinel.sentinel_remove(NAME)
                sentinel.sentinel_monitor(NAME, "127.0.0.1", replica, 2)
                sentinel.sentinel_set(NAME, "auth-pass", PASSWORD)

    def cut_replication(self) -> None:
        """From here on the replica gets nothing more: what the primary acknowledges is lost with it."""
        primary, replica = self.nodes
        with self.client(replica) as client:
            client.config_set("masterauth", "wrong")
        with self.client(primary) as client:
            client.client_kill_filter(_type="replica")

    def client(self, port: int, password: str = PASSWORD) -> redis.Redis:
        return redis.Redis(port=port, password=password, decode_responses=True, socket_timeout=2)

    def _start(self, port: int, *settings: str, config: str = "", mode: str = "") -> None:
        words = [find(), *filter(None, [config]), "--port", str(port), "--bind", "127.0.0.1", *settings]
        with (self._folder(port) / "redis.log").open("ab") as log:
            self._running[port] = child_process.start(
                [*words, *filter(None, [mode])],
                cwd=self._folder(port),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _folder(self, port: int) -> Path:
        folder = self.folder / str(port)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _is_complete(self) -> bool:
        try:
            with self.client(self.nodes[1]) as replica:
                linked = replica.info("replication")["master_link_status"] == "up"
            for port in self.sentinels:
                with self.client(port, ASKING) as sentinel:
                    seen = sentinel.sentinel_masters()[NAME]
                linked = linked and (seen["num-slaves"], seen["num-other-sentinels"]) == (1, 2)
        except redis.RedisError:
            return False
        return linked
