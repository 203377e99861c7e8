// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* One IPv4 packet, as far as this dataplane looks into it. */
#ifndef PACKET_H
#define PACKET_H

#include "checksum.h"
#include "config.h"

#define IP_FRAGMENT bpf_htons(0x1fff)
#define IP_MORE bpf_htons(0x2000)
#define IP_DONT bpf_htons(0x4000)

struct packet {
	__u64 start_ns;
	__u32 ifindex; /* of the device the program is on */
	__u32 saddr, daddr;
	__u16 sport, dport;
	__u32 l3, l4;   /* offsets of the two headers */
	__u16 ip_bytes, ip_id;
	__u8 proto, ttl;
	__u8 tos, tcp_bits;
	bool dont_fragment, fragment;
	__u32 seqno;
	__u32 tun_src; /* the node that wrapped it, for a NodePort */
};

enum parsed { PARSED, TOO_SHORT, MALFORMED, OPTIONS };

static __always_inline __u32 header_offset(void)
{
	return IS(KIND_L3) ? 0 : ETH_HLEN;
}

static __always_inline __u8 tcp_bits_of(const struct tcphdr *tcp)
{
	return (tcp->syn ? LEG_SYN : 0) | (tcp->ack ? LEG_ACK : 0) | (tcp->fin ? LEG_FIN : 0) |
	       (tcp->rst ? LEG_RST : 0);
}

static __always_inline enum parsed parse_ports(struct __sk_buff *skb, struct packet *p)
{
	struct tcphdr tcp = {};
	__be16 ports[2];

	if (p->proto != IPPROTO_TCP && p->proto != IPPROTO_UDP)
		return PARSED;
	if (bpf_skb_load_bytes(skb, p->l4, ports, sizeof(ports)))
		return TOO_SHORT;
	p->sport = bpf_ntohs(ports[0]);
	p->dport = bpf_ntohs(ports[1]);
	if (p->proto != IPPROTO_TCP)
		return PARSED;
	if (bpf_skb_load_bytes(skb, p->l4, &tcp, sizeof(tcp)))
		return TOO_SHORT;
	p->tcp_bits = tcp_bits_of(&tcp);
	p->seqno = tcp.seq;
	return PARSED;
}

static __always_inline enum parsed parse(struct __sk_buff *skb, struct packet *p)
{
	struct iphdr ip;

	p->l3 = header_offset();
	if (bpf_skb_load_bytes(skb, p->l3, &ip, sizeof(ip)))
		return TOO_SHORT;
	if (ip.ihl < 5)
		return MALFORMED;
	p->l4 = p->l3 + sizeof(ip);
	p->saddr = ip.saddr;
	p->daddr = ip.daddr;
	p->proto = ip.protocol;
	p->ttl = ip.ttl;
	p->tos = ip.tos;
	p->ip_bytes = bpf_ntohs(ip.tot_len);
	p->ip_id = bpf_ntohs(ip.id);
	p->dont_fragment = ip.frag_off & IP_DONT;
	/* Only the first fragment has ports: none of them is tracked. */
	p->fragment = ip.frag_off & (IP_FRAGMENT | IP_MORE);
	p->sport = p->dport = 0;
	p->tcp_bits = 0;
	if (ip.ihl > 5)
		return OPTIONS;
	return p->fragment ? PARSED : parse_ports(skb, p);
}

static __always_inline int lower_ttl(struct __sk_buff *skb, const struct packet *p)
{
	/* The TTL shares its word with the protocol, whose value does not matter to the difference. */
	__be16 old = bpf_htons((__u16)p->ttl << 8 | p->proto);
	__be16 new = bpf_htons((__u16)(p->ttl - 1) << 8 | p->proto);
	__u8 ttl = p->ttl - 1;
	int err;

	err = bpf_l3_csum_replace(skb, p->l3 + offsetof(struct iphdr, check), old, new, 2);
	return err ?: bpf_skb_store_bytes(skb, p->l3 + offsetof(struct iphdr, ttl), &ttl, 1, 0);
}

/* Rewrite the source (or the destination) and its port, checksums included. */
static __noinline int rewrite(struct __sk_buff *skb, struct packet *p, __u32 addr, __u16 port,
			      bool source)
{
	__u32 at = p->l3 + (source ? offsetof(struct iphdr, saddr) : offsetof(struct iphdr, daddr));
	__u32 old = source ? p->saddr : p->daddr;
	__be16 old_port = bpf_htons(source ? p->sport : p->dport), new_port = bpf_htons(port);
	__u64 udp = p->proto == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;
	__u32 sum = p->l4 + (udp ? offsetof(struct udphdr, check) : offsetof(struct tcphdr, check));
	int err = 0;

	if (p->proto == IPPROTO_TCP || p->proto == IPPROTO_UDP) {
		err |= bpf_l4_csum_replace(skb, sum, old, addr, BPF_F_PSEUDO_HDR | udp | 4);
		if (old_port != new_port) {
			err |= bpf_l4_csum_replace(skb, sum, old_port, new_port, udp | 2);
			err |= bpf_skb_store_bytes(skb, p->l4 + (source ? 0 : 2), &new_port, 2, 0);
		}
	}
	err |= bpf_l3_csum_replace(skb, p->l3 + offsetof(struct iphdr, check), old, addr, 4);
	err |= bpf_skb_store_bytes(skb, at, &addr, 4, 0);
	if (source) {
		p->saddr = addr;
		p->sport = port;
	} else {
		p->daddr = addr;
		p->dport = port;
	}
	return err;
}

#endif
