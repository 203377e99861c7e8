// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The debug log, in the form of each release: tag, address notation, last line of a packet.
 *
 * Up to v3.29 the text ends in a newline and the kernel adds another, so that a blank line follows.
 */
#ifndef LOG_H
#define LOG_H

#include "packet.h"

#if RELEASE < 330
#define NL "\n"
#define ADDR "%x"
#define ADDR_OF(value) bpf_ntohl(value)
#define DENY_CODE "%x"
#define ALLOW_CODE "ALLOW (%d)"
#define HEX "%x"
#else
#define NL ""
#define ADDR "%pI4"
#define ADDR_OF(value) (&(value))
#define DENY_CODE "%d"
#define ALLOW_CODE "ALLOW rc %d"
#define HEX "0x%x"
#endif

#define LINE(level, text, ...)							\
	do {									\
		if (config.log_level >= (level))				\
			bpf_printk("%s: " text NL, (const char *)config.tag, ##__VA_ARGS__);	\
	} while (0)
#define INFO(text, ...) LINE(LOG_INFO, text, ##__VA_ARGS__)
#define DEBUG(text, ...) LINE(LOG_DEBUG, text, ##__VA_ARGS__)

#if RELEASE < 325
#define BYPASS_WORD "bit "
#else
#define BYPASS_WORD ""
#endif

/* Conntrack lines name the protocol by its number up to v3.29. */
#if RELEASE < 330
#define DEBUG_CT(proto, text, ...) DEBUG("CT-%d " text, proto, ##__VA_ARGS__)
#else
#define DEBUG_CT(proto, text, ...) DEBUG("CT: " text, ##__VA_ARGS__)
#endif

static __always_inline __u64 log_start(void)
{
	return config.log_level >= LOG_INFO ? bpf_ktime_get_ns() : 0;
}

static __always_inline int allow(const struct packet *p, int action)
{
	INFO("Final result=" ALLOW_CODE ". Program execution time: %lluns", action,
	     bpf_ktime_get_ns() - p->start_ns);
	return action;
}

static __always_inline int drop(const struct packet *p, enum reason reason)
{
#if RELEASE >= 324
	count(p->ifindex, reason);
#endif
	INFO("Final result=DENY (" DENY_CODE "). Program execution time: %lluns", reason,
	     bpf_ktime_get_ns() - p->start_ns);
	return TC_ACT_SHOT;
}

#endif
