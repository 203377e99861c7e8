"""Time inside chosen kernel functions, from their entry to their return, of the whole kernel.

By fentry and fexit where the kernel takes them, by kprobe and kretprobe otherwise; function by
function, because the types of modules, which fentry needs, are apart.
"""

import os
import struct

import bpf_call
from ground import Probe as Base
from ground import Unavailable

NAMES = (
    "dev_hard_start_xmit",
    "ip_forward",
    "ip_local_deliver",
    "ip_rcv",
    "ip_tunnel_xmit",
    "ipip_tunnel_xmit",
    "nf_hook_slow",
    "tcf_classify",
    "tcp_v4_rcv",
    "udp_queue_rcv_skb",
    "vxlan_rcv",
    "vxlan_xmit",
)
FENTRY, KPROBE = "fentry", "kprobe"
DEPTH = 16  # a power of two
NOTHING = struct.pack("=BBhiBBhi", 0xB7, 0, 0, 0, 0x95, 0, 0, 0)  # return 0

SOURCE = r"""
/* What was entered and not left yet on a CPU: interrupts nest, so the last in is the first out. */
struct functions_stack {
    u64 slice;
    u64 depth;
    u64 who[FUNCTIONS_DEPTH];
    u64 began[FUNCTIONS_DEPTH];
};
BPF_PERCPU_ARRAY(functions_stacks, struct functions_stack, 1);

static __always_inline struct functions_stack *functions_here(void)
{
    u32 zero = 0;
    struct functions_stack *s = functions_stacks.lookup(&zero);
    u64 slice = slice_began();
    if (s && s->slice != slice) {
        s->slice = slice;
        s->depth = 0;
    }
    return s;
}

/* A task that was moved meanwhile must not be taken for another one in the same function. */
static __always_inline u64 functions_who(u64 function)
{
    return bpf_get_current_pid_tgid() << 32 | function;
}

static __always_inline int functions_enter(u32 function)
{
    struct functions_stack *s = functions_here();
    if (!s)
        return 0;
    u64 at = s->depth;
    if (at >= FUNCTIONS_DEPTH) {
        if (in_slice(bpf_ktime_get_ns()))
            tally(FUNCTIONS_ROW + FUNCTIONS_COUNT, 1);
        return 0;
    }
    /* The place is taken first, so that an interrupt in between uses the next one. */
    *(volatile u64 *)&s->depth = at + 1;
    at &= FUNCTIONS_DEPTH - 1;
    s->who[at] = functions_who(function);
    s->began[at] = bpf_ktime_get_ns();
    return 0;
}

static __always_inline int functions_leave(u32 function)
{
    u64 now = bpf_ktime_get_ns();
    struct functions_stack *s = functions_here();
    if (!s)
        return 0;
    u64 at = s->depth - 1;
    if (at < FUNCTIONS_DEPTH) {
        at &= FUNCTIONS_DEPTH - 1;
        u64 began = *(volatile u64 *)&s->began[at];
        if (s->who[at] == functions_who(function)) {
            *(volatile u64 *)&s->depth = at;
            if (in_slice(now))
                observe(FUNCTIONS_ROW + function, now - began);
            return 0;
        }
        s->depth = 0;
    }
    if (in_slice(now))
        tally(FUNCTIONS_ROW + function, 1);
    return 0;
}
"""
PROGRAMS = """
int functions_enter_{name}(void *ctx) {{ return functions_enter({number}); }}
int functions_leave_{name}(void *ctx) {{ return functions_leave({number}); }}
"""
# The return first: what returns before its entry was seen is known as such.
HOOKS = {
    FENTRY: (("fexit", "functions_leave_"), ("fentry", "functions_enter_")),
    KPROBE: (("kretprobe", "functions_leave_"), ("kprobe", "functions_enter_")),
}


class Probe(Base):
    """The ``functions`` probe. Options: ``functions``, their names; ``variant``, to force one."""

    name = "functions"
    hot = True

    def __init__(self, ground, options):
        names = sorted(options.get("functions", NAMES))
        there = traceable(ground.tracing)
        # Function -> its variant and how the observer is told of it.
        self.chosen = {}
        reasons = set()
        for name in names:
            if name in there:
                variant, event, why = choose(ground, name, options.get("variant"))
                reasons.update(why)
                if variant:
                    self.chosen[name] = variant, event
        self.missing = [name for name in names if name not in self.chosen]
        if not self.chosen and not reasons:
            message = "This kernel has none of the functions %s." % ", ".join(names)
            raise Unavailable("no_functions", message)
        if not self.chosen:
            why = "; ".join(sorted(reasons))
            raise Unavailable("no_kprobes", "No function of this kernel can be watched: %s." % why)
        self.rows = len(self.chosen) + 1
        self.flags = ["-DFUNCTIONS_COUNT=%d" % len(self.chosen), "-DFUNCTIONS_DEPTH=%d" % DEPTH]
        self.source = SOURCE + "".join(
            PROGRAMS.format(name=name, number=number) for number, name in enumerate(self.chosen)
        )
        self.hooks = tuple(
            (kind, event, prefix + name)
            for name, (variant, event) in self.chosen.items()
            for kind, prefix in HOOKS[variant]
        )

    def facts(self):
        """Which functions are watched and how, and which cannot be."""
        said = []
        for wanted in (FENTRY, KPROBE):
            names = [name for name, (variant, _) in self.chosen.items() if variant == wanted]
            if names:
                said.append("%s of %s" % (wanted, ", ".join(names)))
        return {"variant": "; ".join(said), "missing": ", ".join(self.missing) or "none"}

    def arm(self, maps, ends):
        """Forget what was entered and not left."""
        maps["functions_stacks"].zero()

    def read(self, maps, rows):
        """Per function: calls and bins, and returns whose entry was not seen; entries too deep."""
        found = {}
        for number, name in enumerate(self.chosen):
            row = rows[number]
            found[name] = {
                "events": row.events if row else 0,
                "bins": row.bins if row else [],
                "unmatched": row.tally if row else 0,
            }
        return {"functions": found, "too_deep": rows[-1].tally if rows[-1] else 0}


def traceable(tracing):
    """Names of the functions that this kernel can trace, or of all where it does not say."""
    lists = (os.path.join(tracing, "available_filter_functions"), 0), ("/proc/kallsyms", 2)
    for place, column in lists:
        try:
            with open(place) as stream:
                return {line.split()[column] for line in stream}
        except OSError:
            continue
    return set()


def choose(ground, name, forced):
    """The variant of a function (None where it has none), its event, why not the better ones."""
    why = []
    if forced in (None, FENTRY):
        try:
            number = ground.types().function(name)
            try_fentry(number)
            return FENTRY, "%s:%d" % (name, number), why
        except KeyError:
            why.append("fentry needs a function of the kernel itself, not of a module")
        except (OSError, Unavailable) as failure:
            why.append("fentry is refused (%s)" % (getattr(failure, "strerror", None) or failure))
    if forced in (None, KPROBE):
        if ground.kprobes():
            return KPROBE, name, why
        why.append("the kernel was built without kprobes")
    return None, "", why


def try_fentry(number):
    """Have the kernel take, run and let go a program that does nothing; OSError."""
    program = bpf_call.load_tracing(NOTHING, number, FENTRY)
    try:
        os.close(bpf_call.attach_tracing(program))
    finally:
        os.close(program)
