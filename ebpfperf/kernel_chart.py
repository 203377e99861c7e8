"""What the kernels of a flow's ends did beside the way of its packets: charts and tables.

Softirqs and waits for a CPU, runs of BPF programs by hook, packets dropped and sent again.
Percentiles are of all good trials' histograms together; zero events are shown as zero.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ebpfperf import anatomy, compare, units
from ebpfperf.anatomy_findings import micro, missing
from ebpfperf.chart import INK, WIDTH_IN, Chart, looks, tidy
from ebpfperf.compare import baseline_first
from ebpfperf.findings import Sentences
from ebpfperf.model import Campaign, Status
from ebpfperf.tables import Table

_POD_DEVICE = re.compile(r"(?<![\w.])cali\w+")


def softirqs(trials: pd.DataFrame, campaign: Campaign) -> tuple[Chart | Sentences, ...]:
    """Softirqs' share of the ends' CPU time by treatment, every trial beside the centre."""
    good = _good(trials, campaign)
    column = "softirq_share_pct"
    flows = [f.name for f in campaign.flows if good.loc[good["flow"].eq(f.name), column].any()]
    if not flows:
        return (missing("softirq", campaign),)
    style, names = looks(campaign), baseline_first(campaign)
    figure = Figure(figsize=(WIDTH_IN, 3.0), layout="constrained")
    panels = figure.subplots(1, len(flows), squeeze=False, sharey=True)[0]
    shown = []
    for axes, flow in zip(panels, flows, strict=True):
        tidy(axes)
        for place, name in enumerate(names):
            ours = good[good["flow"].eq(flow) & good["treatment"].eq(name)].sort_values("block")
            values = ours[column].dropna()
            if values.empty:
                continue
            look, centre = style[name], anatomy.centred(values, campaign)
            spread = np.linspace(-0.3, 0.1, len(values)) if len(values) > 1 else np.zeros(1)
            axes.plot(place + spread, values, look.marker, color=look.colour, alpha=0.55,
                      markersize=5)  # fmt: skip
            axes.plot([place + 0.27] * 2, [centre.low, centre.high], color=look.colour, linewidth=2)
            axes.plot(place + 0.27, centre.estimate, look.marker, color=look.colour, markersize=7)
            shown.append((flow, name, centre.estimate, centre.low, centre.high, len(values)))
        axes.set_xticks(range(len(names)), names)
        axes.set_xlim(-0.5, len(names) - 0.4)
        axes.set_title(flow, fontsize=10, loc="left")
    panels[0].set_ylim(bottom=0)
    panels[0].set_ylabel("Softirqs, % of CPU time")
    columns = ["flow", "treatment", "centre_pct", "low_pct", "high_pct", "trials"]
    title = "Softirqs' share of the CPU time of the ends' machines: every trial, centre, interval"
    said = "; ".join(f"{flow} {name} {at:.1f} %" for flow, name, at, *_ in shown)
    return (Chart(figure, title, f"{title}. {said}.", pd.DataFrame(shown, columns=columns)),)


def waits(
    trials: pd.DataFrame, histograms: pd.DataFrame, campaign: Campaign
) -> tuple[Table | Sentences, ...]:
    """Waits for a CPU, of softirqs and in queues by flow and treatment, of all trials together."""
    good = _good(trials, campaign)
    rows = []
    for flow, treatment, ours in _each(good, campaign):
        bins = histograms[histograms["trial_id"].isin(ours["trial_id"])]
        row: dict[str, object] = {"flow": flow, "treatment": treatment, "trials": len(ours)}
        for words, (probe, metric) in _WAITS.items():
            if probe not in campaign.optional_probes:
                continue
            of = bins[bins["metric"].eq(metric) | bins["metric"].str.startswith(f"{metric}:")]
            at = [anatomy.quantile_ns(of, q) for q in (0.5, 0.99)]
            shown = "–" if pd.isna(at[0]) else " / ".join(map(micro, at))
            row[words] = f"{shown} ({int(of['count'].sum()):,})"
        rows.append(row)
    said = _absent(_WAITS, campaign)
    frame = pd.DataFrame(rows)
    if frame.empty or len(frame.columns) == len(_WHOSE):
        return said
    caption = "Waits, median / 99th percentile (number) in the watched time of all trials together"
    return (Table(caption, frame, numeric=tuple(map(str, frame.columns[2:]))), *said)


_WHOSE = ("flow", "treatment", "trials")
_WAITS = {
    "for a CPU": ("runqueue", "runqueue_ns"),
    "of softirq NET_RX": ("softirq", "softirq_wait_ns:NET_RX"),
    "in a queue": ("qdisc", "qdisc_ns"),
}


def programs(
    trials: pd.DataFrame, samples: pd.DataFrame, facts: pd.DataFrame, campaign: Campaign
) -> tuple[Chart | Sentences, ...]:
    """For each flow the time of one run of the BPF programs at each hook of the path's devices."""
    ours = samples[samples["source"].eq("bpf_programs")]
    good = _good(trials, campaign)[["trial_id", "block", "treatment", "flow"]]
    joined = ours.merge(good, on="trial_id")
    if joined.empty:
        return (missing("bpf_programs", campaign),)
    split = joined["metric"].str.partition(":")
    joined = joined.assign(
        kind=split[0], hook=joined["endpoint"] + ", " + split[2].map(hook_name), raw=split[2]
    )
    several = _several(facts.merge(good, on="trial_id"))
    charts = [
        _programs(rows, several, campaign, flow=flow.name)
        for flow in campaign.flows
        if (rows := joined[joined["flow"].eq(flow.name)])["kind"].eq(_RUN).any()
    ]
    return tuple(charts) or (Sentences(("No BPF program ran on the path's devices: zero runs.",)),)


_RUN, _RUNS = "bpf_ns_per_run", "bpf_runs"


def hook_name(hook: str) -> str:
    """A hook without the part of a pod's device name that differs from pod to pod."""
    return _POD_DEVICE.sub("cali…", hook)


def _programs(
    rows: pd.DataFrame, several: dict[tuple[str, str], int], campaign: Campaign, *, flow: str
) -> Chart:
    style = looks(campaign)
    keys = ["hook", "treatment"]
    counts = rows[rows["kind"].eq(_RUNS)].groupby(keys)["value"].sum()
    ran = rows[rows["kind"].eq(_RUN)]
    enough = pd.MultiIndex.from_frame(ran[keys]).isin(counts.index[counts.ge(_FEWEST_RUNS)])
    few = sorted(set(ran.loc[~enough, "hook"]))
    ran = ran[enough]
    hooks = sorted(set(ran["hook"]))
    names = [name for name in baseline_first(campaign) if ran["treatment"].eq(name).any()]
    lines = [
        (hook, name)
        for hook in hooks
        for name in names
        if (ran["hook"].eq(hook) & ran["treatment"].eq(name)).any()
    ]
    figure = Figure(
        figsize=(WIDTH_IN, 0.9 + 0.21 * (len(lines) + 1.2 * len(hooks))), layout="constrained"
    )
    axes = figure.subplots()
    tidy(axes)
    ticks: list[float] = []
    labels: list[str] = []
    shown, heads, place = [], [], -1.0
    for hook in hooks:
        place += 1.2
        heads.append(len(labels))
        ticks.append(place)
        labels.append(hook)
        for name in (name for of, name in lines if of == hook):
            place += 1
            ticks.append(place)
            one = ran[ran["hook"].eq(hook) & ran["treatment"].eq(name)]
            count = counts[hook, name]
            many = max((several.get((name, raw), 1) for raw in one["raw"]), default=1)
            labels.append(name + (f" ({many} programs)" if many > 1 else ""))
            look, centre = style[name], anatomy.centred(one["value"], campaign)
            axes.plot(one["value"], np.full(len(one), place + 0.2), look.marker, alpha=0.55,
                      color=look.colour, markersize=3.5, markeredgewidth=0)  # fmt: skip
            axes.plot([centre.low, centre.high], [place - 0.08] * 2, color=look.colour, linewidth=2)
            axes.plot(centre.estimate, place - 0.08, look.marker, color=look.colour, markersize=5.5)
            axes.annotate(
                f"{units.duration_ns(centre.estimate)}, {count:,.0f} runs", (1.01, place),
                xycoords=("axes fraction", "data"), va="center", fontsize=8.5, color=INK,
            )  # fmt: skip
            shown.append((hook, name, many, centre.estimate, centre.low, centre.high, count))
    axes.set_yticks(ticks, labels)
    for head in heads:
        axes.get_yticklabels()[head].set_fontweight("bold")
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0, labelsize=8.5)
    axes.set_ylim(place + 0.7, -0.5)
    axes.set_xlim(left=0)
    axes.set_xlabel("ns a run, the clock's own time in it")
    columns = ["hook", "treatment", "programs", "ns_per_run", "low_ns", "high_ns", "runs"]
    title = f"BPF programs of flow {flow}: time of one run, by hook"
    if few:
        title += f" (fewer than {_FEWEST_RUNS} runs, and so not shown: {'; '.join(few)})"
    said = "; ".join(
        f"{hook} {name} {units.duration_ns(at)} of {count:,.0f} runs"
        for hook, name, _, at, _, _, count in shown
    )
    return Chart(figure, title, f"{title}. {said}.", pd.DataFrame(shown, columns=columns))


def _several(facts: pd.DataFrame) -> dict[tuple[str, str], int]:
    """(Treatment, hook) → how many programs hung there, where it was more than one."""
    rows = facts[facts["name"].str.startswith(_PROGRAMS_ON)]
    found: dict[tuple[str, str], int] = {}
    for treatment, name, value in zip(rows["treatment"], rows["name"], rows["value"], strict=True):
        key = str(treatment), str(name).removeprefix(_PROGRAMS_ON)
        count = str(value).count(",") + 1
        if count > 1:
            found[key] = max(count, found.get(key, 0))
    return found


# What fewer runs took is chance.
_FEWEST_RUNS = 30
_PROGRAMS_ON = "bpf_programs_on:"


def losses(
    trials: pd.DataFrame, samples: pd.DataFrame, campaign: Campaign
) -> tuple[Table | Sentences, ...]:
    """What was dropped and sent again by flow and treatment, summed over good trials; why."""
    good = _good(trials, campaign)
    wanted = {
        words: (probe, column)
        for words, (probe, column) in _LOSSES.items()
        if probe in campaign.optional_probes
    }
    said = _absent(_LOSSES, campaign)
    rows = []
    for flow, treatment, ours in _each(good, campaign):
        row: dict[str, object] = {"flow": flow, "treatment": treatment, "trials": len(ours)}
        for words, (_, column) in wanted.items():
            known = ours[column].dropna()
            row[words] = f"{int(known.sum()):,}" if len(known) else "–"
        if "drops" in campaign.optional_probes:
            row["why"] = _reasons(samples[samples["trial_id"].isin(ours["trial_id"])])
        rows.append(row)
    if not wanted or not rows:
        return said
    caption = "Dropped and sent again, sums over the good trials (– where no probe watched)"
    note = (
        "Dropped packets are those of the whole kernels that the ends are on, other traffic's too."
    )
    numeric = ("trials", *wanted)
    return (Table(caption, pd.DataFrame(rows), numeric=numeric, notes=(note,)), *said)


_LOSSES = {
    "dropped": ("drops", "dropped_packets"),
    "of the flow": ("drops", "flow_dropped_packets"),
    "segments sent again": ("retransmits", "retransmitted_segments"),
    "connections made": ("tcp_connect", "connects"),
}


def _reasons(samples: pd.DataFrame) -> str:
    """The most frequent reasons for which packets were dropped, with their numbers."""
    ours = samples[samples["source"].eq("drops") & samples["metric"].str.startswith("dropped:")]
    totals = ours.groupby("metric")["value"].sum().sort_values(ascending=False)
    listed = [
        f"{str(name).removeprefix('dropped:').replace('@', ' in ')} {int(count):,}"
        for name, count in totals.head(_MOST_REASONS).items()
    ]
    return "; ".join(listed)


_MOST_REASONS = 3


def _absent(wanted: Mapping[str, tuple[str, str]], campaign: Campaign) -> tuple[Sentences, ...]:
    """What is missing for want of a probe."""
    probes = dict.fromkeys(probe for probe, _ in wanted.values())
    return tuple(
        missing(probe, campaign) for probe in probes if probe not in campaign.optional_probes
    )


def _good(trials: pd.DataFrame, campaign: Campaign) -> pd.DataFrame:
    ours = compare.watched(trials, campaign)
    return ours[ours["status"].eq(Status.OK.value)]


def _each(good: pd.DataFrame, campaign: Campaign) -> Sequence[tuple[str, str, pd.DataFrame]]:
    """Flow, treatment and their trials, in the campaign's order, baseline first."""
    found = []
    for flow in campaign.flows:
        for name in baseline_first(campaign):
            ours = good[good["flow"].eq(flow.name) & good["treatment"].eq(name)]
            if len(ours):
                found.append((flow.name, name, ours))
    return found
