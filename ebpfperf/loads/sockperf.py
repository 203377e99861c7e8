"""Request/response latency by sockperf's ping-pong: every round trip, from its full log.

Closed loop: the next request leaves when the answer to the last one has come, so a stall delays
requests that an open load would have sent meanwhile, and they are missing from the percentiles
(coordinated omission). Compare treatments by it; do not read service levels from it.

The log has a row per answered request: number, time sent, time received (seconds), and half of
their difference (microseconds). The round trip here is the whole difference, in nanoseconds.
sockperf 3.7 leaves out its own first 400 ms and last 50 ms. It waits 2.3 s whatever is asked for:
0.1 s in the server and in the client for their clocks, 2 s before the test, 0.1 s after it.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from ebpfperf.histograms import FINE, quantile
from ebpfperf.loads import PORTS, WARMUP_S
from ebpfperf.loads.reasons import Reason, sentence
from ebpfperf.loads.serving import NOT_FOUND, Server, connected, missing, run_client, serving
from ebpfperf.model import Direction, Fact, Flow, Reading, Status
from ebpfperf.units import NS_PER_S

if TYPE_CHECKING:
    from ebpfperf.model import Endpoint
    from ebpfperf.remote import Node

LOG, TEXT, SERVER = "sockperf-log.csv.gz", "sockperf.txt", "sockperf-server.txt"
RUN = "sockperf.run"
_PACKAGE = "sockperf"
_DEFAULT_BYTES, _SMALLEST_BYTES = 64, 14
_TOOL_WAITS_S = 2.3
_MAY_LACK = 0.9
_GRACE_S = 15.0
_LIMIT_BYTES = 64_000_000

# The log goes through a pipe, compressed, and the words to stderr: no file on the node. sockperf's
# own exit status would be gzip's, and 0 for a refused connection anyway: it is printed instead.
_CLIENT = """\
{ "$@" --full-log /dev/fd/3 3>&1 >&2; echo "status=$?" >&2; } | gzip -1c
"""

_COLOUR = re.compile(r"\x1b?\[2;35m|\x1b?\[0m")
_HEADER = "packet, txTime(sec), rxTime(sec), latency(usec)"
_PERCENTILES = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999))
_WORDS = (
    ("refused", Reason.REFUSED),
    ("no route to host", Reason.UNREACHABLE),
    ("network is unreachable", Reason.UNREACHABLE),
    ("timed out", Reason.UNREACHABLE),
    ("connection reset", Reason.SERVER_DIED),
    ("errno=104", Reason.SERVER_DIED),
    ("no valid observations", Reason.NO_TRAFFIC),
    ("no messages were received", Reason.NO_TRAFFIC),
    ("unrecognized option", Reason.BAD_OPTION),
)


class RequestResponse:
    """Round trips of a request and its answer, one at a time, over TCP or UDP."""

    name: ClassVar[str] = "request-response"
    binaries: ClassVar[tuple[str, ...]] = ("sockperf", "stdbuf", "gzip")

    def traffic_s(self, flow: Flow) -> float:
        """Warm-up and measured seconds, and sockperf's own waits around them."""
        return _run_s(flow) + _TOOL_WAITS_S

    def check(self, flow: Flow) -> str | None:
        """What sockperf cannot do for this flow, as a sentence."""
        if flow.transport not in ("tcp", "udp"):
            return "request-response runs over transport tcp or udp."
        if flow.duration_s < 1:
            return "sockperf measures whole seconds: duration_s is at least 1."
        if flow.direction is not Direction.FORWARD or flow.streams != 1:
            return "request-response is one exchange at a time: direction forward, 1 stream."
        if flow.rate_bits_per_s is not None:
            return "request-response is a closed loop: it takes no rate."
        if flow.message_bytes is not None and not _SMALLEST_BYTES <= flow.message_bytes <= 65507:
            return f"sockperf sends messages of {_SMALLEST_BYTES} to 65507 bytes."
        if flow.congestion is not None or flow.mss_bytes is not None:
            return "sockperf sets neither congestion control nor segment size."
        return None

    def serve(
        self, flow: Flow, server: Endpoint, nodes: Mapping[str, Node]
    ) -> AbstractContextManager[Server]:
        """A ``sockperf server`` of the flow's transport."""

        def command(port: int) -> list[str]:
            # stdbuf: it never flushes its words into a pipe by itself.
            bound = ["-i", server.address, "-p", str(port)]
            return ["stdbuf", "-oL", "sockperf", "server", *_transport(flow), *bound]

        return serving(
            connected(nodes, server),
            server,
            command=command,
            ports=server.reachable(PORTS[self.name]),
            ready=b"to block on socket",
            package=_PACKAGE,
        )

    def drive(
        self, flow: Flow, client: Endpoint, server: Endpoint, nodes: Mapping[str, Node]
    ) -> dict[str, bytes]:
        """The full log, compressed; the client's and the server's words; what was dialled."""
        sender = connected(nodes, client)
        with self.serve(flow, server, nodes) as running:
            argv = self.client_argv(flow, client, server, port=running.port)
            done = run_client(
                sender,
                ["sh", "-c", _CLIENT, "client", *client.within(argv)],
                endpoint=client,
                timeout_s=self.traffic_s(flow) + _GRACE_S,
                limit_bytes=_LIMIT_BYTES,
            )
            said = running.stop()
        if f"status={NOT_FOUND}" in done.stderr.decode("utf-8", "replace"):
            raise missing(sender.name, _PACKAGE)
        run = {"argv": argv, "dialled": server.dialling(running.port)}
        return {LOG: done.stdout, TEXT: done.stderr, SERVER: said, RUN: json.dumps(run).encode()}

    def client_argv(
        self, flow: Flow, client: Endpoint, server: Endpoint, *, port: int
    ) -> list[str]:
        """The client's command, network namespace left out; ``port`` is the server's own."""
        argv = ["sockperf", "ping-pong", *_transport(flow), "-i", server.dialled_address]
        argv += ["-p", str(server.dialled_port(port)), "--client_ip", client.address]
        return [
            *argv,
            *("-m", str(flow.message_bytes or _DEFAULT_BYTES)),
            *("-t", str(_run_s(flow))),
        ]

    def parse(self, flow: Flow, raw: Mapping[str, bytes]) -> Reading:
        """Requests, their rate and percentiles of the round trip; or the reason for none.

        Percentiles are read from a histogram of every request with bins of at most 1.6 %: each is
        the middle of the bin that holds the observation of nearest rank. ``rr_max_ns`` and
        ``requests`` are exact.
        """
        words = _COLOUR.sub("", raw.get(TEXT, b"").decode("utf-8", "replace"))
        facts = tuple(
            Fact("", "sockperf_version", found[1])
            for found in re.finditer(r"version #(\S+)", words)
        )
        if dialled := json.loads(raw.get(RUN) or b"{}").get("dialled"):
            facts += (Fact("", "dialled", str(dialled)),)
        rows, problem, detail = _rows(raw.get(LOG, b""), words)
        if rows is None:
            return Reading(Status.FAILED, sentence(problem, detail), facts=facts)
        sent_s, received_s = rows[:, 1], rows[:, 2]
        # The first row already is 400 ms into the test.
        begin_s = sent_s[0] + max(0.0, flow.omit_s - WARMUP_S[self.name])
        kept = (sent_s >= begin_s) & (sent_s < begin_s + flow.duration_s)
        # Answers beyond the seconds show that a client held up at their end went on.
        lasted_s = float(received_s[-1] - begin_s)
        sent_s, received_s = sent_s[kept], received_s[kept]
        if not len(sent_s) or lasted_s < flow.duration_s * _MAY_LACK:
            said = f"answers cover {max(0.0, lasted_s):.2f} of {flow.duration_s} s"
            lost = Reason.STALLED if flow.transport == "udp" else Reason.SHORT
            return Reading(Status.FAILED, sentence(lost, said), facts=facts)
        rtts_ns = np.rint((received_s - sent_s) * NS_PER_S).astype(np.int64)
        bins = FINE.count(rtts_ns, probe=self.name, endpoint="client", metric="rr_ns")
        metrics = {
            "requests": float(len(rtts_ns)),
            "requests_per_s": len(rtts_ns) / min(lasted_s, flow.duration_s),
            "rr_max_ns": float(rtts_ns.max()),
        }
        for name, q in _PERCENTILES:
            found = quantile(bins, q)
            assert found is not None
            metrics[f"rr_{name}_ns"] = found.value_ns
        return Reading(metrics=metrics, histograms=bins, facts=facts)


def _transport(flow: Flow) -> list[str]:
    return ["--tcp"] if flow.transport == "tcp" else []


def _run_s(flow: Flow) -> int:
    """Whole seconds that sockperf is asked for: one of warm-up at least, of which it keeps 0.6."""
    return flow.duration_s + max(1, flow.omit_s)


def _rows(packed: bytes, words: str) -> tuple[NDArray[np.float64] | None, Reason, str]:
    """The log as rows of number, sent, received, half round trip; or why it cannot be used."""
    lowered = words.lower()
    failed = next((reason for words_, reason in _WORDS if words_ in lowered), None)
    error = re.search(r"ERROR: (.+)", words)
    if failed is not None or error:
        return None, failed or Reason.OTHER, error[1] if error else words.strip()[-200:]
    try:
        text = gzip.decompress(packed).decode("ascii")
    except (EOFError, zlib.error):
        return None, Reason.TRUNCATED, ""
    except (OSError, UnicodeDecodeError):
        return None, Reason.EMPTY if not packed else Reason.TRUNCATED, ""
    head, found, body = text.partition(_HEADER)
    if not found:
        return None, Reason.EMPTY, words.strip()[-200:]
    body, _, rest = body.partition("-----")
    counted = re.search(r"\[Valid Duration\].*ReceivedMessages=(\d+)", head)
    try:
        rows = np.array(body.replace(",", " ").split(), dtype=np.float64).reshape(-1, 4)
    except ValueError:
        return None, Reason.TRUNCATED, ""
    if counted is None or len(rows) != int(counted[1]):
        said = f"{len(rows)} rows, {counted[1] if counted else 'no number of'} answers"
        return None, Reason.INCONSISTENT if rest else Reason.TRUNCATED, said
    if not len(rows):
        return None, Reason.NO_TRAFFIC, ""
    if (rows[:, 2] < rows[:, 1]).any() or (np.diff(rows[:, 1]) < 0).any():
        return None, Reason.INCONSISTENT, "times run backwards"
    return rows, Reason.OTHER, ""
