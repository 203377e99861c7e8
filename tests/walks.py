"""A made-up campaign whose packets were followed, with a known time for every step.

VXLAN takes 2.9 µs longer than none until the socket: 2.1 µs in its own two steps, 0.8 µs in the
host stack's. IPIP is encapsulated where no tunnel device is seen at the sender. Blocks drift and
trials wobble; the socket wobbles far more than the rest.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pandas as pd
import synthetic

from ebpfperf import histograms
from ebpfperf.model import Campaign, Fact, Flow, Path, Sample, TrialResult

CAMPAIGN = replace(
    synthetic.CAMPAIGN,
    name="synthetic-walks",
    flows=(
        Flow("rr", Path.POD_POD, "request-response", duration_s=1, omit_s=0, message_bytes=64),
        Flow("host-rr", Path.HOST_HOST, "request-response", duration_s=1, omit_s=0),
    ),
    probes=("hops", "softirq", "runqueue", "drops", "bpf_programs", "host_counters"),
)

_TO_NODE = {("pod-queue", "veth-rx"): 1500, ("veth-rx", "veth-receive"): 1000}
_WIRE = {
    ("nic-queue", "nic-xmit"): 600,
    ("nic-xmit", "nic-rx"): 3000,
    ("nic-rx", "nic-receive"): 900,
}
_TO_POD = {
    ("veth-queue", "pod-rx"): 900,
    ("pod-rx", "pod-receive"): 700,
    ("pod-receive", "socket-copy"): 30_000,
}
STEPS = {
    "none": _TO_NODE
    | {("veth-receive", "nic-queue"): 2000}
    | _WIRE
    | {("nic-receive", "veth-queue"): 1600}
    | _TO_POD,
    "ipip": _TO_NODE
    | {("veth-receive", "nic-queue"): 3500}
    | _WIRE
    | {("nic-receive", "tunnel-receive"): 1000, ("tunnel-receive", "veth-queue"): 1600}
    | _TO_POD,
    "vxlan": _TO_NODE
    | {("veth-receive", "tunnel-queue"): 2800, ("tunnel-queue", "nic-queue"): 1200}
    | _WIRE
    | {("nic-receive", "tunnel-receive"): 900, ("tunnel-receive", "veth-queue"): 1600}
    | _TO_POD,
}
BETWEEN_HOSTS = _WIRE | {("nic-receive", "socket-copy"): 20_000}
PACKETS = 200


def results(campaign: Campaign = CAMPAIGN, *, noise: float = 0.005) -> list[TrialResult]:
    """One good result a trial, with what the probes saw of it."""
    generator = np.random.default_rng(3)
    drift = np.exp(generator.normal(0, 0.02, campaign.blocks))
    found = []
    for result in synthetic.results(campaign):
        trial = result.trial
        if not trial.probes:
            found.append(result)
            continue
        host = trial.flow.path is Path.HOST_HOST
        steps = BETWEEN_HOSTS if host else STEPS[trial.treatment.overlay.value]
        more = [_seen(steps, sender, drift[trial.block], generator, noise) for sender in
                ("client", "server")]  # fmt: skip
        walks = {"started": 2 * PACKETS, "finished": 2 * PACKETS, "unfinished": 0}
        samples = [sample for part, _ in more for sample in part]
        samples += [Sample("hops", "", f"hops:{k}", "1", 0.0, float(v)) for k, v in walks.items()]
        samples += _programs() if not host else []
        samples.append(Sample("drops", "client+server", "dropped:NO_SOCKET@tcp_v4_rcv", "1", 0, 2))
        waits = _bins([2000, 3000, 9000], "runqueue", "client+server", "runqueue_ns")
        waits += _bins([200, 300], "softirq", "client+server", "softirq_wait_ns:NET_RX")
        metrics = {"softirq_share_pct": 9.0, "dropped_packets": 2.0, "flow_dropped_packets": 0.0}
        found.append(
            replace(
                result,
                samples=tuple(samples),
                histograms=(*result.histograms, *(b for _, bins in more for b in bins), *waits),
                metrics={**result.metrics, **metrics},
                facts=(
                    Fact("node-1", "hops_watched_s", "0.040", "s"),
                    Fact("", "hops_lost_events", "1", "1"),
                    Fact("node-1", "bpf_programs_on:cali0a1b ingress tcx", "first, second"),
                ),
            )
        )
    return found


def _seen(
    steps: dict[tuple[str, str], int],
    sender: str,
    drift: float,
    generator: np.random.Generator,
    noise: float,
) -> tuple[list[Sample], list[histograms.HistogramBin]]:
    samples, bins = [], []
    whole = 0.0
    for (start, end), ns in steps.items():
        spread = 0.4 if end == "socket-copy" else noise
        mean = ns * drift * float(np.exp(generator.normal(0, spread)))
        whole += mean
        samples.append(Sample("hops", sender, f"hop_mean_ns:{start}>{end}", "ns", 0.0, mean))
        bins += _bins([int(mean)] * PACKETS, "hops", sender, f"hop_ns:{start}>{end}")
    samples.append(Sample("hops", sender, "hop_mean_ns:=end-to-end", "ns", 0.0, whole))
    bins += _bins([int(whole)] * PACKETS, "hops", sender, "hop_ns:=end-to-end")
    return samples, bins


def _bins(values: list[int], probe: str, endpoint: str, metric: str) -> list[
    histograms.HistogramBin
]:  # fmt: skip
    counted = np.asarray(values, dtype=np.int64)
    return list(histograms.KERNEL.count(counted, probe=probe, endpoint=endpoint, metric=metric))


def _programs() -> list[Sample]:
    return [
        Sample("bpf_programs", "client", f"{kind}:{hook}", unit, 0.0, value)
        for hook, runs, ns in (
            ("cali0a1b ingress tcx", 400.0, 500.0),
            ("ens1 egress filter", 1.0, 9000.0),
            ("vxlan.calico ingress filter", 0.0, None),
        )
        for kind, unit, value in (("bpf_runs", "1", runs), ("bpf_ns_per_run", "ns", ns))
        if value is not None
    ]


def samples_frame(found: Iterable[TrialResult]) -> pd.DataFrame:
    """The samples frame of results, as far as it is read."""
    rows = [
        (result.trial.trial_id, row.source, row.endpoint, row.metric, row.unit, row.value)
        for result in found
        for row in result.samples
    ]
    columns = ["trial_id", "source", "endpoint", "metric", "unit", "value"]
    return pd.DataFrame(rows, columns=columns)


def facts_frame(found: Iterable[TrialResult], more: Iterable[Fact] = ()) -> pd.DataFrame:
    """The facts frame of results, and of facts of no trial."""
    rows = [
        (trial_id, fact.node, fact.name, fact.value, fact.unit)
        for trial_id, facts in (
            *((result.trial.trial_id, result.facts) for result in found),
            (None, more),
        )
        for fact in facts
    ]
    return pd.DataFrame(rows, columns=["trial_id", "node", "name", "value", "unit"])
