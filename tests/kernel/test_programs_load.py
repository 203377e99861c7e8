"""Debian 12's stock kernel takes the lab's dataplane programs: it is booted once, in emulation."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from kernel.machine import boot, release_of, stock_image
from kernel.objects import ALL, LOADER, NONE, REFUSED, Program, Verdicts, programs, write

# What the verifier sees most and least of; emulation has time for no more.
PROGRAMS = programs(("debug", ALL), ("off", NONE))
LIMIT_S = 300


@pytest.fixture(scope="module")
def image() -> Path:
    found = stock_image()
    assert found is not None
    return found


@pytest.fixture(scope="module")
def verdicts(image: Path) -> Iterator[Verdicts]:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        write(PROGRAMS, directory)
        loader = ["python3", str(directory / LOADER.name), name]
        yield Verdicts.parse(boot(image, loader, shared=directory, limit_s=LIMIT_S))


def test_kernel_is_debians(verdicts: Verdicts, image: Path) -> None:
    assert verdicts.kernel == release_of(image), verdicts.output


@pytest.mark.parametrize("program", PROGRAMS, ids=str)
def test_program_is_taken(program: Program, verdicts: Verdicts) -> None:
    assert verdicts.of(str(program)) == ""


def test_program_that_reads_beyond_its_context_is_refused(verdicts: Verdicts) -> None:
    assert "invalid bpf_context access" in verdicts.of(REFUSED)
