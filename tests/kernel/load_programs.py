"""A line of JSON with the kernel's name, then one for each object: what the kernel says to it.

    load_programs.py DIRECTORY

Needs root and mounts of its own. Nothing but the standard library: it also runs on a kernel that
has just been booted, by whichever Python 3 is there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# The verifier's reason and the instructions before it, not its whole log.
_LAST_CHARACTERS = 1500


def refusal(file: Path, pins: Path) -> str:
    """Empty where the kernel takes the program, else the last that was said."""
    pin = pins / file.stem.replace(".", "_")
    argv = ["bpftool", "prog", "load", str(file), str(pin), "type", "classifier"]
    done = subprocess.run(argv, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode == 0:
        pin.unlink()
        return ""
    said = (done.stdout + done.stderr).strip()[-_LAST_CHARACTERS:]
    return said or f"bpftool: status {done.returncode}"


def main(directory: Path) -> None:
    """Print it, each line as soon as it is known."""
    print(json.dumps({"kernel": os.uname().release}), flush=True)
    files = sorted(directory.glob("*.o"))
    with tempfile.TemporaryDirectory() as pins:
        subprocess.run(["mount", "-n", "-t", "bpf", "bpf", pins], check=True)
        try:
            with ThreadPoolExecutor(os.cpu_count()) as workers:
                verdicts = workers.map(lambda file: refusal(file, Path(pins)), files)
                for file, said in zip(files, verdicts, strict=True):
                    print(json.dumps({"object": file.stem, "refusal": said}), flush=True)
        finally:
            subprocess.run(["umount", "-n", pins], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
