"""Debian 12's stock kernel takes the lab's dataplane programs."""

from __future__ import annotations

import pytest
from kernel.machine import Machine, release_of, stock_image
from kernel.objects import ALL, LOADER, NONE, REFUSED, Program, Verdicts, programs, write

# What the verifier sees most and least of; emulation has time for no more.
PROGRAMS = programs(("debug", ALL), ("off", NONE))
LIMIT_S = 600


@pytest.fixture(scope="module")
def verdicts(there: Machine) -> Verdicts:
    directory = there.directory / "programs"
    directory.mkdir()
    write(PROGRAMS, directory)
    loader = ["python3", str(directory / LOADER.name), str(directory)]
    return Verdicts.parse(there.run(loader, limit_s=LIMIT_S))


def test_kernel_is_debians(verdicts: Verdicts) -> None:
    image = stock_image()
    assert image is not None
    assert verdicts.kernel == release_of(image), verdicts.output


@pytest.mark.parametrize("program", PROGRAMS, ids=str)
def test_program_is_taken(program: Program, verdicts: Verdicts) -> None:
    assert verdicts.of(str(program)) == ""


def test_program_that_reads_beyond_its_context_is_refused(verdicts: Verdicts) -> None:
    assert "invalid bpf_context access" in verdicts.of(REFUSED)
