// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Marks, reasons and counters, by Calico release. */
#ifndef CODES_H
#define CODES_H

#include "layouts.h"

/* Marks on packets, read by the other hooks and by iptables. */
#if RELEASE < 321
#define MARK_SEEN 0xc1000000
#define MARK_BYPASS 0xc3000000
#define MARK_NAT_OUT 0xc3800000
#else
#define MARK_SEEN 0x01000000
#define MARK_BYPASS 0x03000000
#define MARK_NAT_OUT 0x01800000
#endif
#define MARK_KEY_SET 0x41000000

/* Reasons: up to v3.23 codes of their own, printed in hex; since v3.24 numbers of counters. */
#if RELEASE < 324
enum reason {
	R_UNKNOWN = 0x00,
	R_SHORT = 0x01,
	R_BYPASS = 0xbb,
	R_POLICY = 0xbe,
	R_CONNTRACK = 0xc0,
	R_CHECKSUM = 0xcf,
	R_DECAP = 0xdf,
	R_OPTIONS = 0xeb,
	R_MALFORMED = 0xec,
	R_SOURCE = 0xed,
	R_ENCAP = 0xef,
	R_ROUTE = 0xdead,
};
#else
enum reason {
	R_UNKNOWN = 0,
	R_SHORT = 5,
	R_BYPASS = 3,
	R_POLICY = 4,
	R_CONNTRACK = RELEASE >= 330 ? 16 : 0,
	R_CHECKSUM = 6,
	R_OPTIONS = 7,
	R_MALFORMED = 8,
	R_ENCAP = 9,
	R_DECAP = 10,
	R_SOURCE = 11,
	R_ROUTE = 12,
};
#endif

enum counter {
	C_TOTAL = 0,
	C_POLICY_OK = 2,
	C_BYPASS = 3,
	C_REDIRECT = 17,
	C_REDIRECT_NEIGH = 18,
	C_REDIRECT_PEER = 19,
	C_COUNT = RELEASE >= 332 ? 27 : RELEASE >= 331 ? 25 : RELEASE >= 330 ? 17 : 14,
};

#endif
