"""Tiers, skips and strictness, for every test.

The tier of a test is the directory it stands in. A skip says why; with ``--strict-skips`` only a
skip whose reason begins with ``cannot:`` (this machine cannot have it) is accepted.
"""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from kernel import machine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ebpfperf.report import Report

TIERS = ("unit", "recorded", "lab", "kernel", "browser")
HERE = Path(__file__).parent
# Set by scripts/test: the file that appears when the tests that run beside these have ended.
BESIDE = os.environ.get("EBPFPERF_BESIDE")
BESIDE_S = 2400
EXCUSED = "cannot:"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--strict-skips",
        action="store_true",
        help="fail on any skip that this machine need not make",
    )


def tier_of(path: Path) -> str:
    """The tier of a test file: its first directory under tests/."""
    return path.relative_to(HERE).parts[0]


def lacking(tier: str) -> str | None:
    """Why this machine cannot run a tier, or None when it can."""
    if tier == "lab":
        if platform.system() != "Linux":
            return "cannot: the embedded cluster needs Linux"
        if os.geteuid() != 0:
            return "missing: root (network namespaces)"
        for binary, package in (
            ("sshd", "openssh-server"),
            ("ip", "iproute2"),
            ("iperf3", "iperf3"),
            ("sockperf", "sockperf"),
            ("clang", "clang"),
            ("tcpdump", "tcpdump"),
        ):
            if shutil.which(binary, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
                return f"missing: {binary} (Debian package {package})"
    if tier == "kernel":
        return machine.lacking()
    if tier == "browser" and shutil.which("chromium") is None:
        return "missing: chromium (Debian package chromium)"
    return None


@pytest.fixture(scope="session")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a campaign of made-up results. Leave it as it was."""
    # Pandas and the like are for those who ask for them.
    from synthetic import CAMPAIGN, write_store

    path = tmp_path_factory.mktemp("runs") / "synthetic"
    write_store(path, replace(CAMPAIGN, probes_off=True))
    return path


@pytest.fixture(scope="session")
def reports(campaign: Path) -> tuple[Report, ...]:
    """Every report on that campaign, in its own ``reports``: for who reads and who looks."""
    from ebpfperf import report

    return report.render_all(campaign)


def traces() -> set[str]:
    """Mounts, devices, named network namespaces and pins that this machine has."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    found = {f"mount {line.split()[4]}" for line in lines}
    for place in ("/sys/class/net", "/run/netns", "/sys/fs/bpf"):
        found |= {str(path) for path in Path(place).rglob("*")}
    return found


@pytest.fixture(scope="session", autouse=True)
def machine_as_it_was() -> Iterator[None]:
    """What tests make outside their own namespaces is gone with them."""
    if platform.system() != "Linux":
        yield
        return
    before = traces()
    yield
    assert traces() - before == set()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reasons = {tier: lacking(tier) for tier in TIERS}
    for item in items:
        if reason := reasons.get(tier_of(item.path)):
            item.add_marker(pytest.mark.skip(reason=reason))
    items.sort(key=turn)


def turn(item: pytest.Item) -> tuple[bool, int]:
    """Place in the order: tiers follow each other, those tests last that want to be alone."""
    return waits(item), TIERS.index(tier_of(item.path))


def waits(item: pytest.Item) -> bool:
    """Whether a test is to have the machine to itself."""
    tier = tier_of(item.path)
    return tier in ("lab", "browser") and item.get_closest_marker("beside") is None


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests that measure have the machine to themselves: they wait for the run beside them."""
    if BESIDE is None or not waits(item):
        return
    deadline = time.monotonic() + BESIDE_S
    while not Path(BESIDE).exists():
        if time.monotonic() > deadline:
            pytest.fail(f"the tests beside these have not ended within {BESIDE_S} s")
        time.sleep(0.5)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    outcomes: dict[str, Counter[str]] = defaultdict(Counter)
    skipped: dict[tuple[str, str], int] = Counter()
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            tier = report.nodeid.split("/")[1]
            outcomes[tier][outcome] += 1
            if outcome == "skipped" and isinstance(report.longrepr, tuple):
                skipped[tier, report.longrepr[2].removeprefix("Skipped: ")] += 1
    terminalreporter.section("tiers")
    for tier in TIERS:
        if BESIDE is not None and not outcomes[tier]:
            # Another run has it.
            continue
        counts = ", ".join(f"{count} {name}" for name, count in sorted(outcomes[tier].items()))
        terminalreporter.write_line(f"{tier:9} {counts or 'no tests ran'}")
    for (tier, reason), count in sorted(skipped.items()):
        terminalreporter.write_line(f"skipped in {tier}: {count} test(s): {reason}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    if not session.config.getoption("--strict-skips"):
        return
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    avoidable = [
        report.nodeid
        for report in (reporter.stats.get("skipped", []) if reporter else [])
        if not str(report.longrepr[2]).removeprefix("Skipped: ").startswith(EXCUSED)
    ]
    if avoidable:
        reporter.write_line(f"\n--strict: {len(avoidable)} skip(s) this machine need not make:")
        for nodeid in avoidable:
            reporter.write_line(f"  {nodeid}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
