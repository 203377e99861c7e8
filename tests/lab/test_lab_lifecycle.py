"""Up, down and all the states between: whatever is there, ``up`` gives a lab, ``down`` nothing."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lab.traces import host_links, host_places, nothing_left, take, wait_for
from typer.testing import CliRunner

from ebpfperf.errors import LabError
from ebpfperf.lab import cgroups, lifecycle, machine, nodes, processes, running, state, underlay
from ebpfperf.lab.cli import app
from ebpfperf.lab.faults.place import Place
from ebpfperf.lab.nodes import LabNode
from ebpfperf.lab.running import Lab
from ebpfperf.lab.state import Shape

pytestmark = [pytest.mark.lab, pytest.mark.beside]

UP = "import sys; from ebpfperf.lab import lifecycle, state\n" + (
    "lab, fresh = lifecycle.up(state.Shape(sys.argv[1])); print(lab.daemon_pid, fresh)"
)


def ssh(lab: Lab, node: str, command: str) -> str:
    done = subprocess.run(
        ["ssh", "-F", str(lab.ssh_config), node, command],
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
    )
    return done.stdout.strip()


def patch_pool(lab: Lab, spec: dict[str, object]) -> None:
    request = urllib.request.Request(
        f"{lab.api.url}/apis/crd.projectcalico.org/v1/ippools/default-ipv4-ippool",
        json.dumps({"spec": spec}).encode(),
        {
            "Authorization": f"Bearer {lab.api.token}",
            "Content-Type": "application/merge-patch+json",
        },
        method="PATCH",
    )
    context = ssl.create_default_context(cadata=lab.api.authority)
    with urllib.request.urlopen(request, timeout=10, context=context) as answer:
        assert answer.status == 200


def encapsulations(lab: Lab) -> set[str]:
    document = json.loads(CliRunner().invoke(app, ["status", "--name", lab.name, "--json"]).stdout)
    return {row["encapsulation"] for row in document["nodes"]}


def test_up_twice_is_one_lab(lab: Lab) -> None:
    again, fresh = lifecycle.up(lab.shape)
    assert not fresh
    assert again == lab
    # What the daemon starts looks like it for a moment, until it executes a program.
    wait_for(lambda: _daemons(lab.name) == {lab.daemon_pid})


def _daemons(name: str) -> set[int]:
    found = set()
    for pid in processes.of_lab(name):
        with contextlib.suppress(OSError):
            if b"ebpfperf.lab.daemon" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.add(pid)
    return found


def test_another_shape_is_refused_and_the_lab_unharmed(lab: Lab) -> None:
    with pytest.raises(LabError, match="mtu_bytes 1500 and not 9000") as caught:
        lifecycle.up(Shape(lab.name, mtu_bytes=9000))
    assert "lab down" in caught.value.remedy
    assert running.find(lab.name) == lab


def test_after_down_nothing_is_left(lab_name: Callable[[str], str]) -> None:
    links, places = host_links(), host_places()
    lab, _ = lifecycle.up(Shape(lab_name("gone")))
    # A tunnel, programs, a pod's worth of everything; and what a user leaves running.
    patch_pool(lab, {"ipipMode": "Always"})
    ssh(lab, "node-1", "setsid sleep 600 >/dev/null 2>&1 & echo started")
    ssh(lab, "node-2", "trap '' TERM; (trap '' TERM; setsid sleep 601) >/dev/null 2>&1 & echo")
    wait_for(lambda: encapsulations(lab) == {"ipip"}, timeout_s=30)
    traces = take(lab)
    document = json.loads(CliRunner().invoke(app, ["status", "--name", lab.name, "--json"]).stdout)
    if document["nodes"][0]["ipip_driver"] != "kernel":
        assert len(traces.programs) >= 4
    assert len(traces.namespaces) >= 4 * len(lab.nodes)
    assert lifecycle.down(lab.name)
    nothing_left(traces)
    assert host_links() <= links
    assert host_places() <= places
    assert not lifecycle.down(lab.name)


def test_a_killed_daemon_is_replaced(lab_name: Callable[[str], str]) -> None:
    lab, _ = lifecycle.up(Shape(lab_name("kill")))
    traces = take(lab)
    os.kill(lab.daemon_pid, signal.SIGKILL)
    wait_for(lambda: running.find(lab.name) is None)
    again, fresh = lifecycle.up(lab.shape)
    assert fresh
    assert not {pid for pid in traces.pids if processes.alive(pid)}
    assert ssh(again, "node-2", "hostname") == "node-2"
    traces = take(again)
    os.kill(again.daemon_pid, signal.SIGKILL)
    assert lifecycle.down(lab.name)
    nothing_left(traces)


def test_a_frozen_daemon_is_replaced(
    lab_name: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lab, _ = lifecycle.up(Shape(lab_name("froze")))
    monkeypatch.setattr(running, "ANSWER_S", 3.0)
    os.kill(lab.daemon_pid, signal.SIGSTOP)
    again, fresh = lifecycle.up(lab.shape)
    assert fresh
    assert again.daemon_pid != lab.daemon_pid
    assert not processes.alive(lab.daemon_pid)


def test_a_dead_node_makes_the_lab_new(lab_name: Callable[[str], str]) -> None:
    lab, _ = lifecycle.up(Shape(lab_name("node")))
    os.kill(lab.nodes[1].holder_pid, signal.SIGKILL)
    wait_for(lambda: running.find(lab.name) is None)
    again, fresh = lifecycle.up(lab.shape)
    assert fresh
    assert ssh(again, "node-2", "hostname") == "node-2"


def test_a_daemon_told_to_end_leaves_no_process(lab_name: Callable[[str], str]) -> None:
    lab, _ = lifecycle.up(Shape(lab_name("term")))
    traces = take(lab)
    os.kill(lab.daemon_pid, signal.SIGTERM)
    wait_for(lambda: not processes.of_lab(lab.name), timeout_s=60)
    assert lifecycle.down(lab.name)
    nothing_left(traces)


def test_whichever_thread_gets_the_signal_the_daemon_ends() -> None:
    script = (
        "import os, signal, threading, time\n"
        "from ebpfperf.lab import daemon\n"
        "ending = daemon.told_to_end()\n"
        "other = threading.Thread(target=time.sleep, args=(600,), daemon=True)\n"
        "other.start()\n"
        "def tell(): signal.pthread_kill(other.ident, signal.SIGTERM)\n"
        "threading.Timer(0.1, tell).start()\n"
        "os.read(ending, 1)\n"
        "os._exit(7)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=60, check=False).returncode == 7


def test_a_half_finished_up_is_finished(lab_name: Callable[[str], str]) -> None:
    name = lab_name("half")
    directory = state.directory(name)
    (directory / "node-1").mkdir(parents=True)
    state.write_shape(directory, Shape(name))
    old = nodes.start_node(
        name,
        nodes.Site(
            "node-1", 1, "ens11", underlay.address(1, subnets=1), "", 0, directory / "node-1"
        ),
        peers=[],
    )
    assert processes.carries(old.holder_pid, name)
    lab, fresh = lifecycle.up(Shape(name))
    assert fresh
    assert not processes.alive(old.holder_pid)
    assert ssh(lab, "node-1", "hostname") == "node-1"


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"name": "x"}', '{"daemon_pid": "many"}'])
def test_a_damaged_record_is_no_lab(lab_name: Callable[[str], str], damage: str) -> None:
    name = lab_name("dmg")
    state.directory(name).mkdir(parents=True)
    (state.directory(name) / "lab.json").write_text(damage)
    assert running.find(name) is None
    assert lifecycle.down(name)
    assert not state.directory(name).exists()


def test_a_lab_whose_directory_was_removed_is_found_and_ended(
    lab_name: Callable[[str], str],
) -> None:
    lab, _ = lifecycle.up(Shape(lab_name("lost")))
    traces = take(lab)
    shutil.rmtree(lab.directory)
    assert lab.name in lifecycle.every_name()
    assert lifecycle.down(lab.name)
    nothing_left(traces)


def test_a_process_that_left_the_cgroup_and_the_mark_is_ended(
    lab_name: Callable[[str], str],
) -> None:
    lab, _ = lifecycle.up(Shape(lab_name("stray")))
    stray = subprocess.Popen(
        lab.nodes[0].in_network(["sleep", "602"]), env={"PATH": os.environ["PATH"]}
    )
    wait_for(lambda: processes.netns(stray.pid) == processes.netns(lab.nodes[0].holder_pid))
    assert stray.pid not in processes.marked(lab.name) | cgroups.members(
        cgroups.lab_cgroup(lab.name)
    )
    lifecycle.down(lab.name)
    assert stray.wait(20) == -signal.SIGKILL


def test_who_carries_the_mark_and_takes_the_lab_down_lives(lab_name: Callable[[str], str]) -> None:
    lab, _ = lifecycle.up(Shape(lab_name("self")))
    script = f"from ebpfperf.lab import lifecycle; print(lifecycle.down({lab.name!r}))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, state.MARKER: lab.name},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "True\n", done.stderr


def test_two_labs_coexist(lab: Lab, lab_name: Callable[[str], str]) -> None:
    other, _ = lifecycle.up(Shape(lab_name("second"), release="v3.30"))
    machines = [machine for one in (lab, other) for machine in (*one.nodes, one.client)]
    doors = {(machine.ssh_address, machine.ssh_port) for machine in machines}
    assert len(doors) == 6
    ssh(other, "node-1", "echo mine >/etc/only-here; ip link add only0 type dummy || true")
    assert ssh(lab, "node-1", "cat /etc/only-here || echo none").endswith("none")
    # Same addresses on both underlays, and the labs do not meet.
    assert {node.underlay_ip for node in lab.nodes} == {node.underlay_ip for node in other.nodes}
    lifecycle.down(other.name)
    assert running.find(lab.name) == lab
    assert ssh(lab, "node-2", "hostname") == "node-2"


def test_two_commands_at_once_make_one_lab(lab_name: Callable[[str], str]) -> None:
    name = lab_name("race")
    both = [
        subprocess.Popen(
            [sys.executable, "-c", UP, name],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    said = [process.communicate(timeout=90) for process in both]
    answers = sorted(out.split() for out, _ in said)
    assert {pid for pid, _ in answers} == {str(running.the(name).daemon_pid)}, said
    assert sorted(fresh for _, fresh in answers) == ["False", "True"]


@pytest.mark.parametrize("after_s", [0.05, 0.15, 0.3, 0.5])
def test_an_up_that_is_killed_can_be_repeated(
    lab_name: Callable[[str], str], after_s: float
) -> None:
    name = lab_name("cut")
    process = subprocess.Popen(
        [sys.executable, "-c", UP, name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    time.sleep(after_s)
    process.kill()
    process.wait()
    lab, _ = lifecycle.up(Shape(name))
    assert ssh(lab, "node-1", "hostname") == "node-1"
    traces = take(lab)
    lifecycle.down(name)
    nothing_left(traces)


def nic(node: LabNode) -> dict[str, object]:
    (shown,) = json.loads(node.run(["ip", "-j", "link", "show", node.nic]))
    return dict(shown)


def test_nodes_in_two_subnets_reach_each_other_through_the_router(
    lab_name: Callable[[str], str],
) -> None:
    lab, _ = lifecycle.up(Shape(lab_name("nets"), subnets=2))
    one, two = lab.nodes
    assert (one.underlay_ip, two.underlay_ip) == ("198.18.0.11", "198.18.1.12")
    probe = (
        "import socket,sys; s=socket.create_server((sys.argv[1],4000)); s.settimeout(60); "
        "print('up',flush=True); c,_=s.accept(); print(c.recv(5).decode(), c.getpeername()[0])"
    )
    server = subprocess.Popen(
        two.in_network([sys.executable, "-c", probe, two.underlay_ip]),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    assert server.stdout.readline() == "up\n"
    client = (
        f"import socket; socket.create_connection(({two.underlay_ip!r},4000),30).send(b'hello')"
    )
    subprocess.run(one.in_network([sys.executable, "-c", client]), check=True, timeout=60)
    assert server.communicate(timeout=60)[0] == f"hello {one.underlay_ip}\n"


def test_the_mtu_asked_for_is_on_every_nic(lab_name: Callable[[str], str]) -> None:
    lab, _ = lifecycle.up(Shape(lab_name("mtu"), nodes=3, mtu_bytes=9000))
    for node in (*lab.nodes, lab.client):
        # The kernel says that a link is up up to a second after it is.
        wait_for(lambda node=node: nic(node)["operstate"] == "UP")
        assert nic(node)["mtu"] == 9000
    assert len({node.nic for node in lab.nodes}) == 3


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        (Shape("Lab"), "cannot name a lab"),
        (Shape(""), "cannot name a lab"),
        (Shape("../x"), "cannot name a lab"),
        (Shape("x" * 21), "cannot name a lab"),
        (Shape("x", nodes=1), "2 to 20 nodes"),
        (Shape("x", nodes=21), "2 to 20 nodes"),
        (Shape("x", release="v9.9"), "cannot present Calico v9.9"),
        (Shape("x", mtu_bytes=500), "MTU of 500"),
        (Shape("x", subnets=3), "cannot be in 3 subnets"),
    ],
)
def test_what_no_lab_can_be_is_said_in_a_sentence(shape: Shape, says: str) -> None:
    with pytest.raises(LabError, match=says) as caught:
        lifecycle.up(shape)
    assert caught.value.exit_status == 2
    assert caught.value.remedy
    assert not state.is_name(shape.name) or not state.directory(shape.name).exists()


def test_a_missing_program_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    real = shutil.which
    monkeypatch.setattr(
        machine.shutil,
        "which",
        lambda name, path: None if name == "sshd" else real(name, path=path),
    )
    with pytest.raises(LabError, match=r"sshd is missing.*openssh-server"):
        lifecycle.up(Shape("x"))


def test_who_is_not_root_is_told(tmp_path: Path) -> None:
    script = (
        "from ebpfperf.errors import LabError\n"
        "import os\n"
        "from ebpfperf.lab import lifecycle, state\n"
        "os.setuid(65534)\n"
        "for act in (lambda: lifecycle.up(state.Shape('x')), lambda: lifecycle.down('x')):\n"
        "    try: act()\n"
        "    except LabError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, cwd=Path.cwd()
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 2, done.stderr
    assert all("needs root" in line and "sudo" in line for line in lines)


@pytest.mark.parametrize("blocks", [1, 2, 6, 10, 13])
def test_a_full_disk_is_told_and_leaves_nothing(
    lab_name: Callable[[str], str], blocks: int
) -> None:
    name = lab_name("full")
    # A mount namespace of its own, where /run is a disk of a few blocks.
    script = (
        f"from ebpfperf.errors import LabError\n"
        f"from ebpfperf.lab import lifecycle, state\n"
        f"try: lifecycle.up(state.Shape({name!r}))\n"
        f"except LabError as error: print(error)\n"
        f"import os; print(os.listdir('/run'))"
    )
    mount = f'mount -t tmpfs -o nr_blocks={blocks} tmpfs /run && exec "$0" -c "$1"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mount, sys.executable, script],
        capture_output=True,
        text=True,
        timeout=60,
    )
    said, listing = done.stdout.splitlines()
    assert "No space left on device" in said, done.stderr
    assert listing == "[]"
    assert not processes.of_lab(name)
    assert not cgroups.lab_cgroup(name).exists()


def test_every_address_taken_is_told(
    monkeypatch: pytest.MonkeyPatch, lab_name: Callable[[str], str]
) -> None:
    from ebpfperf.lab import sshd

    held = sshd.reserve(1, first=200)
    number = int(held[0].getsockname()[0].rpartition(".")[2])
    monkeypatch.setattr(sshd, "_LAST_ADDRESS", number)
    try:
        with pytest.raises(LabError, match="Port 2222 is taken") as caught:
            sshd.reserve(1, first=number)
        assert "ss -ltnp" in caught.value.remedy
    finally:
        for sock in held:
            sock.close()


class TestCommands:
    def test_env_is_for_eval(self, lab: Lab) -> None:
        said = CliRunner().invoke(app, ["env", "--name", lab.name]).stdout
        shell = f"{said}\necho $KUBECONFIG; echo $EBPFPERF_SSH_CONFIG"
        done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, timeout=10)
        assert done.stdout.split() == [str(lab.kubeconfig), str(lab.ssh_config)]
        as_json = CliRunner().invoke(app, ["env", "--name", lab.name, "--json"]).stdout
        assert json.loads(as_json)["KUBECONFIG"] == str(lab.kubeconfig)

    def test_status_shows_what_the_nodes_show(self, lab: Lab) -> None:
        def status() -> dict[str, Any]:
            done = CliRunner().invoke(app, ["status", "--name", lab.name, "--json"])
            found: dict[str, Any] = json.loads(done.stdout)
            return found

        # A lab is up when its API answers; each Felix begins in its own time.
        wait_for(lambda: all("felix/" in row["felix"] for row in status()["nodes"]))
        document = status()
        assert document["api"] == lab.api.url
        assert [row["name"] for row in document["nodes"]] == ["node-1", "node-2"]
        assert all(row["mtu_bytes"] == 1500 for row in document["nodes"])
        assert document["client"]["name"] == "client-1"
        assert document["client"]["underlay_ip"] == "198.18.0.200"
        table = CliRunner().invoke(app, ["status", "--name", lab.name], env={"COLUMNS": "160"})
        assert "it is not Calico" in table.stdout
        assert "198.18.0.11" in table.stdout
        assert "Outside the cluster: client-1" in table.stdout

    @pytest.mark.parametrize("command", [["status"], ["env"], ["shell", "node-1"]])
    def test_a_lab_that_is_not_there_is_named(self, command: list[str]) -> None:
        result = CliRunner().invoke(app, [*command, "--name", "nowhere"])
        assert isinstance(result.exception, LabError)
        assert "No lab named nowhere" in result.exception.what

    def test_a_node_that_is_not_there_is_named(self, lab: Lab) -> None:
        result = CliRunner().invoke(app, ["shell", "node-9", "--name", lab.name])
        assert isinstance(result.exception, LabError)
        assert "no node node-9" in result.exception.what

    def test_down_all_takes_each(
        self, monkeypatch: pytest.MonkeyPatch, lab_name: Callable[[str], str]
    ) -> None:
        names = [lab_name("alla"), lab_name("allb")]
        for name in names:
            assert CliRunner().invoke(app, ["up", "--name", name]).exit_code == 0
        assert set(names) <= set(lifecycle.every_name())
        monkeypatch.setattr(lifecycle, "every_name", lambda: names)  # not those of others
        said = CliRunner().invoke(app, ["down", "--all"]).stdout
        assert said.splitlines() == [f"Lab {name} is down." for name in names]
        assert not any(running.find(name) for name in names)


def test_up_in_ebpf_mode_is_in_it_when_it_returns(lab_name: Callable[[str], str]) -> None:
    name = lab_name("on")
    done = CliRunner().invoke(app, ["up", "--name", name, "--ebpf"])
    assert done.exit_code == 0, done.output
    lab = running.the(name)
    places = [Place(lab, node) for node in lab.nodes]
    assert places[0].felix_spec()["bpfEnabled"] is True
    assert all(place.forwards_by_programs() for place in places)
    assert all(place.program(place.node.nic) > 0 for place in places)
