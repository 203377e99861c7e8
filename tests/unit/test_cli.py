"""The command line without a cluster: what it prints, and its exit status."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import synthetic

from ebpfperf.cli import app

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "benchmarks" / "campaigns" / "demo.yaml"
# A site that refuses every socket: what needs none must work under it.
NO_SOCKETS = """\
import socket
def refuse(*a, **k): raise AssertionError("a socket was opened")
socket.socket = refuse
"""


def cli(
    *arguments: str, cwd: Path = ROOT, sockets: bool = True, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    code = ("" if sockets else NO_SOCKETS) + "from ebpfperf.cli import main\nmain()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=600,
        cwd=cwd,
        env={**os.environ, "NO_COLOR": "1", **(env or {})},
        check=False,
    )


def test_help_names_every_noun_and_verb() -> None:
    done = cli("--help")
    assert done.returncode == 0
    for word in ("lab", "plan", "run", "status", "report", "restore", "facts", "nodes", "compare"):
        assert word in done.stdout


def test_a_dry_run_shows_order_changes_and_time_and_opens_no_socket(tmp_path: Path) -> None:
    done = cli("run", str(DEMO), "--dry-run", cwd=tmp_path, sockets=False)
    assert done.returncode == 0, done.stderr
    assert "96 trials, about" in done.stdout
    assert "patch IPPool default-ipv4-ippool: ipipMode=Always" in done.stdout
    assert "Nothing was connected or changed" in done.stdout
    assert list(tmp_path.iterdir()) == []
    document = json.loads(cli("run", str(DEMO), "--dry-run", "--json", sockets=False).stdout)
    plan = json.loads(cli("plan", str(DEMO), "--json", sockets=False).stdout)
    assert [row["trial"] for row in document["trials"]] == [row["trial"] for row in plan]


def test_a_dry_run_shows_what_each_treatment_of_factors_sets(tmp_path: Path) -> None:
    flags = ROOT / "benchmarks/campaigns/felix-flags.yaml"
    said = cli("run", str(flags), "--dry-run", cwd=tmp_path, sockets=False).stdout
    name = "ipip-true-vxlan-false-debug"
    line = next(line for line in said.splitlines() if name in line)
    for words in ("none", "ebpf", "bpfLogLevel: Debug", "ipipEnabled: true"):
        assert words in line
    assert "ipip-false-vxlan-false-log-off (baseline)" in said
    document = json.loads(cli("run", str(flags), "--dry-run", "--json", sockets=False).stdout)
    (told,) = [row for row in document["treatments"] if row["treatment"] == name]
    assert told["felix"] == {"bpfLogLevel": "Debug", "ipipEnabled": True, "vxlanEnabled": False}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("plan", "none.yaml"), "cannot be read"),
        (("status", "nowhere"), "no campaign directory"),
        (("compare", "nowhere"), "no campaign directory"),
        (("report", "--campaign", "nowhere", "--all"), "no campaign directory"),
        (("report", "--campaign", str(ROOT / "examples/demo")), "Say which report"),
        (("report", "overlay", "--campaign", str(ROOT / "examples/demo")), "overlay-comparison"),
        (("run", str(DEMO), "--blocks", "0"), "blocks"),
        (("run", str(DEMO), "--kubeconfig", "/nonexistent/kubeconfig"), "kubeconfig"),
        (("lab", "up", "--name", "No!"), "cannot name a lab"),
        (("lab", "env", "--name", "nobody-has-this"), "No lab"),
        (("lab", "up", "--release", "v2.0"), "v2.0"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(
    tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    done = cli(*arguments, cwd=tmp_path)
    assert words in done.stderr, done.stderr
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert done.returncode == 2 or (done.returncode == 1 and "kubeconfig" in words)


def test_json_is_pure_on_stdout(tmp_path: Path) -> None:
    path = synthetic.write_store(tmp_path / "c").path
    status = json.loads(cli("status", str(path), "--json").stdout)
    assert (status["done"], status["left"], status["failed"]) == (72, 0, [])
    effects = json.loads(cli("compare", str(path), "--json").stdout)
    found = {
        (row["flow"], row["treatment"]): row
        for row in effects
        if row["metric"] == "received_bits_per_s"
    }
    # The synthetic campaign carries 0.95 and 0.80 of the baseline.
    assert found["tcp", "vxlan"]["low"] < 0.80 < found["tcp", "vxlan"]["high"]
    assert found["tcp", "vxlan"]["verdict"] == "worse"
    # What the numbers are of: nodes of one kernel have no link whose speed limits.
    assert {"limiter", "baseline_limiter"} <= found["tcp", "vxlan"].keys()
    assert found["tcp", "vxlan"]["ceiling_bits_per_s"] is None
    assert {row["limiter"] for row in effects if row["flow"] == "rr"} == {"latency-bound"}
    facts = json.loads(cli("facts", str(path), "--json").stdout)
    assert {"node", "name", "value", "unit"} == set(facts[0])


def test_compare_shows_what_limited_each_flow_and_what_to_do_about_gates(tmp_path: Path) -> None:
    said = cli("compare", str(synthetic.write_store(tmp_path / "c").path)).stdout
    assert "What limited each flow (of how many trials), and what headers leave of the link" in said
    assert "(d) latency-bound: one request is in flight at a time" in said
    # Trials of two seconds: the gate says so, and what to do.
    assert "Gate short_trial, for example: 2 s of TCP are much slow start" in said
    assert "Set a longer duration_s" in said


def test_the_shipped_campaign_reports_anywhere(tmp_path: Path) -> None:
    done = cli(
        "report", "--all", "--campaign", str(ROOT / "examples/demo"), "--out", str(tmp_path / "r")
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "r" / "index.html").is_file()
    page = (tmp_path / "r" / "overlay-comparison.html").read_text()
    assert "It is not Calico" in page


def test_parameters_are_checked_by_name_and_type(tmp_path: Path) -> None:
    campaign = str(ROOT / "examples" / "demo")
    arguments = ("report", "capacity-planning", "--campaign", campaign, "--out", str(tmp_path))
    done = cli(*arguments, "-p", "demand_gbit=3")
    assert done.returncode == 2
    assert "demand_gbit_per_s" in done.stderr
    done = cli(*arguments, "-p", "demand_gbit_per_s=much")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def texts() -> Iterator[tuple[str, str]]:
    """Where people are told what to type: strings of the sources, and the documentation."""
    for path in (ROOT / "ebpfperf").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield str(path.relative_to(ROOT)), node.value
    for path in (*(ROOT / "docs").glob("*.md"), ROOT / "README.md"):
        yield path.name, path.read_text()


def test_commands_that_people_are_told_to_type_exist() -> None:
    groups = {
        str(each.name): {
            str(one.name or one.callback.__name__)
            for one in (each.typer_instance.registered_commands if each.typer_instance else ())
            if one.callback is not None
        }
        for each in app.registered_groups
    }
    said = re.compile(rf"(?<!from )ebpfperf ({'|'.join(groups)}) ([a-z0-9]+)")
    wrong = [
        f"{place}: {match[0]}"
        for place, text in texts()
        for match in said.finditer(text)
        if match[2] not in groups[match[1]]
        # The name of the lab's own certificate.
        and match[0] != "ebpfperf lab authority"
    ]
    assert {"maps", "trace", "felix", "lab"} <= set(groups)
    assert wrong == []


@pytest.mark.parametrize("command", ["doctor", "drops", "bundle", "nodes"])
def test_an_ssh_configuration_that_is_not_there_is_bad_input(command: str) -> None:
    done = cli(command, "--ssh-config", "/none/config")
    assert done.returncode == 2
    assert "There is no SSH configuration /none/config." in done.stderr
