"""An embedded cluster for the tests that need one: brought up once, taken down at the end."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from lab.namespaces import restart_after
from lab.sockperf_soon import sockperf_soon
from two_pods import TwoPods, two_pods

from ebpfperf.kube import Kube
from ebpfperf.lab import lifecycle
from ebpfperf.lab.running import Lab
from ebpfperf.lab.state import Shape


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """Two nodes: ``.name``, ``.kubeconfig``, ``.ssh_config``, ``.nodes``. Leave it as it was.

    Its Felixes restart sooner than Calico's do.
    """
    name = f"test-{os.getpid()}"
    try:
        lab, _ = lifecycle.up(Shape(name))
        with contextlib.closing(Kube.connect(str(lab.kubeconfig))) as kube:
            restart_after(kube, lab)
        yield lab
    finally:
        lifecycle.down(name)


@pytest.fixture(scope="module")
def pods(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoPods]:
    """Two network namespaces joined by a veth, and a real sshd: what a probe or load needs."""
    with two_pods(tmp_path_factory.mktemp("pods")) as made:
        yield made


@pytest.fixture
def true_restarts(lab: Lab) -> Iterator[None]:
    """Meanwhile the lab's Felixes wait before a restart as long as Calico's do."""
    with contextlib.closing(Kube.connect(str(lab.kubeconfig))) as kube:
        restart_after(kube, lab, None)
        yield
        restart_after(kube, lab)


@pytest.fixture
def short_waits(lab: Lab, tmp_path: Path) -> Iterator[None]:
    """Meanwhile sockperf does not sleep for two seconds before each test on the lab's machines."""
    with sockperf_soon([*lab.nodes, lab.client], tmp_path):
        yield


@pytest.fixture
def lab_name() -> Iterator[Callable[[str], str]]:
    """A name that no other lab has, for a suffix; what was brought up under it is taken down."""
    names: list[str] = []

    def name(suffix: str) -> str:
        names.append(f"t{os.getpid()}-{suffix}")
        return names[-1]

    yield name
    for one in names:
        lifecycle.down(one)
