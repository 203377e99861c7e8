"""From a campaign to its trials in order. Pure: opens nothing."""

from __future__ import annotations

import random

from ebpfperf import loads, metrics
from ebpfperf.campaign_file import load
from ebpfperf.model import Campaign, Quiet, Role, Treatment, Trial, trial_name

__all__ = ["estimate_s", "load", "notes", "schedule"]

MIN_BLOCKS_FOR_A_VERDICT = 6
_MOST_BLOCKS = 64

# For the estimate alone, from runs against the embedded cluster: what a trial takes beside its
# traffic, and what a treatment switch takes (Felix's restart is two of its seconds).
_TRIAL_OVERHEAD_S = 0.4
_SWITCH_S = 3.5


def schedule(campaign: Campaign) -> tuple[Trial, ...]:
    """The trials in the order in which they run.

    Blocks follow each other. Within a block the treatments are in random order, each once, and
    within a treatment the flows: both from the seed and the block's number alone, so that the same
    file gives the same order anywhere and further blocks leave the earlier ones as they were.

    With ``aa_test`` the baseline comes a second time, anywhere in the order, as if it were a
    treatment of its own. With ``probes_off`` its flows come twice, with the probes and bare; which
    of the two is first is random too. They do not mix: probes are taken off and put on once per
    block.
    """
    trials: list[Trial] = []
    for block in range(campaign.run_blocks):
        order = random.Random(f"{campaign.seed}:{block}")
        treatments = order.sample(campaign.treatments, len(campaign.treatments))
        for treatment, first in _with_again(campaign, treatments, block=block):
            roles = [first]
            if (
                campaign.probes_off
                and treatment.name == campaign.baseline
                and first is not Role.AGAIN
            ):
                roles = order.sample((Role.COMPARED, Role.BARE), 2)
            for role in roles:
                draw = (
                    random.Random(f"{campaign.seed}:{block}:{role}")
                    if role is Role.AGAIN
                    else order
                )
                for flow in draw.sample(campaign.flows, len(campaign.flows)):
                    trials.append(
                        Trial(
                            trial_id=f"b{block:03d}-{trial_name(treatment, flow, role=role)}",
                            block=block,
                            order=len(trials),
                            treatment=treatment,
                            flow=flow,
                            probes=() if role is Role.BARE else campaign.probes,
                            role=role,
                        )
                    )
    return tuple(trials)


def _with_again(
    campaign: Campaign, treatments: list[Treatment], *, block: int
) -> list[tuple[Treatment, Role]]:
    """The treatments in their order and, for an A/A test, the baseline once more among them.

    Its place is drawn apart, so that the order of the others is the same with it and without.
    """
    arms = [(treatment, Role.COMPARED) for treatment in treatments]
    if campaign.aa_test:
        place = random.Random(f"{campaign.seed}:{block}:place").randint(0, len(arms))
        arms.insert(place, (campaign.treatment(campaign.baseline), Role.AGAIN))
    return arms


def estimate_s(trials: tuple[Trial, ...], quiet: Quiet | None = None) -> float:
    """Seconds that running the trials takes, roughly: traffic, overhead and treatment switches.

    With ``quiet``, for how long the nodes are watched before each, and no time of waiting.
    """
    total, current = len(trials) * (0.0 if quiet is None else quiet.sample_s), None
    for trial in trials:
        if trial.treatment != current:
            total, current = total + _SWITCH_S, trial.treatment
        total += loads.load(trial.flow.load).traffic_s(trial.flow) + _TRIAL_OVERHEAD_S
    return total


def _blocks_to_establish(campaign: Campaign) -> int:
    """The fewest blocks whose smallest p, 2 / 2^n, holds for all metrics of a question (Holm)."""
    family = max(
        sum(
            metrics.metric(name).of(flow.load) and name in _MEASURED_BY.get(flow.load, ())
            for name in metrics.HEADLINE
        )
        for flow in campaign.flows
    )
    asked = (1 - campaign.level) / max(1, family)
    return next(n for n in range(1, _MOST_BLOCKS) if 2 / 2**n <= asked + 1e-12)


# The metrics that lead a report, by the load that gives them.
_BULK = ("received_bits_per_s", "cpu_s_per_gbit")
_MEASURED_BY = {
    "tcp": _BULK,
    "udp": _BULK,
    "request-response": ("rr_p50_ns", "rr_p99_ns", "rr_cpu_us_per_request"),
}


def notes(campaign: Campaign) -> tuple[str, ...]:
    """Sentences worth reading before the run."""
    found = []
    if campaign.blocks < MIN_BLOCKS_FOR_A_VERDICT:
        found.append(
            f"{campaign.blocks} blocks give no verdict: at least {MIN_BLOCKS_FOR_A_VERDICT} do."
        )
    elif (few := _blocks_to_establish(campaign)) > campaign.blocks:
        found.append(
            f"{campaign.blocks} blocks cannot establish a change over all metrics that lead a "
            f"question: at least {few} do."
        )
    if not any(flow.path == "host-host" for flow in campaign.flows):
        found.append("No host-host flow: the report cannot say what the underlay itself carries.")
    if campaign.aa_test:
        found.append(
            f"Trials whose id ends in -again run {campaign.baseline} a second time (A/A test): "
            "verdicts are marked if the two differ."
        )
    else:
        found.append("No A/A test: whether the method finds differences where none are is unknown.")
    if campaign.probes_off:
        found.append(
            f"Trials whose id ends in -bare run {campaign.baseline} without the probes "
            f"{', '.join(campaign.optional_probes)}: the report says what these cost."
        )
    return tuple(found)
