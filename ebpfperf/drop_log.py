"""Who is dropped and why: bpfLogLevel Debug for some seconds, the trace pipe, and back again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ebpfperf import felix_reading, log_level, trace_capture
from ebpfperf.calico.releases import minor
from ebpfperf.drop_causes import Causes, causes
from ebpfperf.drop_reading import Watched
from ebpfperf.model import ClusterRef
from ebpfperf.reach import connect


def read(
    watched: Watched,
    for_s: float,
    *,
    kubeconfig: str | None,
    context: str | None,
    ssh_config: Path | None,
    everywhere: bool,
    say: Callable[[str], None],
    directory: Path = log_level.DIRECTORY,
) -> Causes:
    """What the nodes' programs logged of drops in ``for_s`` seconds; bpfLogLevel is put back.

    Parameters
    ----------
    everywhere
        Whether the level is set for the cluster, and not for these nodes alone.
    say
        Is told what is changed, and what was put back.
    directory
        Where the journal of the change is.

    Raises
    ------
    InputError, KubeError, NodeError, RestoreError
        As ``log_level.raised``; a kernel whose pipe cannot be read is a sentence instead.
    """
    kube = connect(kubeconfig, context)
    # The journal must find the cluster from any directory, at any time.
    kubeconfig, context = kube.kubeconfig, kube.context
    kube.close()
    nodes = {name: node for name, node in watched.nodes.items() if name not in watched.lost}
    told = felix_reading.read(kubeconfig, context, ssh_config=ssh_config)
    ref = ClusterRef(
        kubeconfig, context, str(ssh_config.absolute()) if ssh_config else None, ippools=()
    )
    with log_level.raised(
        ref,
        nodes,
        [each for each in told if each.node in nodes],
        everywhere=everywhere,
        programs=watched.read,
        say=say,
        directory=directory,
    ):
        devices = {name: set(counts.links.values()) for name, counts in watched.read().items()}
        captured = trace_capture.capture(nodes, for_s=for_s)
    release = minor(watched.release) if watched.release else None
    rows: list[tuple[tuple[str, ...], int]] = []
    sentences: list[str] = []
    seen = 0
    for each in captured:
        if each.problem:
            sentences.append(each.problem)
            continue
        own = {name: devices.get(name, set()) for name in each.nodes}
        found = causes(trace_capture.recent(each), own, release=release)
        rows += found.rows
        sentences += found.sentences
        seen += found.seen
    return Causes(tuple(rows), seen, tuple(dict.fromkeys(sentences)))
