"""Workers of the plain Celery app on a Redis of their own, and what that Redis holds."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import redis
from celery import Celery

from demo.processes import ROOT
from local import child_process
from local.redis_server import RedisServer
from tests.support import wait_until


def held(client: redis.Redis, *names: str) -> int:
    """How many messages with one of these names the broker holds: waiting, or delivered and unacknowledged."""
    texts = [text for queue in ("celery", "calls") for text in client.lrange(queue, 0, -1)]
    texts += [json.dumps(json.loads(text)[0]) for text in client.hvals("unacked")]
    bodies = [base64.b64decode(json.loads(text)["body"]).decode() for text in texts]
    return sum(f'"{name}"' in body for body in bodies for name in names)


def waits_for_messages(client: redis.Redis) -> bool:
    """Whether a worker waits in a blocking pop."""
    return any(each["cmd"] == "brpop" and "b" in each["flags"] for each in client.client_list())


def blip(client: redis.Redis) -> None:
    """Cuts every connection; Redis itself stays up."""
    client.client_kill_filter(_type="normal", skipme=True)


class Plain:
    """Workers of tests/chaos/plain_app.py. `conf`: Celery settings."""

    def __init__(self, folder: Path, **conf: Any) -> None:
        self.folder, self.notes_file = folder, folder / "notes"
        self.server = RedisServer(folder / "redis", appendonly=True, appendfsync="always").start()
        if conf.get("result_backend"):
            conf["result_backend"] = self.server.url
        self.env = os.environ | {
            "REDIS_URL": self.server.url,
            "NOTES": str(self.notes_file),
            "PYTHONPATH": str(ROOT),
            "CONF": json.dumps(conf),
        }
        self.redis = redis.Redis.from_url(self.server.url, decode_responses=True)
        self.app = Celery(broker=self.server.url, set_as_current=False)
        self.workers: list[subprocess.Popen[bytes]] = []

    def start(self, processes: int = 1) -> subprocess.Popen[bytes]:
        """Starts one more worker and waits until it takes messages."""
        name = f"w{len(self.workers)}"
        with (self.folder / name).open("wb") as log:
            worker = child_process.start(
                [
                    sys.executable,
                    "-m",
                    "celery",
                    "-A",
                    "tests.chaos.plain_app",
                    "worker",
                    "-c",
                    str(processes),
                    "-n",
                    f"{name}@plain",
                    "-l",
                    "INFO",
                ],
                cwd=self.folder,
                env=self.env,
                stdout=log,
                stderr=log,
            )
        self.workers.append(worker)
        wait_until(lambda: "ready." in self.log(name), 30, "the plain worker")
        return worker

    def log(self, name: str = "w0") -> str:
        return (self.folder / name).read_text(errors="replace")

    def send(self, task: str, *args: Any, **options: Any) -> None:
        self.app.send_task(f"tests.chaos.plain_app.{task}", args=args, **options)

    def notes(self, word: str, contact: str) -> list[int]:
        """The process ids of the workers that noted `word` for the contact."""
        lines = self.notes_file.read_text().splitlines() if self.notes_file.exists() else []
        return [int(pid) for w, c, pid in map(str.split, lines) if (w, c) == (word, contact)]

    def kill(self, worker: subprocess.Popen[bytes]) -> None:
        """Sends SIGKILL to the worker and the processes that it forked."""
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()

    def close(self) -> None:
        for worker in self.workers:
            if worker.poll() is None:
                self.kill(worker)
        self.app.close()
        self.redis.close()
        self.server.kill()
