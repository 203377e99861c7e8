"""Everything that is gathered for a diagnosis: commands on nodes, lists of the API. Pure data.

None of it changes anything. ``docs/doctor.md`` shows this table.
"""

from __future__ import annotations

from dataclasses import dataclass

from ebpfperf.felix_values import FILE
from ebpfperf.network_view import LINKS_ARGV

LATER = "/later"
"""Ending of the source's name for the second reading of what is read twice."""

# Felix's own process knows also what its pod takes from elsewhere; its root is the container's.
# Who shares the node's network is the node's: a machine may hold several.
FELIX = f"""\
own=$(readlink /proc/self/ns/net)
for d in /proc/[0-9]*; do
  read -r comm <"$d/comm" || continue
  [ "$comm" = calico-node ] || continue
  [ "$(readlink "$d/ns/net")" = "$own" ] || continue
  tr '\\0' ' ' <"$d/cmdline" | grep -q -e -felix || continue
  echo '==> environment <=='
  tr '\\0' '\\n' <"$d/environ" | grep -i '^FELIX_'
  echo '==> file <=='
  [ -e "$d/root{FILE}" ] && cat "$d/root{FILE}"
  exit 0
done 2>/dev/null
echo '==> no process <=='
"""
# comm, pid, and of stat(5) the ticks in user and kernel mode: what took processor time between two
# readings. The first line is ticks a second and the boot's age.
PROCESSES = """\
own=$(readlink /proc/self/ns/net)
echo "$(getconf CLK_TCK) $(cut -d' ' -f1 /proc/uptime)"
for d in /proc/[0-9]*; do
  read -r comm <"$d/comm" || continue
  case "$comm" in calico-node|kube-proxy|iperf3) ;; *) continue ;; esac
  [ "$(readlink "$d/ns/net")" = "$own" ] || continue
  set -- $(sed 's/.*) //' "$d/stat")
  echo "$comm ${d#/proc/} ${12} ${13}"
done 2>/dev/null
"""
SETTINGS = """\
cd /proc/sys && grep -sH . kernel/bpf_stats_enabled kernel/unprivileged_bpf_disabled \
net/core/bpf_jit_enable net/core/bpf_jit_harden \
net/ipv4/conf/all/rp_filter net/ipv4/ip_forward net/ipv4/conf/all/accept_local
true
"""
# All tables that are there: asking for nat would load it. A dash: the program is not installed.
RULES = """\
counted() {
  pattern=$1; shift
  command -v "$1" >/dev/null 2>&1 || { echo -; return; }
  "$@" 2>/dev/null | grep -c -- "$pattern"
}
for try in 1 2 3 4 5; do
  echo "$(date +%s.%N) iptables $(counted KUBE-S iptables-save) \
legacy $(counted KUBE-S iptables-legacy-save) nft $(counted kube-proxy nft list ruleset)"
  [ "$try" = 5 ] || sleep 0.4
done
"""
# Where Calico's connect-time load balancer hangs: its own mount of cgroup v2, or the host's.
CONNECT = """\
command -v bpftool >/dev/null || { echo 'bpftool is not installed'; exit 1; }
for d in /run/calico/cgroup /sys/fs/cgroup/unified /sys/fs/cgroup; do
  [ -d "$d" ] && echo "==> $d <==" && bpftool cgroup show "$d" 2>&1
done
true
"""
STATISTICS = """\
echo '==> softnet <=='; cat /proc/net/softnet_stat
echo '==> links <=='; ip -s -j link show
echo '==> snmp <=='; cat /proc/net/snmp /proc/net/netstat
echo '==> stat <=='; grep '^cpu' /proc/stat
"""
FILTERS = """\
for d in /sys/class/net/*; do
  for way in ingress egress; do
    found=$(tc filter show dev "${d##*/}" "$way" 2>/dev/null)
    [ -z "$found" ] || printf '==> %s %s <==\\n%s\\n' "${d##*/}" "$way" "$found"
  done
done
echo '==> net <=='; bpftool net show 2>&1
true
"""


@dataclass(frozen=True, slots=True)
class NodeSource:
    """A command that every node is asked.

    Attributes
    ----------
    twice
        Again after the seconds that the counting takes, as ``NAME/later``.
    """

    name: str
    argv: tuple[str, ...]
    what: str
    twice: bool = False


@dataclass(frozen=True, slots=True)
class ApiSource:
    """A list of the API.

    Attributes
    ----------
    asked
        As kubectl spells it.
    twice
        Again after the seconds that the counting takes, as ``NAME/later``.
    """

    name: str
    kind: str
    asked: str
    what: str
    twice: bool = False


def _script(text: str) -> tuple[str, ...]:
    return ("sh", "-c", text)


NODE_SOURCES = (
    NodeSource("kernel", ("uname", "-rm"), "kernel release and architecture"),
    NodeSource("os", ("cat", "/etc/os-release"), "the distribution"),
    NodeSource("bpffs", ("findmnt", "-n", "-o", "FSTYPE", "/sys/fs/bpf"), "is bpffs mounted"),
    NodeSource("pins", ("ls", "-1R", "/sys/fs/bpf"), "what is pinned"),
    NodeSource("links", LINKS_ARGV, "devices, their kinds, MTUs and addresses"),
    NodeSource("routes", ("ip", "-j", "route", "show", "table", "all"), "routes"),
    NodeSource("neighbours", ("ip", "-j", "neigh", "show"), "neighbours"),
    NodeSource("sockets", ("ss", "-Hulnp"), "who listens to UDP"),
    NodeSource("qdiscs", ("tc", "-s", "-j", "qdisc", "show"), "queueing disciplines"),
    NodeSource("settings", _script(SETTINGS), "sysctls that matter to eBPF"),
    NodeSource("mtu-file", ("cat", "/var/lib/calico/mtu"), "what Felix told the CNI plugin"),
    NodeSource("cloud", ("grep", "-sH", ".", "/sys/class/dmi/id/sys_vendor",
               "/sys/class/dmi/id/product_name", "/sys/class/dmi/id/board_asset_tag",
               "/sys/class/dmi/id/chassis_asset_tag", "/sys/hypervisor/uuid"),
               "whose machine it is"),
    NodeSource("felix-process", _script(FELIX), "environment and file of Felix's process"),
    NodeSource("connect-programs", _script(CONNECT), "programs at connect() of cgroups"),
    NodeSource("rules", _script(RULES), "kube-proxy's rules, counted five times in two seconds"),
    NodeSource("processes", _script(PROCESSES), "calico-node, kube-proxy: processor time", True),
    NodeSource("statistics", _script(STATISTICS), "what the kernel counts", True),
)  # fmt: skip
# For people who look at a bundle; no check reads them.
SUPPORT_SOURCES = (
    NodeSource("programs", ("bpftool", "-j", "prog", "show"), "BPF programs that are loaded"),
    NodeSource("filters", _script(FILTERS), "programs on devices, as tc and bpftool see them"),
)
API_SOURCES = (
    ApiSource("clusterinformation", "ClusterInformation", "kubectl get clusterinformation",
              "Calico's release"),
    ApiSource("felixconfigurations", "FelixConfiguration", "kubectl get felixconfiguration",
              "Felix's fields"),
    ApiSource("ippools", "IPPool", "kubectl get ippool", "pools and their overlays"),
    ApiSource("installations", "Installation", "kubectl get installation",
              "what the operator was told"),
    ApiSource("nodes", "Node", "kubectl get node", "nodes"),
    ApiSource("pods", "Pod", "kubectl get pod -A", "pods"),
    ApiSource("daemonsets", "DaemonSet", "kubectl get daemonset -A",
              "calico-node and kube-proxy as they are asked for"),
    ApiSource("configmaps", "ConfigMap",
              "kubectl get configmap -A --field-selector "
              "metadata.name=kubernetes-services-endpoint",
              "where Calico finds the API without kube-proxy"),
    ApiSource("services", "Service", "kubectl get service -A", "services"),
    ApiSource("endpointslices", "EndpointSlice", "kubectl get endpointslice -A",
              "who is behind the services", True),
)  # fmt: skip
# Gathered by calls of their own, see ``gathering``.
COUNTS, MAPS, LOG, VXLAN_PROBE, SOURCE_PROBE, TRAFFIC, MACHINE = (
    "counts", "maps", "log", "vxlan-probe", "source-probe", "traffic", "machine"
)  # fmt: skip
LOG_BEFORE = "log-before-restart"
POD_GAP = "pod-gap"
"""Not gathered: read from a campaign, see ``pod_gap``."""
MAP_KINDS = ("nat", "conntrack", "routes")
