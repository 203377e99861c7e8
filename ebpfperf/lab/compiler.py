"""Compiled BPF objects, from a cache keyed by what they are made of."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path

from ebpfperf.errors import LabError

SOURCES = Path(__file__).parent / "bpf"


def compiled(source: str, defines: Mapping[str, str]) -> bytes:
    """The object of ``source`` (a file of ``lab/bpf``) with those macros.

    A cache that cannot be written is no cache, and that is all.

    Raises
    ------
    LabError
        clang or the headers are missing, or it refuses the program.
    """
    flags = [f"-D{name}={value}" for name, value in sorted(defines.items())]
    cached = _cache() / f"{source.partition('.')[0]}-{_key(source, flags)}.o"
    try:
        return cached.read_bytes()
    except OSError:
        program = _compile(source, flags)
        with contextlib.suppress(OSError):
            cached.parent.mkdir(parents=True, exist_ok=True)
            partial = cached.with_suffix(f".{os.getpid()}.{threading.get_ident()}")
            partial.write_bytes(program)
            partial.replace(cached)
        return program


def _key(source: str, flags: list[str]) -> str:
    digest = hashlib.sha256(" ".join(flags).encode())
    own = SOURCES / source.partition(".")[0]
    headers = sorted([*SOURCES.glob("*.h"), *own.glob("*.h")])
    for file in (SOURCES / source, *headers):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:24]


def _compile(source: str, flags: list[str]) -> bytes:
    # To its output, not to a file: a full disk is then not clang's to tell.
    argv = ["clang", "-O2", "-g", "-Wall", "-target", "bpf", *flags, f"-I{SOURCES}"]
    argv += [f"-I/usr/include/{os.uname().machine}-linux-gnu", "-c", str(SOURCES / source)]
    try:
        done = subprocess.run([*argv, "-o", "-"], capture_output=True, timeout=60, check=False)
    except FileNotFoundError:
        raise LabError(
            f"clang is missing: the lab compiles {source}.", "Install clang and libbpf-dev."
        ) from None
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip()[-500:]
        raise LabError(
            f"clang refuses {source}: {said}.",
            "Install libbpf-dev and the kernel's user headers (linux-libc-dev).",
        )
    return done.stdout


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ebpfperf"
