"""A process that changes one EndpointSlice several times a second, as many roll-outs would.

``python -m ebpfperf.lab.faults.churn KUBECONFIG PATH`` patches the slice at PATH until it is ended.
"""

from __future__ import annotations

import itertools
import sys
import time
from pathlib import Path
from typing import Any

from ebpfperf.errors import LabError
from ebpfperf.lab.running import Api

PERIOD_S = 0.2
_HOSTS = 20


def endpoints(turn: int) -> list[dict[str, Any]]:
    """Two of the slice's endpoints in that turn: of TEST-NET-3 (RFC 5737), so nobody's."""
    hosts = (turn % _HOSTS, (turn + 1) % _HOSTS)
    return [
        {"addresses": [f"203.0.113.{200 + host}"], "conditions": {"ready": True}} for host in hosts
    ]


def main(arguments: list[str] | None = None) -> int:
    """Patch until ended; an API that does not answer for a moment is asked again."""
    kubeconfig, path = arguments or sys.argv[1:]
    api = Api.of(Path(kubeconfig))
    for turn in itertools.count():
        try:
            api.ask("PATCH", path, {"endpoints": endpoints(turn)})
        except (LabError, OSError):
            time.sleep(1.0)
        time.sleep(PERIOD_S)
    return 0


if __name__ == "__main__":
    sys.exit(main())
