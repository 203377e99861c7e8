"""What is wrong with a cluster before a campaign's first trial; kept with it. It never refuses."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from ebpfperf import gathering
from ebpfperf.cluster import Cluster
from ebpfperf.diagnosis import Diagnosis, Verdict
from ebpfperf.diagnosis_groups import grouped
from ebpfperf.doctor import judge
from ebpfperf.doctor.declaration import Check
from ebpfperf.errors import EbpfperfError
from ebpfperf.evidence_sources import LATER, LOG
from ebpfperf.model import Campaign
from ebpfperf.store import Store

# What every check may ask for besides what it reads: is eBPF mode on, and what Felix acts on.
_ALWAYS = (
    "clusterinformation", "felixconfigurations", "ippools", "nodes", "pods", "felix-process", LOG,
)  # fmt: skip
# Treatments set the overlay and its flags themselves, and with them the MTU of the pods made anew.
OF_TREATMENTS = ("E1", "E2", "E3", "E7")
# Check → the fields that it judges: left out where a treatment sets one of them.
_OF_FIELDS: Mapping[str, Collection[str]] = {
    "C1": ("bpfKubeProxyIptablesCleanupEnabled",),
    "C5": ("bpfLogLevel",),
    "C6": ("bpfProfiling",),
}


def before(store: Store, cluster: Cluster, *, say: Callable[[str], None]) -> None:
    """Ask, keep the answer with the campaign, and say in a line each what fails or warns."""
    try:
        found = taken(cluster, store.campaign)
    except EbpfperfError as error:
        say(f"Before the first trial nothing could be checked: {error.what}")
        return
    store.add_preflight(found.as_json())
    for text in sentences(found):
        say(text)


def checks(campaign: Campaign) -> tuple[Check, ...]:
    """The checks that are asked: those that are cheap, and not of what treatments set."""
    fields = {field for treatment in campaign.treatments for field, _ in treatment.felix}
    left_out = {
        *OF_TREATMENTS,
        *(check for check, of in _OF_FIELDS.items() if fields.intersection(of)),
    }
    return tuple(each for each in judge.CHECKS if each.preflight and each.id not in left_out)


def sources(asked: Collection[Check]) -> frozenset[str]:
    """Names of what these checks read, once."""
    read = {name.removesuffix(LATER) for check in asked for name in check.reads}
    return frozenset({*_ALWAYS, *read})


def taken(cluster: Cluster, campaign: Campaign) -> Diagnosis:
    """What the checks say of the measured nodes, over the connections that are there.

    Raises
    ------
    KubeError
        The API cannot be reached.
    """
    asked = checks(campaign)
    nodes = {name: cluster.nodes[name] for name in (cluster.client_node, cluster.server_node)}
    evidence = gathering.gather(
        cluster.kube, list(nodes), ssh_config=None, seconds=0, maps=False, probes=False,
        only=sources(asked), connected=nodes,
    )  # fmt: skip
    return judge.diagnose(evidence, asked)


def sentences(found: Diagnosis) -> tuple[str, ...]:
    """What fails or warns, a line each, as ``FAIL: A4 bpffs (node-2): what``."""
    return tuple(
        f"{group.verdict}: {group.check} ({group.where(found.nodes)}): {' '.join(group.said())}"
        for group in grouped(found, (Verdict.FAIL, Verdict.WARN))
    )
