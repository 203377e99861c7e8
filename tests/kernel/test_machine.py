"""Which kernel is booted, and that a machine that does not end by itself is ended."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from kernel.machine import NotRunning, release_of, running, stock_image

# Long enough for the emulator itself to be there: vng starts it after some seconds.
LIMIT_S = 15


def test_newest_stock_image_is_chosen(tmp_path: Path) -> None:
    others = ("6.1.0-99-cloud-amd64", "6.1.0-99-rt-amd64", "6.12.0-1-amd64", "6.18.1")
    for release in ("6.1.0-9-amd64", "6.1.0-56-amd64", *others):
        (tmp_path / f"vmlinuz-{release}").touch()
    image = stock_image(tmp_path)
    assert image is not None
    assert release_of(image) == "6.1.0-56-amd64"


def test_no_stock_image_is_none(tmp_path: Path) -> None:
    (tmp_path / "vmlinuz-6.12.0-1-amd64").touch()
    assert stock_image(tmp_path) is None


def test_machine_out_of_time_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = stock_image()
    assert image is not None
    own, idle = tmp_path / "own", tmp_path / "idle.sh"
    own.mkdir()
    idle.write_text("exec sleep 600\n")
    monkeypatch.setattr("tempfile.tempdir", str(own))
    monkeypatch.setattr("kernel.machine.PREPARE", idle)
    started = time.monotonic()
    with pytest.raises(NotRunning, match="before it ended"), running(image, limit_s=LIMIT_S):
        raise AssertionError("nobody is let in")
    assert time.monotonic() - started >= LIMIT_S
    assert list(own.iterdir()) == []
    assert processes_that_name(str(tmp_path)) == []


def processes_that_name(text: str) -> list[str]:
    """Command lines of running processes with ``text`` in them."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in line and file.parent.name != str(os.getpid()):
            found.append(line)
    return found
