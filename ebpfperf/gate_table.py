"""The validity gates: what each asks, its limit and the ground for it, and what to do. Pure.

docs/gates.md is this table for readers; a test holds them together.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """What a gate says of a number.

    ``VOID``: it is of something else than was asked, and takes no part. ``DOUBT``: it stands, and
    this stands beside it. ``UNCHECKED``: nobody knows; never the same as having passed.
    """

    VOID = "void"
    DOUBT = "doubt"
    UNCHECKED = "unchecked"


class Scope(StrEnum):
    """Of what one answer of a gate is."""

    TRIAL = "trial"
    ARM = "treatment and flow"
    TREATMENT = "treatment"
    FLOW = "flow"
    CAMPAIGN = "campaign"


@dataclass(frozen=True, slots=True)
class Gate:
    """One gate.

    Attributes
    ----------
    asks
        What is so when it trips, as a sentence.
    limit
        Beyond which number it trips, in words.
    ground
        Why that number.
    advice
        What to do, one sentence.
    severity
        What it can at most say.
    """

    name: str
    scope: Scope
    asks: str
    limit: str
    ground: str
    advice: str
    severity: Severity = Severity.DOUBT


IDLE_GROUND = "the campaign's own `quiet` section; its defaults where it asks for nothing"
STEAL_PCT = 2.0
OTHER_PCT = 2.0
CLOCK_STEP_S = 0.1
RETRANSMITTED_PCT = 1.0
SHORTEST_S = 10
FEWEST_REQUESTS = 1000
COVERED = 0.9
FEWEST_INTERVALS = 8
SHIFT_PCT = 10.0
EXPLAINED = 0.8
FULL_CORE_PCT = 95.0
IDLE_CORE_PCT = 80.0
SHARED_BUSY_PCT = 90.0
DRIFT_RANK = 0.8
FEWEST_BLOCKS = 6
STEADY_PCT = 1.0
CAP_BELOW_PCT = 10.0
LOST_PCT = 20.0

_TABLE = (
    Gate(
        "idle_load",
        Scope.TRIAL,
        "A node was not idle before the trial began.",
        "busy beyond `quiet.busy_pct` (15 %) in the last sample",
        IDLE_GROUND,
        "Find what else runs on the node, or give it more time: quiet.wait_s.",
    ),
    Gate(
        "other_traffic",
        Scope.TRIAL,
        "A NIC carried more than the flow.",
        f"before: beyond `quiet.nic_bits_per_s` (10 Mbit/s); during: beyond that and beyond "
        f"{OTHER_PCT:g} % of the flow's rate",
        "less than half of the usual margin of 5 % is not worth a doubt",
        "Measure while nothing else uses these nodes' network, or give the flow a pace below it.",
    ),
    Gate(
        "steal",
        Scope.TRIAL,
        "The hypervisor gave a node's processor time to others.",
        f"{STEAL_PCT:g} % of the time between the readings",
        "a processor-bound rate falls by as much; this is under half of the usual margin of 5 %",
        "Use dedicated hosts or more blocks; a burstable instance may have run out of credit.",
    ),
    Gate(
        "softnet_drops",
        Scope.TRIAL,
        "A full backlog refused packets before any socket or program saw them.",
        "1 packet",
        "the kernel drops there only when a processor cannot keep up with its queue",
        "Raise net.core.netdev_max_backlog, or spread receive work (RPS, more queues).",
    ),
    Gate(
        "clock",
        Scope.TRIAL,
        "The clock stepped, its source changed, or a processor's frequency was limited meanwhile.",
        f"a step of {CLOCK_STEP_S:g} s is void; any change of clock source, governor or "
        "frequency limit, and any throttling for heat, is a doubt",
        "ntpd steps from 0.128 s on and slews below it; a slew of 500 ppm is 0.015 s in 30 s",
        "Let time synchronisation finish before measuring; fix the governor and the cooling.",
        Severity.VOID,
    ),
    Gate(
        "rebooted",
        Scope.TRIAL,
        "A node was started anew during the trial.",
        "another boot_id",
        "what ran before and after is not one machine state",
        "Run the trial again once the node stays up.",
        Severity.VOID,
    ),
    Gate(
        "retransmit_storm",
        Scope.TRIAL,
        "Many segments were sent again.",
        f"{RETRANSMITTED_PCT:g} % of the segments",
        "at a loss of p a Reno window averages 1.22/sqrt(p) segments (Mathis et al. 1997): 12 at "
        "1 %, so that the rate is that of the loss",
        "Look for the loss first: drops, softnet and qdisc of both nodes, and the path's MTU.",
    ),
    Gate(
        "short_trial",
        Scope.TRIAL,
        "The trial is too short for what it is asked.",
        f"void: intervals cover less than {100 * COVERED:g} % of duration_s; doubt: bulk TCP "
        f"below {SHORTEST_S} s, or fewer than {FEWEST_REQUESTS} requests",
        "slow start and a first fill of buffers count in seconds (RFC 6349 asks for 30 s); below "
        "1000 requests fewer than ten lie beyond the 99th percentile",
        "Set a longer duration_s, 30 s for TCP where time allows, and omit_s of 1 s or more.",
        Severity.VOID,
    ),
    Gate(
        "not_steady",
        Scope.TRIAL,
        "The rate shifted or sloped within the trial.",
        f"{SHIFT_PCT:g} % between two parts, which explain {100 * EXPLAINED:g} % of the variance "
        f"of at least {FEWEST_INTERVALS} intervals",
        "twice the usual margin; independent noise of 10 % trips it in 1 of 200 trials of 10 "
        "intervals, and rarely in longer ones (simulated)",
        "Set a longer omit_s, and look at what began or ended on the nodes at that second.",
    ),
    Gate(
        "wrong_path",
        Scope.TRIAL,
        "Captured packets of the flow are not encapsulated as the treatment says.",
        "any difference",
        "the number is of another treatment",
        "Look at routes and tunnel devices of the nodes, and at who else changes the IP pools.",
        Severity.VOID,
    ),
    Gate(
        "clsact_drops",
        Scope.TRIAL,
        "BPF programs (or filters) on the path's devices dropped packets.",
        "1 packet: void on the device of an end's own pod, a doubt elsewhere",
        "nobody but the flow uses the kit's own pods; a NIC or tunnel carries others' packets too",
        "See which policy or program drops there: calico-bpf counters dump, tc -s qdisc.",
        Severity.VOID,
    ),
    Gate(
        "core_saturated",
        Scope.TRIAL,
        "One processor of an end was full: the number is of that processor, not of the path.",
        f"{FULL_CORE_PCT:g} % of the traffic's seconds, or of the load's only thread",
        "what is left is within the reading's error (a tick is 10 ms)",
        "Compare CPU per gigabit too, and add a flow with more streams as a question of its own.",
    ),
    Gate(
        "lab_shared_cpu",
        Scope.TRIAL,
        "Both ends ran on the same processors, and these were used up.",
        f"one kernel and {SHARED_BUSY_PCT:g} % busy",
        "then what one end takes is missing to the other",
        "Read ratios between treatments alone, and none of them as a node's own cost.",
    ),
    Gate(
        "drift",
        Scope.FLOW,
        "The baseline rose or fell over the campaign.",
        f"rank correlation with the block beyond {DRIFT_RANK:g} in {FEWEST_BLOCKS} or more "
        "blocks, and a change beyond the margin",
        "blocks cancel a drift that all arms share; an effect that depends on the state they "
        "drifted through is not cancelled",
        "Let the machines warm up, run more blocks, or look at temperature and neighbours.",
    ),
    Gate(
        "mtu_differs",
        Scope.ARM,
        "The ends' MTU is not what the treatment explains, or changed within an arm.",
        "any difference",
        "at 1500 bytes, 1 % of MTU is about 1 % of header share and of packets",
        "Fix mtu in the CNI configuration and mtuIfacePattern, or say that MTU is a factor.",
    ),
    Gate(
        "versions_differ",
        Scope.TREATMENT,
        "Kernel or tools are not the same at both ends, or in both arms.",
        "any difference",
        "iperf3 3.16 alone (a thread per stream) changes what is measured",
        "Bring the nodes to the same versions.",
    ),
    Gate(
        "bpf_log_level",
        Scope.TREATMENT,
        "Felix's BPF programs log, and the treatment does not ask for it.",
        "any value but Off",
        "the log takes longer than the forwarding (Calico's own warning)",
        "Set bpfLogLevel to Off in FelixConfiguration.",
    ),
    Gate(
        "probe_overhead",
        Scope.FLOW,
        "The probes changed what they watch.",
        "an interval beyond the margin between bare trials and watched ones",
        "an effect of the probes that is larger than what is asked for hides it",
        "Lower probe_share_pct, use fewer probes, or compare treatments by bare numbers.",
    ),
    Gate(
        "single_stream_cap",
        Scope.ARM,
        "One stream ran at a provider's known limit for single flows.",
        f"within {CAP_BELOW_PCT:g} % below 5 or 10 Gbit/s, the same within {STEADY_PCT:g} % in "
        f"all blocks, no core beyond {IDLE_CORE_PCT:g} %, the link not known to end there",
        "AWS: 5 Gbit/s a flow outside a cluster placement group, 10 within",
        "Add a flow with several streams; one stream cannot tell treatments apart here.",
    ),
    Gate(
        "failed_trials",
        Scope.ARM,
        "Many trials were lost, or many more in one arm than in the other.",
        f"{LOST_PCT:g} % of an arm's trials (excluded ones included), or as large a difference "
        "between the arms of two trials or more",
        "what fails is not a random part of what would have been measured",
        "See the reasons of the failed trials first.",
    ),
)

GATES: dict[str, Gate] = {gate.name: gate for gate in _TABLE}
