"""The nodes as SSH shows them, by the real client."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from lab.traces import wait_for

from ebpfperf.lab import cgroups
from ebpfperf.lab.running import Lab
from ebpfperf.remote import SSHNode

pytestmark = [pytest.mark.lab, pytest.mark.beside]


def ssh(lab: Lab, *arguments: str, config: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["ssh", "-F", str(config or lab.ssh_config), "-o", "BatchMode=yes", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_plain_client_gets_in(lab: Lab) -> None:
    for node in (*lab.nodes, lab.client):
        done = ssh(lab, node.name, "hostname; id -u")
        assert (done.stdout, done.stderr) == (f"{node.name}\n0\n", "")


def test_the_kits_own_client_gets_in(lab: Lab) -> None:
    node = SSHNode.connect("node-2", ssh_config=lab.ssh_config)
    try:
        assert node.run(["hostname"]).text == "node-2\n"
        node.put(b"kept", "/tmp/by-sftp")
        assert node.get("/tmp/by-sftp") == b"kept"
    finally:
        node.close()
    assert not Path("/tmp/by-sftp").exists()


def test_a_wrong_host_key_is_refused(lab: Lab, tmp_path: Path) -> None:
    known = (lab.directory / "known_hosts").read_text().splitlines()
    first, second, _ = (line.split() for line in known)
    swapped = [[first[0], *second[1:]], [second[0], *first[1:]]]
    (tmp_path / "known_hosts").write_text("".join(" ".join(line) + "\n" for line in swapped))
    done = ssh(lab, "-o", f"UserKnownHostsFile={tmp_path}/known_hosts", "node-1", "hostname")
    assert done.returncode == 255
    assert done.stdout == ""
    assert "Host key verification failed" in done.stderr


def test_an_unknown_host_key_is_refused(lab: Lab) -> None:
    done = ssh(lab, "-o", "UserKnownHostsFile=/dev/null", "node-1", "hostname")
    assert (done.returncode, done.stdout) == (255, "")


def test_a_strange_key_is_refused_and_no_password_asked(lab: Lab, tmp_path: Path) -> None:
    key = tmp_path / "key"
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True, timeout=30
    )
    config = tmp_path / "config"
    config.write_text(lab.ssh_config.read_text().replace(f"{lab.directory}/id_ed25519", str(key)))
    done = ssh(lab, "node-1", "hostname", config=config)
    assert done.returncode == 255
    assert "Permission denied (publickey)" in done.stderr


@pytest.mark.parametrize("user", ["nobody", "daemon"])
def test_only_root_is_let_in(lab: Lab, user: str) -> None:
    done = ssh(lab, "-l", user, "node-1", "hostname")
    assert done.returncode == 255
    assert "Permission denied" in done.stderr


def test_the_private_files_are_their_owners_alone(lab: Lab) -> None:
    assert lab.directory.stat().st_mode & 0o077 == 0
    for path in (lab.kubeconfig, lab.ssh_config, lab.directory / "id_ed25519"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_node_is_a_host_of_its_own(lab: Lab) -> None:
    show = (
        "cat /etc/hostname; stat -fc %T /sys/fs/bpf /sys/fs/cgroup; cat /proc/self/cgroup; "
        "ls /sys/class/net; test -e /sys/kernel/tracing/events/tcp/tcp_probe && echo traced; "
        "cat /proc/sys/net/ipv4/ip_forward; getent hosts node-2"
    )
    lines = ssh(lab, "node-1", show).stdout.splitlines()
    assert lines[:3] == ["node-1", "bpf_fs", "cgroup2fs"]
    assert "0::/system.slice/ssh.service" in lines
    assert "ens11" in lines
    assert "ens12" not in lines
    assert "traced" in lines
    assert lines[-2] == "1"
    assert lines[-1].split() == ["198.18.0.12", "node-2"]


@pytest.mark.parametrize("tree", ["/etc", "/root", "/var/log", "/var/lib/calico", "/run", "/tmp"])
def test_what_is_written_on_a_node_stays_there(lab: Lab, tree: str) -> None:
    name = f"{tree}/ebpfperf-written-{lab.name}"
    assert ssh(lab, "node-1", f"echo here >{name} && cat {name}").stdout == "here\n"
    assert not Path(name).exists()
    assert ssh(lab, "node-2", f"cat {name}").returncode != 0
    ssh(lab, "node-1", f"rm {name}")


def test_bpf_objects_are_pinned_on_the_node_alone(lab: Lab) -> None:
    if shutil.which("bpftool", path="/usr/sbin:/usr/bin") is None:
        pytest.skip("missing: bpftool (Debian package bpftool)")
    pin = "/sys/fs/bpf/ssh_test"
    make = f"bpftool map create {pin} type array key 4 value 4 entries 1 name ssh_test"
    assert ssh(lab, "node-1", f"{make} && ls {pin}").stdout == f"{pin}\n"
    assert ssh(lab, "node-2", f"ls {pin}").returncode != 0
    assert not Path(pin).exists()
    ssh(lab, "node-1", f"rm {pin}")


def test_the_shell_reads_no_bashrc(lab: Lab) -> None:
    mark = "echo from-bashrc >&2"
    assert ssh(lab, "node-1", f"sed -i '1i {mark}' /root/.bashrc || echo '{mark}' >/root/.bashrc")
    try:
        assert "from-bashrc" not in ssh(lab, "node-1", "true").stderr
    finally:
        ssh(lab, "node-1", "sed -i 1d /root/.bashrc")


def test_a_session_that_is_cut_is_ended(lab: Lab) -> None:
    client = subprocess.Popen(
        ["ssh", "-F", str(lab.ssh_config), "node-1", "echo here; cat; echo ended"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert client.stdout is not None
    assert client.stdout.readline() == "here\n"
    group = lab.nodes[0].cgroup / "system.slice" / "ssh.service"
    assert cgroups.members(group)
    client.kill()
    client.wait()
    wait_for(lambda: not cgroups.members(group))


def test_many_connections_at_once(lab: Lab) -> None:
    clients = [
        subprocess.Popen(
            ["ssh", "-F", str(lab.ssh_config), lab.nodes[n % 2].name, "hostname"],
            stdout=subprocess.PIPE,
            text=True,
        )
        for n in range(13)
    ]
    names = [client.communicate(timeout=120)[0].strip() for client in clients]
    assert names == [lab.nodes[n % 2].name for n in range(13)]
