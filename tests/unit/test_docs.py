"""The README and the pages of docs/ match the code: commands, keys, names, links, file table, demo, snippets."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import redis
import typer
import yaml
from typer.exceptions import TyperException
from typer.testing import CliRunner

from demo import timeline
from local.redis_server import RedisServer
from resilience.alerts.incidents import Kind
from resilience.config.settings import Service, Settings, load
from tasks.cli.app import app
from tests.chaos import __main__ as chaos
from tests.support import PREFIX, ROOT

README = ROOT / "README.md"
PAGES = [README, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
PRODUCT = ("resilience", "services", "tasks", "local", "deploy")
SOURCES = (*PRODUCT, "demo", "tests", "config.yml", "celeryconfig.py", ".env.example", "docker-compose.yml", "Makefile")
ELSEWHERE = {"dedup_key", "master_name", "broker_transport_options"}  # names of PagerDuty's and kombu's

pytestmark = pytest.mark.usefixtures("shipped_environment")


@pytest.fixture
def shipped_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in variables(".env.example"):
        monkeypatch.delenv(name, raising=False)


def tracked(*paths: str) -> list[str]:
    listed = subprocess.run(["git", "ls-files", "--", *paths], cwd=ROOT, capture_output=True, text=True, check=True)
    return [path for path in listed.stdout.splitlines() if (ROOT / path).exists()]


def variables(*files: str) -> set[str]:
    """The environment variables that these files name."""
    text = "\n".join((ROOT / file).read_text() for file in files)
    named = set(re.findall(r"^([A-Z_]+)=", text, re.MULTILINE)) | set(re.findall(r"\$\{([A-Z_]+)", text))
    return named - {"NAME"}  # of the explanation in config.yml


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def marked(page: Path) -> set[str]:
    """What the page's prose has in code marks."""
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return set(re.findall(r"`([^`\n]+)`", prose))


def commands(page: Path, start: str) -> list[list[str]]:
    """The command lines, in shell blocks and in code marks, as words behind `start`."""
    shell = "\n".join(blocks(page, "sh"))
    lines = [*re.sub(r"\\\n", " ", shell).splitlines(), *marked(page)]
    found = (re.search(rf"(?:^|\s|;){re.escape(start)}\s+([^#;|]+)", line) for line in lines)
    return [re.findall(r'"[^"]*"|\S+', match[1]) for match in found if match]


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= 130


def test_the_readme_links_each_page_once() -> None:
    links = re.findall(r"\]\((docs/[\w-]+\.md)", README.read_text())

    assert sorted(links) == sorted(str(page.relative_to(ROOT)) for page in PAGES if page.parent == ROOT / "docs")


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE) if anchor and file.exists() else []
        if "://" not in target and not (file.exists() and (not anchor or anchor in map(slug, headings))):
            broken.append(target)

    assert broken == []


def parsed(words: list[str]) -> None:
    """Parses a command line of `python -m tasks` as the real one does, without running it. Raises TyperException."""
    command: Any = typer.main.get_command(app)
    path = []
    while words and words[0] in getattr(command, "commands", {}):
        command, path, words = command.commands[words[0]], [*path, words[0]], words[1:]
    assert CliRunner().invoke(app, [*path, "--help"]).exit_code == 0
    if hasattr(command, "commands"):
        assert words in ([], ["--help"]), f"{' '.join(path)} has no command {words[0]}"
    elif words not in ([], ["--help"]):  # prose may name a command without its arguments
        command.make_context(command.name, [word.strip('"') for word in words])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_the_command_line_parses(page: Path) -> None:
    wrong = {}
    for words in commands(page, "python -m tasks"):
        try:
            parsed(words)
        except (TyperException, AssertionError) as exc:
            wrong[" ".join(words)] = str(getattr(exc, "message", exc))

    assert wrong == {}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_make_target_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

    assert {words[0] for words in commands(page, "make")} <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_celery_process_is_one_of_the_procfile(page: Path) -> None:
    known = (ROOT / "Procfile").read_text()

    wrong = [
        line for line in map(" ".join, commands(page, "celery -A tasks")) if f"celery -A tasks {line}" not in known
    ]

    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_campaign_of_faults_parses(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for words in commands(page, "python -m tests.chaos"):
        monkeypatch.setattr(sys, "argv", ["chaos", *words])
        chaos.arguments()


def keys(model: Any) -> dict[str, Any]:
    """The configuration's keys, nested."""
    if hasattr(model, "model_fields"):
        return {name: keys(field.annotation) for name, field in model.model_fields.items()}
    inner = [keys(part) for part in getattr(model, "__args__", ())]
    return {name: value for each in inner for name, value in each.items()}


def paths(tree: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[str]:
    for name, below in tree.items():
        yield ".".join((*above, name))
        yield from paths(below, (*above, name))


def module(name: str) -> str:
    return f"resilience/{name.replace('.', '/')}.py"


def test_every_key_of_the_configuration_that_is_named_exists() -> None:
    tree = keys(Settings) | {"services": dict.fromkeys(("elevenlabs", "crm"), keys(Service))}
    known = set(paths(tree))
    sections = {part for path in known for part in path.split(".")}
    wrong = {}
    for page in PAGES:
        dotted = {name for name in marked(page) if re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", name)}
        files = {name for name in dotted if name.endswith(".lua") or (ROOT / module(name)).exists()}
        ours = {name for name in dotted - files if name.split(".")[0] in sections}
        unknown = {name for name in ours if not any(f".{path}".endswith(f".{name}") for path in known)}
        if unknown:
            wrong[page.name] = unknown

    assert wrong == {}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_piece_of_configuration_can_be_used(page: Path, tmp_path: Path) -> None:
    shipped = yaml.safe_load((ROOT / "config.yml").read_text())

    for number, block in enumerate(blocks(page, "yaml")):
        file = tmp_path / f"{number}.yml"
        file.write_text(yaml.safe_dump(merged(shipped, yaml.safe_load(block))))
        load(str(file), {})


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`base` with the leaves of `over` in it."""
    deep = {k: merged(base[k], v) for k, v in over.items() if isinstance(v, dict) and isinstance(base.get(k), dict)}
    return base | over | deep


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_environment_variable_that_is_named_exists(page: Path) -> None:
    named = {name for text in marked(page) for name in re.findall(r"\b[A-Z]+_[A-Z_]+\b", text)}

    assert named <= variables(".env.example", "config.yml", "docker-compose.yml") | {"REMAP_SIGTERM"}


def test_the_variables_are_the_same_in_the_example_the_configuration_and_its_page() -> None:
    example = variables(".env.example")
    page = (ROOT / "docs/configuration.md").read_text()

    assert variables("config.yml") <= example
    assert {name for name in example if f"`{name}`" not in page} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_name_and_file_that_is_marked_as_code_exists(page: Path) -> None:
    files = tracked()
    others = [path for path in tracked(*SOURCES) if Path(path) != Path(__file__).relative_to(ROOT)]
    sources = "\n".join((ROOT / path).read_text(errors="replace") for path in others)
    names, wrong = {*re.findall(r"\w+", sources), *ELSEWHERE}, []
    for text in marked(page):
        if re.fullmatch(r"[\w./-]+\.(py|lua|yml|j2|md)", text):
            wrong += [text] if not any(f"/{file}".endswith(f"/{text}") for file in files) else []
        elif re.fullmatch(r"[a-z]+(_[a-z]+)+", text) and page.name != "CHANGELOG.md":
            wrong += [text] if text not in names else []

    assert wrong == []


def test_the_table_of_files_is_the_tree() -> None:
    rows = re.findall(r"^\| `([^`]+)` \| .+ \|$", (ROOT / "docs/architecture.md").read_text(), re.MULTILINE)
    listed = [row for row in rows if row.split("/")[0] in PRODUCT]
    files = {path for path in tracked(*PRODUCT) if not path.endswith("__init__.py")}
    folders = {f"{folder}/" for path in tracked(*PRODUCT) for folder in map(str, Path(path).parents) if folder != "."}

    add = sorted((files | folders) - set(listed))
    remove = sorted(set(listed) - files - folders) + sorted({row for row in listed if listed.count(row) > 1})

    wanted = ["docs/architecture.md, the table of folders and files:"]
    wanted += [f"  add    | `{row}` | what it is |" for row in add] + [f"  remove | `{row}` |" for row in remove]
    assert not add, "\n".join(wanted)
    assert not remove, "\n".join(wanted)


def test_each_kind_of_alert_has_an_entry() -> None:
    headings = re.findall(r"^### (\w+)$", (ROOT / "docs/operations.md").read_text(), re.MULTILINE)

    assert sorted(headings) == sorted(kind.value for kind in Kind)


def shown() -> list[str]:
    """The lines of the demo's output, without the verdict's table."""
    page = (ROOT / "docs/demo.md").read_text()
    printed = re.search(r"^\$ make demo\n(.*?)^5\. Verdict", page, re.DOTALL | re.MULTILINE)
    assert printed
    return [line for line in printed[1].splitlines() if line]


def as_pattern(node: ast.expr) -> str:
    """A pattern of what an expression may give: its text, and anything where it has a value."""
    if isinstance(node, ast.Constant):
        return re.escape(str(node.value))
    if isinstance(node, ast.JoinedStr):
        return "".join(as_pattern(part) for part in node.values)
    if isinstance(node, ast.BinOp):
        return as_pattern(node.left) + as_pattern(node.right)
    return ".*"


def sentences() -> tuple[list[str], list[tuple[str, str]]]:
    """Patterns from the demo's code: of its scenes, and of (what happened, what comes next) on a line."""
    calls = [
        node
        for file in ("demo/scenario.py", "demo/world.py")
        for node in ast.walk(ast.parse((ROOT / file).read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    ]
    scenes = [as_pattern(call.args[0]) for call in calls if call.func.attr == "step"]  # type: ignore[attr-defined]
    lines = [call.args for call in calls if call.func.attr == "line"]  # type: ignore[attr-defined]
    written = [(as_pattern(args[0]), as_pattern(args[2])) for args in lines]
    fields = re.compile(r"\\\{\w+\\\}")
    events = [tuple(fields.sub(".*", re.escape(text)) for text in texts) for _, *texts in timeline.WORDS.values()]
    return scenes, [*written, *((what, follows) for what, follows in events)]


def test_the_demo_s_page_shows_the_output_of_today() -> None:
    scenes, lines = sentences()
    unknown, unused = [], {*scenes}
    for text in shown():
        columns = re.fullmatch(r" *\d+\.\d s  (.{1,32})(?: (.{1,16}))?(?: (.*))?", text)
        if columns:
            what, follows = columns[1].strip(), (columns[3] or "").strip()
            fits = any(re.fullmatch(a, what) and re.fullmatch(b, follows) for a, b in lines)
        else:
            fits = any(re.fullmatch(scene, text) for scene in scenes)
            unused -= {scene for scene in scenes if re.fullmatch(scene, text)}
        unknown += [] if fits else [text]

    assert unknown == [], "run `make demo` again, and put its output into docs/demo.md and the README"
    assert unused == set(), "docs/demo.md lacks a scene: run `make demo` again"


def test_the_readme_s_part_of_the_demo_is_from_its_page() -> None:
    whole = (ROOT / "docs/demo.md").read_text().splitlines()
    (part,) = re.findall(r"^(\$ make demo\n.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)

    assert [line for line in part.splitlines() if line not in whole and line.strip() != "..."] == []


SNIPPETS = {f"{page.name}-{n}": code for page in PAGES for n, code in enumerate(blocks(page, "python"))}


@pytest.mark.parametrize("code", SNIPPETS.values(), ids=SNIPPETS)
def test_a_snippet_of_python_enqueues_its_contact(
    code: str, redis_server: RedisServer, real_redis: redis.Redis, tmp_path: Path
) -> None:
    code = code.replace("redis://127.0.0.1:6379/0", redis_server.url)

    environment = os.environ | {"REDIS_URL": redis_server.url, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True, timeout=60)

    if "send_task" in code:
        (message,) = real_redis.lrange("calls", 0, -1)
        assert "tasks.calls.place_call" in message
    else:
        assert real_redis.hget(f"{PREFIX}:call:spring:17", "state") == "queued"
        real_redis.flushall()


def test_the_list_of_contacts_is_enqueued_as_its_page_says(
    redis_server: RedisServer, real_redis: redis.Redis, tmp_path: Path
) -> None:
    page = ROOT / "docs/enqueue.md"
    (rows,) = blocks(page, "csv")
    (tmp_path / "contacts.csv").write_text(rows)
    (words,) = (words for words in commands(page, "python -m tasks") if "contacts.csv" in words)

    done = subprocess.run(
        [sys.executable, "-m", "tasks", *words],
        cwd=tmp_path,
        env=os.environ | {"REDIS_URL": redis_server.url, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )

    assert "`enqueued 2 new, 0 known already, 0 refused`" in page.read_text()
    assert done.stdout.startswith("enqueued 2 new, 0 known already, 0 refused")
    assert real_redis.hget(f"{PREFIX}:call:spring:17", "state") == "queued"
    real_redis.flushall()
