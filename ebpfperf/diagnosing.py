"""A diagnosis of a live cluster, or the one that a file holds, in one call. It changes nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Sequence
from pathlib import Path

from ebpfperf import diagnosis
from ebpfperf.diagnosis import Diagnosis
from ebpfperf.errors import InputError


def opened(file: str | Path = "") -> Diagnosis:
    """The diagnosis in a file of ``ebpfperf doctor --output``; without one, of the cluster now.

    Raises
    ------
    InputError
        The file holds none; there is no cluster.
    """
    if not str(file):
        return of_cluster()
    try:
        document = json.loads(Path(file).read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(
            f"{file} cannot be read: {error}.", "Make one: ebpfperf doctor --output FILE.json."
        ) from error
    return diagnosis.from_json(document)


def of_cluster(
    *,
    kubeconfig: str | None = None,
    context: str | None = None,
    ssh_config: str | Path | None = None,
    nodes: Sequence[str] = (),
    checks: Collection[str] = (),
    seconds: float = 5.0,
) -> Diagnosis:
    """What the checks say of a cluster now; none named: all nodes, all checks.

    ``ssh_config`` None: the file that EBPFPERF_SSH_CONFIG names, else ``~/.ssh/config``.

    Raises
    ------
    InputError
        There is no such cluster, node or check.
    KubeError
        The API is lost meanwhile.
    """
    from ebpfperf import gathering, reach
    from ebpfperf.doctor import judge

    wanted = judge.chosen(checks)
    given = ssh_config or os.environ.get("EBPFPERF_SSH_CONFIG")
    config = Path(given).expanduser() if given else None
    kube = reach.connect(kubeconfig, context)
    try:
        names = reach.node_names(kube, list(nodes))
        evidence = gathering.gather(kube, names, ssh_config=config, seconds=seconds)
    finally:
        kube.close()
    return judge.diagnose(evidence, wanted)
