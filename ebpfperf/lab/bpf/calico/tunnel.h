// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The tunnel between nodes for NodePorts: VXLAN (RFC 7348) with a network number of its own, no
 * checksum, and an inner Ethernet header of zeros.
 */
#ifndef TUNNEL_H
#define TUNNEL_H

#include "log.h"
#include "packet.h"

#define NODEPORT_VNI 0xca11c0
#define VXLAN_FLAG_VNI 0x08000000

struct vxlan_headers {
	struct iphdr ip;
	struct udphdr udp;
	__be32 flags;
	__be32 vni;
	struct ethhdr eth;
} __attribute__((packed));

#define OVERHEAD ((int)sizeof(struct vxlan_headers))

_Static_assert(sizeof(struct vxlan_headers) == 50, "VXLAN over IPv4 costs 50 bytes");

/* Whether the packet carries an overlay: what it carries is looked at on the tunnel's device. */
static __always_inline bool is_overlay(const struct packet *p)
{
	return p->proto == IPPROTO_IPIP ||
	       (p->proto == IPPROTO_UDP && p->dport == config.vxlan_port && !p->fragment);
}

enum wrapped { NOT_WRAPPED, UNWRAPPED, UNWANTED, UNWRAP_FAILED };

static __always_inline enum wrapped unwrap(struct __sk_buff *skb, struct packet *p)
{
	struct vxlan_headers outer;
	struct route *from;

	if (p->proto != IPPROTO_UDP || p->dport != config.vxlan_port || p->daddr != config.host_ip)
		return NOT_WRAPPED;
	if (bpf_skb_load_bytes(skb, p->l3, &outer, sizeof(outer)))
		return NOT_WRAPPED;
	if (!(outer.flags & bpf_htonl(VXLAN_FLAG_VNI)))
		return NOT_WRAPPED;
	if (bpf_ntohl(outer.vni) >> 8 != NODEPORT_VNI || outer.udp.check)
		return NOT_WRAPPED;
	from = route_of(p->saddr);
	if (!route_has(from, ROUTE_HOST)) {
		DEBUG("VXLAN with our VNI (" HEX ") from unexpected source.", NODEPORT_VNI);
		return UNWANTED;
	}
	DEBUG("vxlan decap");
	p->tun_src = p->saddr;
	return bpf_skb_adjust_room(skb, -OVERHEAD, BPF_ADJ_ROOM_MAC, 0) ? UNWRAP_FAILED : UNWRAPPED;
}

static __always_inline bool too_long_to_wrap(struct __sk_buff *skb, const struct packet *p)
{
	if (skb->gso_size || p->ip_bytes <= config.tunnel_mtu)
		return false;
	DEBUG("SKB too long (len=%d) vs limit=%d", p->ip_bytes, config.tunnel_mtu);
	return true;
}

/* Wrap the packet for another node; ``p`` describes the outer packet afterwards. */
static __noinline int wrap(struct __sk_buff *skb, struct packet *p, __u32 node)
{
	__u64 flags = BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | BPF_F_ADJ_ROOM_ENCAP_L4_UDP |
		      BPF_F_ADJ_ROOM_ENCAP_L2(ETH_HLEN) | BPF_F_ADJ_ROOM_ENCAP_L2_ETH;
	struct iphdr ip = {
		.version = 4,
		.ihl = 5,
		.tos = p->tos,
		.tot_len = bpf_htons(p->ip_bytes + OVERHEAD),
		.frag_off = p->dont_fragment ? IP_DONT : 0,
		.ttl = 64,
		.protocol = IPPROTO_UDP,
		.saddr = config.host_ip,
		.daddr = node,
	};
	struct vxlan_headers outer = {
		.udp = {
			.source = bpf_htons(config.vxlan_port),
			.dest = bpf_htons(config.vxlan_port),
			.len = bpf_htons(p->ip_bytes + OVERHEAD - sizeof(struct iphdr)),
		},
		.flags = bpf_htonl(VXLAN_FLAG_VNI),
		.vni = bpf_htonl(NODEPORT_VNI << 8),
		.eth = { .h_proto = bpf_htons(ETH_P_IP) },
	};

	DEBUG("vxlan encap " ADDR " : " ADDR, ADDR_OF(ip.saddr), ADDR_OF(ip.daddr));
	ip.check = ip_checksum(&ip);
	outer.ip = ip;
	if (bpf_skb_adjust_room(skb, OVERHEAD, BPF_ADJ_ROOM_MAC, flags))
		return -1;
	if (bpf_skb_store_bytes(skb, p->l3, &outer, sizeof(outer), BPF_F_INVALIDATE_HASH))
		return -1;
	p->saddr = config.host_ip;
	p->daddr = node;
	p->sport = p->dport = config.vxlan_port;
	p->proto = IPPROTO_UDP;
	p->ip_bytes += OVERHEAD;
	p->ttl = 64;
	return 0;
}

/* Since v3.31 the overlay's VXLAN device takes each packet's destination from the packet itself. */
static __always_inline int set_tunnel_key(struct __sk_buff *skb, __u32 node)
{
	struct bpf_tunnel_key key = {
		.tunnel_id = config.vxlan_vni,
		.remote_ipv4 = bpf_ntohl(node),
		.tunnel_ttl = 64,
	};

	return bpf_skb_set_tunnel_key(skb, &key, sizeof(key), BPF_F_ZERO_CSUM_TX | BPF_F_DONT_FRAGMENT);
}

#endif
