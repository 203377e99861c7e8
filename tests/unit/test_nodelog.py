"""The calico-node log in the wordings of several releases."""

from __future__ import annotations

from datetime import datetime

import pytest

from ebpfperf.calico.nodelog import LoggedDataplane, felix_state, parse

UNSUPPORTED = "BPF dataplane mode enabled but not supported by the kernel.  Disabling BPF mode."
START = "BPF enabled, starting BPF endpoint manager and map manager."


def line(pid: int, message: str, *, level: str = "INFO", component: str = "felix/") -> str:
    return f"2026-11-25 07:32:21.123 [{level}][{pid}] {component}daemon.go 337: {message}"


def test_a_line_in_parts() -> None:
    (got,) = parse(line(71, 'Config change requires restart key="VXLANEnabled"', level="WARNING"))
    assert got.time == datetime(2026, 11, 25, 7, 32, 21, 123000)
    assert (got.level, got.pid, got.component, got.file, got.line) == (
        "WARNING",
        71,
        "felix",
        "daemon.go",
        337,
    )
    assert got.message.startswith("Config change")


def test_other_lines_are_left_out() -> None:
    text = "\n".join(
        [
            "bird: device1: Initializing",
            "",
            "goroutine 1 [running]:",
            line(9, "x", component=""),
            line(8, "y", component="monitor-addresses/"),
            "not [INFO][1] a line",
        ]
    )
    assert [(got.pid, got.component) for got in parse(text)] == [(9, ""), (8, "monitor-addresses")]


def test_other_processes_do_not_count_as_felix() -> None:
    text = "\n".join([line(10, "a"), line(99, "b", component="confd/")])
    assert felix_state(parse(text)).pid == 10
    assert felix_state(parse("")).pid is None


@pytest.mark.parametrize(
    "message",
    [
        "Config change requires restart key=VXLANEnabled new=true old=false",
        "Configuration value changed; change DOES require Felix to restart. name=VXLANMTU",
        "IPIP and/or VXLAN encapsulation changed, need to restart.",
        "IPIP, VXLAN and/or noencap encapsulation changed, need to restart.",
        "Exiting for config change",
        "Exiting for encapsulation change",
    ],
)
def test_a_process_that_announced_its_restart_is_leaving(message: str) -> None:
    assert felix_state(parse(line(10, message))).leaving == message
    after = felix_state(parse(line(10, message) + "\n" + line(11, "Felix starting up")))
    assert (after.pid, after.leaving) == (11, "")


def test_a_change_that_needs_no_restart_is_no_leaving() -> None:
    text = "Configuration value changed; change does NOT require Felix to restart."
    assert felix_state(parse(line(10, text))).leaving == ""


@pytest.mark.parametrize(
    "message", [UNSUPPORTED, UNSUPPORTED.replace("dataplane", "data plane").replace("  ", " ")]
)
def test_the_newest_process_alone_tells_the_dataplane(message: str) -> None:
    both = line(10, START) + "\n" + line(11, message, level="ERROR")
    assert felix_state(parse(both)).dataplane is LoggedDataplane.UNSUPPORTED
    back = both + "\n" + line(12, "starting")
    assert felix_state(parse(back)).dataplane is LoggedDataplane.UNSAID
    assert felix_state(parse(back + "\n" + line(12, START))).dataplane is LoggedDataplane.EBPF
