"""An embedded cluster for the tests that need one: brought up once, taken down at the end."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from ebpfperf.lab import lifecycle
from ebpfperf.lab.running import Lab
from ebpfperf.lab.state import Shape


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """Two nodes: ``.name``, ``.kubeconfig``, ``.ssh_config``, ``.nodes``. Leave it as it was."""
    name = f"test-{os.getpid()}"
    try:
        yield lifecycle.up(Shape(name))[0]
    finally:
        lifecycle.down(name)


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
