"""A made-up campaign with known effects, for tests that must know the right answer.

Every block drifts: the whole machine gets slower or faster by a factor that all its trials share.
On top of that each trial has noise of its own. IPIP carries 0.95 and VXLAN 0.80 of what no overlay
carries; round trips take 1.04 and 1.20 times as long. With its probes on, a trial carries 0.98 of
what a bare one does.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path as FilePath
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ebpfperf import histograms
from ebpfperf.model import (
    Campaign,
    Dataplane,
    Fact,
    Flow,
    Overlay,
    Path,
    Role,
    Sample,
    Status,
    Treatment,
    Trial,
    TrialResult,
    trial_name,
)

if TYPE_CHECKING:
    from ebpfperf.store import Store

CARRIES = {"none": 1.0, "ipip": 0.95, "vxlan": 0.80}
TAKES = {"none": 1.0, "ipip": 1.04, "vxlan": 1.20}
WATCHED_CARRIES = 0.98
MTU = {"none": 1500, "ipip": 1480, "vxlan": 1450}

CAMPAIGN = Campaign(
    name="synthetic",
    seed=7,
    blocks=8,
    baseline="none",
    treatments=(
        Treatment("none", Overlay.NONE),
        Treatment("ipip", Overlay.IPIP),
        Treatment("vxlan", Overlay.VXLAN, felix=(("vxlanEnabled", True),)),
    ),
    flows=(
        Flow("tcp", Path.POD_POD, "tcp", duration_s=2, omit_s=1),
        Flow("rr", Path.POD_POD, "request-response", duration_s=1, omit_s=0, message_bytes=64),
        Flow("host-tcp", Path.HOST_HOST, "tcp", duration_s=1, omit_s=1),
    ),
    probes=("tcp_rtt", "host_counters"),
    description="A made-up campaign with known effects.",
)


FLAGS_CAMPAIGN = Campaign(
    name="synthetic-flags",
    seed=11,
    blocks=8,
    baseline="ipip-false-log-off",
    treatments=tuple(
        Treatment(
            f"ipip-{str(ipip).lower()}-{'log-off' if log == 'Off' else log.lower()}",
            Overlay.NONE,
            felix=(("bpfLogLevel", log), ("ipipEnabled", ipip)),
            dataplane=Dataplane.EBPF,
        )
        for ipip in (False, True)
        for log in ("Off", "Debug")
    ),
    flows=CAMPAIGN.flows,
    probes=CAMPAIGN.probes,
    description="A made-up campaign of flags: the log level costs 0.6, the lost short-cut 0.85.",
)
LEVEL_CARRIES = {("ipipEnabled", True): 0.85, ("bpfLogLevel", "Debug"): 0.6}


def level_carries(treatment: Treatment) -> float:
    """What a treatment's flags leave of the rate."""
    return float(np.prod([LEVEL_CARRIES.get(level, 1.0) for level in treatment.felix]))


def facts(*, lab: bool = True, shared_kernel: bool = True) -> tuple[Fact, ...]:
    """What the two nodes of the made-up cluster are."""
    found: list[Fact] = []
    for number, node in enumerate(("node-1", "node-2"), start=1):
        boot = "0f5c" if shared_kernel else f"0f5c{number}"
        found += [
            Fact(node, "boot_id", boot),
            Fact(node, "hostname", node),
            Fact(node, "kernel", "6.18.0"),
            Fact(node, "cpus", "2"),
            Fact(node, "nic_mtu", "1500", "bytes"),
            Fact(node, "ipip_driver", "veth device with encapsulation by BPF programs"),
            Fact(node, "calico_release", "v3.26.1"),
            Fact(node, "perf_version", "UNKNOWN: not installed"),
        ]
        if lab:
            found.append(Fact(node, "lab_emulation", "independent emulation; not Calico"))
    return tuple(found)


def trials(campaign: Campaign = CAMPAIGN) -> tuple[Trial, ...]:
    """Every flow under every treatment once per block, treatments shuffled by the seed.

    The baseline's are followed by bare ones and those of the A/A test, where there are any.
    """
    found: list[Trial] = []
    for block in range(campaign.blocks):
        order = list(campaign.treatments)
        random.Random(f"{campaign.seed}:{block}").shuffle(order)
        for treatment in order:
            roles = [Role.COMPARED]
            if treatment.name == campaign.baseline:
                roles += [Role.BARE] * campaign.probes_off + [Role.AGAIN] * campaign.aa_test
            for role in roles:
                for flow in campaign.flows:
                    name = f"b{block:03d}-{trial_name(treatment, flow, role=role)}"
                    probes = () if role is Role.BARE else campaign.probes
                    found.append(Trial(name, block, len(found), treatment, flow, probes, role))
    return tuple(found)


def results(campaign: Campaign = CAMPAIGN, *, noise: float = 0.01) -> list[TrialResult]:
    """One good result per trial of the campaign."""
    generator = np.random.default_rng(campaign.seed)
    drift = np.exp(generator.normal(0, 0.05, campaign.blocks))
    return [
        _result(trial, float(drift[trial.block]), generator, noise) for trial in trials(campaign)
    ]


def _result(
    trial: Trial, drift: float, generator: np.random.Generator, noise: float
) -> TrialResult:
    wobble = float(np.exp(generator.normal(0, noise)))
    overlay = trial.treatment.overlay.value
    host = trial.flow.path is Path.HOST_HOST
    flags = level_carries(trial.treatment)
    bare = trial.role is Role.BARE
    freed = 1 / WATCHED_CARRIES if bare else 1.0
    carries = drift * wobble * (1.0 if host else CARRIES[overlay] * flags) * freed
    takes = drift * wobble * (1.0 if host else TAKES[overlay] / flags) / freed
    minute, second = divmod(trial.order * 4, 60)
    common = TrialResult(
        trial,
        Status.OK,
        "",
        f"2026-11-25T07:{minute:02d}:{second:02d}Z",
        duration_s=trial.flow.duration_s + 0.25,
        overhead_s=0.25,
    )
    if trial.flow.load == "request-response":
        rtts = generator.lognormal(np.log(38_000 * takes), 0.25, 4001).astype(np.int64)
        bins = histograms.FINE.count(rtts, probe="load", endpoint="client", metric="rr_ns")
        read = {q: histograms.quantile(bins, q) for q in (0.5, 0.9, 0.99, 0.999)}
        quantiles = {q: found.value_ns if found else 0.0 for q, found in read.items()}
        return replace(
            common,
            histograms=bins,
            metrics={
                "requests": 4001.0,
                "requests_per_s": 4001.0,
                "rr_p50_ns": quantiles[0.5],
                "rr_p90_ns": quantiles[0.9],
                "rr_p99_ns": quantiles[0.99],
                "rr_p999_ns": quantiles[0.999],
                "rr_max_ns": float(rtts.max()),
                "mtu_bytes": float(MTU[overlay]),
                "cpu_s": 0.9,
                "rr_cpu_us_per_request": 22.0 * takes,
            },
        )
    rate = (22e9 if host else 15e9) * carries
    rtts_us = generator.lognormal(np.log(160 * takes), 0.4, 900).astype(np.int64)
    index, count = np.unique(histograms.KERNEL.indices(rtts_us * 1000), return_counts=True)
    bins = histograms.KERNEL.bins(
        zip(index.tolist(), count.tolist(), strict=True),
        probe="tcp_rtt",
        endpoint="client",
        metric="srtt_ns",
    )
    middle = histograms.quantile(bins, 0.5)
    return replace(
        common,
        samples=tuple(
            Sample("iperf3", "client", "sent_bits_per_s", "bit/s", t, rate * (1 + 0.01 * t))
            for t in trial.flow.omit_s + np.arange(0.5, trial.flow.duration_s + 0.1, 0.5)
        ),
        histograms=() if bare else bins,
        metrics={
            "received_bits_per_s": rate,
            "sent_bits_per_s": rate * 1.001,
            "retransmits": 3.0,
            **({} if bare else {"srtt_p50_ns": middle.value_ns if middle else 0.0}),
            **({} if bare else {"srtt_events": 900.0}),
            "cpu_s": 1.7,
            "cpu_s_per_gbit": 0.11 / carries,
            "mtu_bytes": float(1500 if host else MTU[overlay]),
            "mss_bytes": float((1500 if host else MTU[overlay]) - 52),
        },
    )


def failed(result: TrialResult, *, reason: str) -> TrialResult:
    """The same trial, failed, without numbers."""
    return replace(
        result, status=Status.FAILED, reason=reason, metrics={}, samples=(), histograms=()
    )


def trials_frame(found: Iterable[TrialResult], campaign: Campaign = CAMPAIGN) -> pd.DataFrame:
    """The trials frame of results, as far as comparisons read it."""
    rows = [
        {
            "campaign": campaign.name,
            "trial_id": result.trial.trial_id,
            "block": result.trial.block,
            "order": result.trial.order,
            "treatment": result.trial.treatment.name,
            "overlay": result.trial.treatment.overlay.value,
            "felix": json.dumps(dict(result.trial.treatment.felix)),
            "flow": result.trial.flow.name,
            "path": result.trial.flow.path.value,
            "load": result.trial.flow.load,
            "probes": ", ".join(result.trial.optional_probes),
            "role": result.trial.role.value,
            "status": result.status.value,
            "reason": result.reason,
            "start_utc": pd.Timestamp(result.start_utc),
            "warnings": "; ".join(result.warnings),
            **result.metrics,
        }
        for result in found
    ]
    return pd.DataFrame(rows)


def facts_frame(found: Iterable[Fact]) -> pd.DataFrame:
    """The facts frame of facts."""
    rows = [(fact.node, fact.name, fact.value, fact.unit) for fact in found]
    return pd.DataFrame(rows, columns=["node", "name", "value", "unit"])


def histograms_frame(found: Iterable[TrialResult], campaign: Campaign = CAMPAIGN) -> pd.DataFrame:
    """The histograms frame of results."""
    rows = [
        (
            campaign.name,
            result.trial.trial_id,
            row.probe,
            row.endpoint,
            row.metric,
            row.lower_ns,
            row.upper_ns,
            row.count,
        )
        for result in found
        for row in result.histograms
    ]
    columns = "campaign trial_id probe endpoint metric lower_ns upper_ns count".split()
    return pd.DataFrame(rows, columns=columns)


def write_store(path: FilePath, campaign: Campaign = CAMPAIGN) -> Store:
    """A campaign directory that holds the made-up results, as a run would have left it."""
    from ebpfperf.store import Store

    store = Store.create(path, campaign)
    store.add_facts(facts())
    for result in results(campaign):
        store.append(result)
    return store
