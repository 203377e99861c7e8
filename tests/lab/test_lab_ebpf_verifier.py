"""The running kernel's verifier takes every dataplane program of the lab."""

from __future__ import annotations

import subprocess
import sys

import pytest
from kernel.objects import ALL, LOADER, NONE, REFUSED, Program, Verdicts, between, programs, write

PROGRAMS = [
    *programs(("off", NONE), ("off", ALL), ("debug", NONE), ("debug", ALL)),
    *between(),
]
LIMIT_S = 600


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> Verdicts:
    directory = tmp_path_factory.mktemp("objects")
    write(PROGRAMS, directory)
    own_mounts = ["unshare", "--mount", "--propagation", "private"]
    done = subprocess.run(
        [*own_mounts, sys.executable, str(directory / LOADER.name), str(directory)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    return Verdicts.parse(done.stdout)


@pytest.mark.parametrize("program", PROGRAMS, ids=str)
def test_program_is_taken(program: Program, verdicts: Verdicts) -> None:
    assert verdicts.of(str(program)) == ""


@pytest.mark.parametrize(
    ("release", "words"),
    [
        ("v3.16", b"Packet pre-approved by another hook, allow."),
        ("v3.18", b"Final result=ALLOW (%d). Bypass mark bit set."),
        ("v3.22", b"Final result=ALLOW (%d). Bypass mark bit set."),
        ("v3.26", b"Final result=ALLOW (%d). Bypass mark set."),
    ],
)
def test_what_a_program_before_let_through_ends_in_the_releases_words(
    release: str, words: bytes
) -> None:
    found = Program(release, "ens192", False, "debug", ALL).object()
    ways = (b"Packet pre-approved", b"Bypass mark")
    assert words in found
    assert sum(each in found for each in ways) == 1


def test_program_that_reads_beyond_its_context_is_refused(verdicts: Verdicts) -> None:
    assert "invalid bpf_context access" in verdicts.of(REFUSED)
