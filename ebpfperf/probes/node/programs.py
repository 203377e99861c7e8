"""The BPF programs of several probes in one object: compiled, loaded, attached and detached."""

import os

import bpf_call
from counting import ENDS, SOURCE
from ground import Unavailable

STATISTICS = ("run_time_ns", "run_cnt", "recursion_misses")


class Programs:
    """BPF programs of several probes in one object: compiled, loaded, attached and detached."""

    def __init__(self, probes):
        import bcc

        self.bcc = bcc
        self.attached = {}
        self.tracing = {}
        flags = ["-DENDS=%d" % ENDS, "-w"]
        row = 0
        self.first_row = {}
        for probe in probes:
            self.first_row[probe.name] = row
            flags.append("-D%s_ROW=%d" % (probe.name.upper(), row))
            flags += probe.flags
            row += probe.rows
        text = SOURCE + "\n".join(probe.source for probe in probes)
        try:
            self.bpf = bcc.BPF(text=text, cflags=flags)
        except Exception as error:  # bcc raises bare Exception for compile and load failures
            raise Unavailable("not_loaded", "BCC cannot compile the program: %s." % error) from None

    def attach(self, hooks):
        """Attach (kind, event, function) hooks that are not; Unavailable where that is refused."""
        for hook in hooks:
            if hook in self.attached:
                continue
            try:
                self.attached[hook] = self.link(*hook)
            except Exception as error:  # bcc raises bare Exception
                said = "%s %s is refused: %s." % (hook[0], hook[1], error)
                raise Unavailable("not_loaded", said) from None

    def link(self, kind, event, function):
        """Put a function on an event; returns what ends it.

        By BCC's library where its Python would hold one function alone for each event.
        """
        from bcc.libbcc import lib

        if kind == "tracepoint":
            program = self.bpf.load_func(function, self.bcc.BPF.TRACEPOINT)
            category, _, name = event.partition(":")
            handle = lib.bpf_attach_tracepoint(program.fd, category.encode(), name.encode())
            if handle < 0:
                raise OSError("the kernel refuses to attach to it")
            return lambda: lib.bpf_close_perf_event_fd(handle)
        if kind == "raw":
            program = self.bpf.load_func(function, self.bcc.BPF.RAW_TRACEPOINT)
            handle = lib.bpf_attach_raw_tracepoint(program.fd, event.encode())
            if handle < 0:
                raise OSError("the kernel refuses to attach to it")
            return lambda: os.close(handle)
        if kind in bpf_call.KINDS:
            # Not by BCC, which would read all types of the kernel anew for each program.
            if function not in self.tracing:
                code = self.bpf.dump_func(function)
                _, _, type_id = event.partition(":")
                self.tracing[function] = bpf_call.load_tracing(code, int(type_id), kind)
            handle = bpf_call.attach_tracing(self.tracing[function])
            return lambda: os.close(handle)
        if kind == "kprobe":
            self.bpf.attach_kprobe(event=event, fn_name=function)
            return lambda: self.bpf.detach_kprobe(event=event)
        self.bpf.attach_kretprobe(event=event, fn_name=function)
        return lambda: self.bpf.detach_kretprobe(event=event)

    def detach(self, hooks):
        """Detach those of the hooks that are attached."""
        for hook in hooks:
            end = self.attached.pop(hook, None)
            if end is not None:
                end()

    def statistics(self, hooks):
        """Numbers that the kernel keeps of the hooks' programs, added; empty where it keeps none.

        ``recursion_misses`` are events passed over because a program ran on that CPU (Linux 5.12).
        """
        found = {}
        for function in {function for _, _, function in hooks}:
            program = self.bpf.funcs.get(function.encode())
            handle = program.fd if program else self.tracing.get(function)
            if handle is None:
                continue
            try:
                with open("/proc/self/fdinfo/%d" % handle) as stream:
                    pairs = [line.split() for line in stream]
            except OSError:
                continue
            for pair in pairs:
                name = pair[0][:-1] if pair else ""
                if name in STATISTICS:
                    found[name] = found.get(name, 0) + int(pair[1])
        return found
