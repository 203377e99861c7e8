"""What felix show reads off a lab: objects, a node's own resource, a process's environment."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab.namespaces import eventually
from typer.testing import CliRunner

from ebpfperf.cli import app
from ebpfperf.kube import Kube
from ebpfperf.lab.running import Lab
from ebpfperf.mutations import Mutation

pytestmark = pytest.mark.lab

KIND = "FelixConfiguration"


def shown(lab: Lab, *arguments: str) -> dict[str, Any]:
    place = ["--kubeconfig", str(lab.kubeconfig), "--ssh-config", str(lab.ssh_config)]
    done = CliRunner().invoke(app, ["felix", "show", "--json", *place, *arguments])
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def by_node(found: dict[str, Any]) -> dict[str, tuple[Any, str]]:
    return {value["node"]: (value["value"], value["origin"]) for value in found["values"]}


@pytest.fixture
def own_level(lab: Lab) -> Iterator[None]:
    """Node-1's own resource with bpfLogLevel Info."""
    body = {"metadata": {"name": "node.node-1"}, "spec": {"bpfLogLevel": "Info"}}
    with contextlib.closing(Kube.connect(str(lab.kubeconfig))) as kube:
        kube.apply(Mutation("create", KIND, "node.node-1", body=body))
        yield
        kube.apply(Mutation("delete", KIND, "node.node-1"))


def test_pools_decide_on_unset_flags_and_every_field_is_there(lab: Lab) -> None:
    found = shown(lab, "--node", "node-2")
    values = {value["field"]: value for value in found["values"]}
    assert found["release"] == "v3.26.1"
    assert {value["node"] for value in found["values"]} == {"node-2"}
    derived = {name: values[name] for name in ("ipipEnabled", "vxlanEnabled")}
    assert {value["origin"] for value in derived.values()} == {"derived"}
    assert "IP pools: " in derived["ipipEnabled"]["where"]
    assert values["bpfDataIfacePattern"]["origin"] == "release's default"
    assert "bpfAttachType" not in values


@pytest.mark.usefixtures("own_level")
def test_a_nodes_own_resource_and_a_processs_environment_win(lab: Lab, tmp_path: Path) -> None:
    """The kernel calls a process by its script's name; a node's Felix shares the node's network."""
    assert by_node(shown(lab, "--field", "FELIX_BPFLOGLEVEL")) == {
        "node-1": ("Info", "node's resource"),
        "node-2": ("Off", "release's default"),
    }
    script = tmp_path / "calico-node"
    script.write_text("#!/bin/sh\nread over\n")
    script.chmod(0o755)
    env = {**os.environ, "FELIX_BPFLOGLEVEL": "DEBUG", "FELIX_IPIPENABLED": "true"}
    inside = ["nsenter", "-t", str(lab.nodes[0].holder_pid), "-n", str(script), "-felix"]
    with subprocess.Popen(inside, stdin=subprocess.PIPE, env=env) as process:
        comm = Path(f"/proc/{process.pid}/comm")
        eventually("the script's name", lambda: comm.read_text().strip() == "calico-node")
        found = shown(lab, "--field", "bpfLogLevel")
        process.communicate(b"\n", timeout=10)
    assert by_node(found) == {
        "node-1": ("Debug", "environment"),
        "node-2": ("Off", "release's default"),
    }
    own = found["values"][0]["shadowed"]
    assert [(given["where"], given["value"]) for given in own] == [
        ("FelixConfiguration node.node-1", "Info")
    ]
    assert any("FELIX_IPIPENABLED" in said for said in found["remarks"])


def test_an_unknown_node_is_refused_with_the_nearest(lab: Lab) -> None:
    place = ["--kubeconfig", str(lab.kubeconfig), "--ssh-config", str(lab.ssh_config)]
    for command in (["felix", "show"], ["drops"]):
        done = CliRunner().invoke(app, [*command, *place, "--node", "node-11"])
        assert "Did you mean node-1?" in str(done.exception)
        assert getattr(done.exception, "exit_status", None) == 2


def test_a_cluster_without_ebpf_has_no_drops_to_count(lab: Lab) -> None:
    place = ["--kubeconfig", str(lab.kubeconfig), "--ssh-config", str(lab.ssh_config)]

    def refused() -> BaseException | None:
        """Once the programs of whoever was here before are gone."""
        error = CliRunner().invoke(app, ["drops", *place, "--for", "0.1s"]).exception
        return error if "No BPF program of Calico's" in str(error) else None

    assert getattr(eventually("no programs", refused), "exit_status", None) == 2
