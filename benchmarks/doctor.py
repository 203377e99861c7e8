"""Which faults the doctor names, and what it says of healthy clusters: every fault × release.

    .venv/bin/python benchmarks/doctor.py [--release R]… [--fault F]… [--jobs N]
                                          [--json FILE] [--quick]

For each release an embedded cluster of its own (root needed), in eBPF mode, with pods and a
service. First, and again at the end, it is diagnosed as it is: whatever is then FAIL, WARN or
UNKNOWN is a **false alarm** (but that A7 tells of a device without programs, which the log has from
the fault that is over). In between each fault that the release can have is put on it (a fault
of a node on node-2), diagnosed, and taken back. It is **named** when one of the fault's checks is
FAIL or WARN for that very node (or for the cluster) and shows its evidence; else it
is a **miss**. What other checks said besides is kept, too: a fault has consequences.
After each fault the API's objects must be what they were before.

The lab's faults and its release-specific behaviour are its own: this shows that the checks see what
they are made to see, not that a real cluster shows it so.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ebpfperf import gathering
from ebpfperf.calico.releases import FULL_VERSIONS, minor
from ebpfperf.diagnosis import Diagnosis, Outcome, Result, Verdict
from ebpfperf.doctor import judge
from ebpfperf.errors import EbpfperfError
from ebpfperf.kube import Kube
from ebpfperf.lab import ebpf_mode, lifecycle
from ebpfperf.lab.faults import standing
from ebpfperf.lab.faults.declaration import Fault
from ebpfperf.lab.running import Lab
from ebpfperf.lab.state import Shape
from ebpfperf.mutations import Mutation

NODE = "node-2"
NODES = ("node-1", "node-2")
COUNT_S, TRAFFIC_S = 1.5, 2.0
WITH_TRAFFIC = ("bandwidth-cap",)
KINDS = ("FelixConfiguration", "IPPool", "Service", "ConfigMap", "DaemonSet")
RAISED = (Verdict.FAIL, Verdict.WARN, Verdict.UNKNOWN)
BEFORE, AFTER = "healthy before", "healthy after"
QUICK = ("bpffs-missing", "kernel-fallback")


@dataclass(frozen=True, slots=True)
class Cell:
    """What came of one fault on one release (``fault`` empty: the healthy cluster).

    Attributes
    ----------
    by
        The check that named it, its verdict and its words; empty for a miss.
    besides
        What else was raised, ``E7 FAIL node-2``.
    left
        What of the API differed after it was taken back; and errors.
    """

    release: str
    fault: str
    named: bool
    by: str
    besides: tuple[str, ...]
    left: tuple[str, ...]
    put_s: float = 0.0
    diagnose_s: float = 0.0
    heal_s: float = 0.0


def main(arguments: list[str] | None = None) -> int:
    """Run the matrix, print it; exit status 1 where there is a miss or a false alarm."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--release", action="append", choices=sorted(FULL_VERSIONS))
    parser.add_argument("--fault", action="append", help="these alone, else all")
    parser.add_argument("--jobs", type=int, default=2, help="releases at the same time")
    parser.add_argument("--json", type=Path, help="also write the cells here")
    parser.add_argument("--quick", action="store_true", help="two faults on one release")
    told = parser.parse_args(arguments)
    releases = told.release or (["v3.26"] if told.quick else sorted(FULL_VERSIONS))
    names = told.fault or (QUICK if told.quick else [fault.name for fault in standing.FAULTS])
    faults = [standing.named(name) for name in names]
    with ThreadPoolExecutor(max_workers=told.jobs) as pool:
        rows = pool.map(lambda release: matrix(release, faults), releases)
        cells = [cell for found in rows for cell in found]
    if told.json:
        told.json.write_text(json.dumps([asdict(cell) for cell in cells], indent=1) + "\n")
    print(table(cells, faults, releases))
    return 0 if all(cell.named and not cell.left for cell in cells) else 1


def matrix(release: str, faults: Sequence[Fault]) -> list[Cell]:
    """The cells of one release, on a lab of its own."""
    name = f"doctor-{release.replace('.', '')}-{os.getpid()}"[-20:].strip("-")
    try:
        lab, _ = lifecycle.up(Shape(name, len(NODES), release))
        with closing(Kube.connect(str(lab.kubeconfig))) as kube:
            prepare(lab, kube)
            cells = [healthy(lab, kube, BEFORE)]
            for fault in faults:
                if fault.applies(minor(release)):
                    cells.append(one(lab, kube, fault))
                    said(cells[-1])
            cells.append(healthy(lab, kube, AFTER))
            return cells
    finally:
        lifecycle.down(name)


def prepare(lab: Lab, kube: Kube) -> None:
    """A cluster in eBPF mode with a pod on each node and a service in front of them."""
    ebpf_mode.switch_on(lab, restart_s=0)
    for node in NODES:
        body: dict[str, Any] = {
            "metadata": {"name": f"web-{node}", "namespace": "default", "labels": {"app": "web"}},
            "spec": {"nodeName": node, "containers": [{"name": "web", "image": "web"}]},
        }
        kube.apply(Mutation("create", "Pod", f"web-{node}", "default", body=body))
    body = {
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "type": "NodePort", "selector": {"app": "web"},
            "ports": [{"port": 80, "targetPort": 8080}],
        },
    }  # fmt: skip
    kube.apply(Mutation("create", "Service", "web", "default", body=body))
    for node in NODES:
        kube.wait_pod_ready("default", f"web-{node}")


def healthy(lab: Lab, kube: Kube, name: str) -> Cell:
    """What is raised where nothing is wrong: all of it is a false alarm."""
    begun = time.monotonic()
    raised = tuple(
        f"{short(result, outcome)}: {outcome.what}"
        for result, outcome in diagnosed(lab, kube).outcomes()
        if outcome.verdict in RAISED and not past(name, result, outcome)
    )
    cell = Cell(lab.shape.release, name, not raised, "", raised, (), 0.0, time.monotonic() - begun)
    said(cell)
    return cell


def past(name: str, result: Result, outcome: Outcome) -> bool:
    """Whether it warns of what the log tells of a fault that is over, and says that it is."""
    over = ("has restarted since", "the device is gone")
    told = outcome.verdict is Verdict.WARN and any(words in outcome.what for words in over)
    return name == AFTER and result.id == "A7" and told


def one(lab: Lab, kube: Kube, fault: Fault) -> Cell:
    """A fault put, diagnosed and taken back."""
    node = NODE if fault.of_node else None
    before, times = objects(kube), [time.monotonic()]
    by, besides, left = "", [], []
    try:
        standing.put(lab, fault, node)
        times.append(time.monotonic())
        found = diagnosed(lab, kube, traffic=fault.name in WITH_TRAFFIC)
        times.append(time.monotonic())
        raised = [pair for pair in found.outcomes() if pair[1].verdict in RAISED]
        telling = [pair for pair in raised if names(fault, *pair)]
        if telling:
            result, outcome = min(telling, key=lambda pair: fault.checks.index(pair[0].id))
            by = f"{short(result, outcome)}: {outcome.what}"
        besides = [short(*pair) for pair in raised if pair not in telling]
    except EbpfperfError as error:
        left.append(str(error))
    try:
        list(standing.heal(lab))
        ebpf_mode.wait_for(lab)
    except EbpfperfError as error:
        left.append(str(error))
    times.append(time.monotonic())
    after = objects(kube)
    left += [key for key in sorted({*before, *after}) if before.get(key) != after.get(key)]
    spent = [late - early for early, late in itertools.pairwise(times)]
    spent += [0.0] * (3 - len(spent))
    return Cell(
        lab.shape.release, fault.name, bool(by), by, tuple(dict.fromkeys(besides)), tuple(left),
        *spent[:3],
    )  # fmt: skip


def names(fault: Fault, result: Result, outcome: Outcome) -> bool:
    """Whether an outcome names the fault: by its check, its node, and evidence read there."""
    if result.id not in fault.checks or outcome.verdict not in (Verdict.FAIL, Verdict.WARN):
        return False
    if not fault.of_node:
        return bool(outcome.shown)
    here = outcome.node == NODE or (not outcome.node and NODE in outcome.what)
    return here and bool(outcome.shown)


def diagnosed(lab: Lab, kube: Kube, *, traffic: bool = False) -> Diagnosis:
    """What the doctor says of the lab now."""
    evidence = gathering.gather(
        kube, NODES, ssh_config=lab.ssh_config, seconds=COUNT_S,
        traffic_s=TRAFFIC_S if traffic else 0.0,
    )  # fmt: skip
    return judge.diagnose(evidence)


def objects(kube: Kube) -> dict[str, Any]:
    """What the API holds of what faults may change, without versions and times."""
    found: dict[str, Any] = {}
    for kind in KINDS:
        wide = kind in ("FelixConfiguration", "IPPool")
        for each in kube.cluster_wide(kind) if wide else kube.everywhere(kind):
            meta = each["metadata"]
            kept = {key: meta.get(key) for key in ("labels", "annotations")}
            content = {key: value for key, value in each.items() if key != "metadata"}
            content.pop("status", None)
            found[f"{kind} {meta.get('namespace', '')}/{meta['name']}"] = [kept, content]
    return found


def short(result: Result, outcome: Outcome) -> str:
    """``E7 FAIL node-2``."""
    return f"{result.id} {outcome.verdict} {outcome.node or 'cluster'}"


def said(cell: Cell) -> None:
    """A line on stderr: it takes minutes."""
    state = "ok" if cell.named and not cell.left else "MISSED"
    words = f"{cell.release} {cell.fault}: {state}; {cell.by or '; '.join(cell.besides)[:300]}"
    print(words + "".join(f" LEFT {each}" for each in cell.left), file=sys.stderr, flush=True)


def table(cells: Sequence[Cell], faults: Sequence[Fault], releases: Sequence[str]) -> str:
    """The matrix as Markdown, the misses and the false alarms below it."""
    by_place = {(cell.fault, cell.release): cell for cell in cells}
    lines = ["| fault | " + " | ".join(releases) + " |", "| --- |" + " --- |" * len(releases)]
    for name in (BEFORE, *(fault.name for fault in faults), AFTER):
        words = []
        for release in releases:
            cell = by_place.get((name, release))
            if cell is None:
                words.append("–")
            elif name.startswith("healthy"):
                words.append("nothing" if cell.named else f"**{len(cell.besides)} false alarms**")
            else:
                words.append(" ".join(cell.by.split(":")[0].split()[:2]) or "**missed**")
        lines.append(f"| {name} | " + " | ".join(words) + " |")
    made = [cell for cell in cells if not cell.fault.startswith("healthy")]
    lines.append("")
    lines.append(f"{sum(cell.named for cell in made)} of {len(made)} faults named.")
    for cell in cells:
        if not cell.named:
            lines.append(f"- {cell.release} {cell.fault}: raised {'; '.join(cell.besides) or '-'}")
        lines += [f"- {cell.release} {cell.fault}: left {each}" for each in cell.left]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
