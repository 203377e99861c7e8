"""Words that are the same in every cluster, and so say nothing about one. Pure data."""

from __future__ import annotations

from typing import Final

# Names of objects that Kubernetes, Calico and their installers give. What follows a hyphen after
# one of these is a pod's own ending, and gets a pseudonym.
WELL_KNOWN: Final = frozenset(
    """
    default kube-system kube-public kube-node-lease kubernetes kube-dns coredns kube-proxy
    kube-apiserver kube-controller-manager kube-scheduler etcd kube-proxy-windows
    calico-system calico-apiserver tigera-operator calico-node calico-typha calico-node-windows
    calico-kube-controllers calico-cni-plugin csi-node-driver calico goldmane whisker
    default-ipv4-ippool default-ipv6-ippool kubernetes-services-endpoint typha tigera
    metrics-server konnectivity-agent aws-node kindnet local-path-provisioner
    install-cni flexvol-driver ebpf-bootstrap mount-bpffs upgrade-ipam cluster-cidr
    """.split()
)
# Values of labels, and other short words, that are no names.
PLAIN_VALUES: Final = frozenset(
    """
    true false yes no on off none null linux windows amd64 arm64 k8s kdd kubeadm
    endpointslice-controller.k8s.io endpointslicemirroring-controller.k8s.io
    control-plane master worker node name host http https grpc dns dns-tcp metrics tcp udp sctp
    """.split()
)
# Ends of label and annotation keys' domains that are everybody's.
PUBLIC_DOMAINS: Final = (
    "kubernetes.io", "k8s.io", "projectcalico.org", "tigera.io", "lab.ebpfperf",
)  # fmt: skip
PUBLIC_KEYS: Final = frozenset(
    """
    k8s-app app tier component name role controller-revision-hash pod-template-hash
    pod-template-generation
    """.split()
)
# Labels whose values say what a machine is, not whose.
PLAIN_LABELS: Final = frozenset(
    {"node.kubernetes.io/instance-type", "beta.kubernetes.io/instance-type", "kubernetes.io/os",
     "beta.kubernetes.io/os", "kubernetes.io/arch", "beta.kubernetes.io/arch",
     "endpointslice.kubernetes.io/managed-by", "projectcalico.org/operator-node-migration"}
)  # fmt: skip
# Images of everybody's: the last part of their name stays, and the tag.
IMAGES: Final = frozenset(
    """
    node cni typha kube-controllers apiserver csi node-driver-registrar kube-proxy coredns etcd
    kube-apiserver kube-controller-manager kube-scheduler pause pod2daemon-flexvol operator
    iperf3 goldmane whisker whisker-backend node-windows
    """.split()
)
# Where an object is called like one of these, its name in free text is told from the word only
# by what stands around it (namespace/name, quotes): the words of logs and of iproute2's output.
ORDINARY: Final = frozenset(
    """
    a able about above accept accepted access action active add added addr address addresses after
    all allow allowed already also an and any api api-server apply approved arp as at attach
    attached auto be been before below beta bgp bird bit blackhole block body boot bpf bpffs bpftool
    bridge broadcast bug but by bytes cache cali calico cannot case cgroup chain change changed
    changes check checking clean cleanup client clock close cluster cni code collision command
    config configuration configured connect connected connection conntrack container content
    control core correct could count counter counters cpu create created cross daemon data
    dataplane date datastore debug default delete deleted denied deny detect dev device devices
    direct dirty disable disabled disk dns do does done down drop dropped drops dst due dump
    dynamic ebpf egress empty enable enabled encap end endpoint endpoints entries entry env
    environment err error errors etc etcd ether ethernet event events exec exit exiting expected
    external fail failed failure false felix fib field file filter find finished first flag flags
    flow for forever forward forwarding found free frontend from full gateway get global go group
    group handle has hash have health healthy helper host hosts http https id if ifindex iface
    in index inet inet6 info ingress init initial input inside install instead int interface
    interfaces internal invalid ip ipam ipip ipset ipsets iptables ipv4 ipv6 is it its jit job
    kernel key keys kind kube kubelet label labels last later learned length level libbpf limit
    line link links linux list listen lo load loaded loading local lock log logs loop loopback lost
    lower main manager map maps mark mask master match memory message metric metrics mode monitor
    mount mtu multicast name names nat neigh neighbour net netlink network new nft nftables no
    node nodes none noqueue not nothing notice ns ok old on one only open operation or other out
    output overlay own packet packets panic part pass path peer pending permanent pid pin pinned
    pipe pod pods policy pool pools port ports prefix probe process processes prog program
    programs proto protocol proxy qdisc queue rate reachable read ready real reason received
    redirect refused reject release reload remote remove removed replace reply report request
    reset resolve resource resources response restart restarted result resync retry return right
    root route routed router routes routing rule rules run running rx scope section secret select
    selector send server service services set setting settings sh share shared show signal
    size skip small socket source space spec src stale standard start started starting stat state
    static stats status stop store strict string success sync system table target tc tcp tcx
    template temp test text this thread time timeout to token total trace traffic true tunnel tx
    type typha udp unicast unix unknown unreachable up update updated upper use used user using
    valid value values veth version via virtual vxlan wait waiting warning was weight when with
    wireguard without worker workload write xdp zone
    """.split()
)
