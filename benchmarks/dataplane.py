"""What forwarding costs: the lab's eBPF dataplane with and without its short-cut, and others.

    .venv/bin/python benchmarks/dataplane.py [--release R] [--blocks N] [--seconds S]
                                             [--let-halt] [--json FILE] [--quick]

Brings up an embedded cluster of its own (root needed) and runs ``campaigns/dataplanes.yaml`` on it,
as ``ebpfperf run`` would: every treatment once in a block, in random order, without overlay, the
pods on different nodes. Each is compared with eBPF with the short-cut, block by block. The path
between the nodes themselves, of the same blocks, stands beside them: what there is to be had.

That the pods' MTU is the same under every treatment is checked, not assumed. While requests are
answered no core may halt, unless ``--let-halt`` says so: a core that waits for the next packet of
one connection sleeps in between, and waking it takes longer than all the forwarding. Bulk never
lets them sleep. These are the lab's own programs, not Calico's: what they cost says nothing of what
Calico's cost.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path as File
from typing import Any

import pandas as pd

from ebpfperf import compare, expectations, metrics, plan, runner
from ebpfperf.calico.encapsulation import felix_fields, pool_modes
from ebpfperf.calico.flags import fib_shortcut
from ebpfperf.lab import lifecycle
from ebpfperf.lab.running import Lab
from ebpfperf.lab.state import Shape
from ebpfperf.model import Campaign, ClusterRef, Dataplane, Path, Status, Treatment, Trial
from ebpfperf.store import Store

LAB = "dataplane"
FILE = File(__file__).parent / "campaigns" / "dataplanes.yaml"
# Under eBPF the programs on the NIC see the packets of hosts too; under the other nothing does.
HOSTS = ("standard", "ebpf")
# Documentation/power/pm_qos_interface.rst: what is written counts for as long as the file is open.
_LATENCY = File("/dev/cpu_dma_latency")
_NO_LATENCY = (0).to_bytes(4, sys.byteorder)


@dataclass(frozen=True, slots=True)
class Found:
    """What a run gave.

    Attributes
    ----------
    effects
        Columns of ``compare.effects``, and ``agreement`` (empty where nothing could be expected).
        Treatments named ``hosts, …`` are flows between the nodes under that treatment.
    trials
        The store's frame.
    shortcut
        Treatment → ``yes``, ``no``, or ``-`` where it is not eBPF, by Calico's rule.
    """

    effects: pd.DataFrame
    trials: pd.DataFrame
    shortcut: Mapping[str, str]


def campaign(lab: Lab, *, blocks: int, seconds: int) -> Campaign:
    """The campaign file's, on that lab, of that length."""
    read = plan.load(FILE)
    return replace(
        read,
        blocks=blocks,
        flows=tuple(replace(flow, duration_s=seconds) for flow in read.flows),
        cluster=ClusterRef(kubeconfig=str(lab.kubeconfig), ssh_config=str(lab.ssh_config)),
    )


class Cores:
    """Keeps every core of the machine from halting while it is asked to."""

    def __init__(self) -> None:
        self._handle: int | None = None

    def keep_awake(self, wanted: bool) -> None:
        """From now on, or from now on no longer. OSError where the kernel does not offer it."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
        if wanted:
            self._handle = os.open(_LATENCY, os.O_WRONLY | os.O_CLOEXEC)
            os.write(self._handle, _NO_LATENCY)


def measure(wanted: Campaign, directory: File, *, release: str, let_halt: bool = False) -> Found:
    """Run it in a new ``directory`` and compare.

    Parameters
    ----------
    let_halt
        Whether cores may halt between requests.

    Raises
    ------
    SystemExit
        Pods of two treatments had different MTUs, which would be measured along.
    """
    store = Store.create(directory, wanted)
    mtus: dict[int, str] = {}
    total = len(plan.schedule(wanted))
    cores = Cores()

    def begin(trial: Trial) -> None:
        cores.keep_awake(trial.flow.load == "request-response" and not let_halt)

    with ExitStack() as stack:
        stack.callback(cores.keep_awake, False)
        results = stack.enter_context(closing(runner.run(store, on_start=begin)))
        for number, result in enumerate(results, 1):
            trial = result.trial
            said = "" if result.status is Status.OK else f": {result.status}: {result.reason}"
            print(f"{number} of {total}: {trial.trial_id}{said}", file=sys.stderr, flush=True)
            if result.status is Status.OK and trial.flow.path is Path.POD_POD:
                mtus.setdefault(int(result.metrics["mtu_bytes"]), trial.treatment.name)
            if len(mtus) > 1:
                raise SystemExit(f"The pods' MTU differs: {mtus}. Nothing else may differ.")
    trials, facts = store.frame("trials"), store.frame("facts")
    effects = compare.effects(trials, wanted, facts=facts)
    judged = expectations.judged(effects, trials, facts=facts, campaign=wanted)
    key = ["metric", "flow", "treatment"]
    beside = compare.effects(*with_hosts(trials, wanted), facts=facts)
    beside = beside.merge(judged[[*key, "agreement"]], on=key, how="left")
    return Found(
        beside.fillna({"agreement": ""}),
        trials,
        {one.name: _shortcut(one, release) for one in wanted.treatments},
    )


def with_hosts(trials: pd.DataFrame, ran: Campaign) -> tuple[pd.DataFrame, Campaign]:
    """Both with the flows between hosts as further treatments of the pods' flows."""
    pods = {flow.load: flow for flow in ran.flows if flow.path is Path.POD_POD}
    same = {flow.name: pods[flow.load].name for flow in ran.flows if flow.path is Path.HOST_HOST}
    between_hosts = trials["flow"].isin(same)
    parts, treatments = [trials[~between_hosts]], list(ran.treatments)
    for name in HOSTS:
        rows = trials[between_hosts & trials["treatment"].eq(name)]
        told = replace(ran.treatment(name), name=f"hosts, {name}")
        parts.append(rows.assign(flow=rows["flow"].map(same), treatment=told.name))
        treatments.append(told)
    return pd.concat(parts, ignore_index=True), replace(
        ran, treatments=tuple(treatments), flows=tuple(pods.values())
    )


def _shortcut(treatment: Treatment, release: str) -> str:
    if treatment.dataplane is not Dataplane.EBPF:
        return "-"
    fields = felix_fields(treatment, release=release)
    pools = [pool_modes(treatment.overlay, treatment.scope)]
    return "yes" if fib_shortcut(fields, pools, release) else "no"


def report(found: Found) -> str:
    """A table for each metric, whatever it says, and the warnings."""
    width = max(map(len, found.effects["treatment"]))
    lines = []
    for (name, flow), rows in found.effects.groupby(["metric", "flow"], sort=False):
        if name not in metrics.HEADLINE:
            continue
        metric, base = metrics.metric(str(name)), rows.iloc[0]
        head = f"{metric.label} ({flow}; {metric.better} is better)"
        lines += [f"{head:{width + 36}} times {base['baseline']}, interval, verdict"]
        table = [(base["baseline"], base["baseline_value"], "")]
        table += [(row["treatment"], row["value"], _said(row)) for row in rows.to_dict("records")]
        for treatment, value, said in table:
            shortcut = f"short-cut {found.shortcut.get(treatment, '-'):3}"
            lines.append(f"  {treatment:{width}}  {shortcut}  {metric.show(value):>16}  {said}")
        lines.append("")
    warnings = found.effects["warnings"].str.split("; ").explode()
    lines += [f"- {text}" for text in sorted({text for text in warnings if text})]
    return "\n".join(line.rstrip() for line in lines)


def _said(effect: Mapping[Any, Any]) -> str:
    """Ratio, interval, number of blocks, verdict, and whether Calico's source lets expect it."""
    if math.isnan(effect["low"]):
        return f"{effect['ratio']:.3f} ({effect['verdict']}: {effect['reason']})"
    interval = f"({effect['low']:.3f} to {effect['high']:.3f}, {effect['n_blocks']} blocks)"
    said = f"{effect['ratio']:.3f} {interval}  {effect['verdict']}"
    return "; ".join(part for part in (said, effect["size"], effect["agreement"]) if part)


def machine(release: str, *, let_halt: bool) -> dict[str, object]:
    """Where and when it was measured."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "release": release,
        "cores_halt": let_halt,
        "load_average": os.getloadavg()[0],
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--release", default="v3.26", help="release to present (default v3.26)")
    parser.add_argument("--blocks", type=int, default=10, help="blocks (default 10)")
    parser.add_argument("--seconds", type=int, default=2, help="seconds of a flow (default 2)")
    parser.add_argument("--let-halt", action="store_true", help="cores may halt between requests")
    parser.add_argument("--quick", action="store_true", help="2 blocks of 1 s: no verdicts")
    parser.add_argument("--json", type=File, help="write effects and trials here")
    arguments = parser.parse_args()
    blocks, seconds = (2, 1) if arguments.quick else (arguments.blocks, arguments.seconds)
    where = machine(arguments.release, let_halt=arguments.let_halt)
    try:
        lab, _ = lifecycle.up(Shape(LAB, release=arguments.release))
        with tempfile.TemporaryDirectory(prefix="dataplane-") as name:
            wanted = campaign(lab, blocks=blocks, seconds=seconds)
            found = measure(
                wanted,
                File(name) / "campaign",
                release=arguments.release,
                let_halt=arguments.let_halt,
            )
    finally:
        lifecycle.down(LAB)
    if arguments.json:
        document = {
            "machine": where,
            "effects": json.loads(found.effects.to_json(orient="records")),
            "trials": json.loads(found.trials.to_json(orient="records", date_format="iso")),
        }
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")
    print(report(found))
    halt = "may" if arguments.let_halt else "may not"
    print(
        f"\n{where['date']}, Linux {where['kernel']}, {where['cpus']} cores for both nodes together"
        f", Calico {arguments.release} as the lab presents it; cores {halt} halt between requests;"
        f" load average {where['load_average']:.1f} at the start, {os.getloadavg()[0]:.1f} at the"
        " end."
    )


if __name__ == "__main__":
    main()
