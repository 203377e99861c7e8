"""sockperf on a lab's machines without the two seconds that it sleeps before each test.

They are in the program and no option shortens them (client.cpp). Nothing else of it is changed.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from ebpfperf.lab.nodes import LabNode, run

# In the machines' own files: /var is an overlay there.
_PLACE = "/var/lib/sockperf-soon"
_SHORTER = """\
int usleep(unsigned microseconds);
unsigned sleep(unsigned seconds) { usleep(seconds * 100000); return 0; }
"""
_INSTEAD = f"""\
#!/bin/sh
LD_PRELOAD="{_PLACE}/shorter.so${{LD_PRELOAD:+:$LD_PRELOAD}}" exec {_PLACE}/sockperf "$@"
"""


@contextlib.contextmanager
def sockperf_soon(machines: list[LabNode], directory: Path) -> Iterator[None]:
    """Meanwhile a second that sockperf sleeps there is a tenth of one."""
    library = directory / "shorter.so"
    compiled = ["clang", "-x", "c", "-", "-shared", "-fPIC", "-O2", "-nostdlib", "-o", str(library)]
    subprocess.run(compiled, input=_SHORTER, text=True, check=True, timeout=60)
    found = run([*machines[0].enter(["sh", "-c", "command -v sockperf"])]).strip()
    with contextlib.ExitStack() as stack:
        for machine in machines:
            inside = Path(f"/proc/{machine.holder_pid}/root")
            place = inside / _PLACE.lstrip("/")
            place.mkdir()
            stack.callback(run, machine.enter(["rm", "-r", _PLACE]))
            (place / library.name).write_bytes(library.read_bytes())
            for name, content in (
                ("sockperf", (inside / found.lstrip("/")).read_bytes()),
                ("instead", _INSTEAD.encode()),
            ):
                (place / name).write_bytes(content)
                (place / name).chmod(0o755)
            run(machine.enter(["mount", "-n", "--bind", f"{_PLACE}/instead", found]))
            stack.callback(run, machine.enter(["umount", "-n", found]))
        yield
