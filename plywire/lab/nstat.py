"""Counters in the words, the order and the form of iproute2's `nstat`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from plywire.roles import APP, IP, LINK, TCP, Role

Counts = Mapping[tuple[str, Role], Mapping[str, int]]
"""A layer's own counters by (host, layer)."""

KNOWN: dict[Role, dict[str, str]] = {
    LINK: {
        "rx_packets": "LinkRxPackets",
        "rx_bytes": "LinkRxBytes",
        "rx_other_host": "LinkRxOtherHost",
        "tx_packets": "LinkTxPackets",
        "tx_bytes": "LinkTxBytes",
        "arp_requests_sent": "ArpRequestsSent",
        "arp_replies_sent": "ArpRepliesSent",
        "arp_probes_sent": "ArpProbesSent",
        "arp_announcements_sent": "ArpAnnouncementsSent",
        "arp_failed": "ArpFailed",
        "arp_changed": "ArpChanged",
        "arp_conflicts": "ArpConflicts",
        "arp_evicted": "ArpEvicted",
    },
    IP: {
        "ip_in_receives": "IpInReceives",
        "ip_in_hdr_errors": "IpInHdrErrors",
        "ip_in_addr_errors": "IpInAddrErrors",
        "ip_forw_datagrams": "IpForwDatagrams",
        "ip_in_unknown_protos": "IpInUnknownProtos",
        "ip_in_delivers": "IpInDelivers",
        "ip_out_requests": "IpOutRequests",
        "ip_out_discards": "IpOutDiscards",
        "ip_out_no_routes": "IpOutNoRoutes",
        "ip_reasm_timeout": "IpReasmTimeout",
        "ip_reasm_reqds": "IpReasmReqds",
        "ip_reasm_oks": "IpReasmOKs",
        "ip_reasm_fails": "IpReasmFails",
        "ip_frag_oks": "IpFragOKs",
        "ip_frag_fails": "IpFragFails",
        "ip_frag_creates": "IpFragCreates",
        "icmp_in_msgs": "IcmpInMsgs",
        "icmp_in_errors": "IcmpInErrors",
        "icmp_in_dest_unreachs": "IcmpInDestUnreachs",
        "icmp_in_time_excds": "IcmpInTimeExcds",
        "icmp_in_parm_probs": "IcmpInParmProbs",
        "icmp_in_src_quenchs": "IcmpInSrcQuenchs",
        "icmp_in_redirects": "IcmpInRedirects",
        "icmp_in_echos": "IcmpInEchos",
        "icmp_in_echo_reps": "IcmpInEchoReps",
        "icmp_in_timestamps": "IcmpInTimestamps",
        "icmp_in_timestamp_reps": "IcmpInTimestampReps",
        "icmp_out_msgs": "IcmpOutMsgs",
        "icmp_out_errors": "IcmpOutErrors",
        "icmp_out_rate_limit_global": "IcmpOutRateLimitGlobal",
        "icmp_out_dest_unreachs": "IcmpOutDestUnreachs",
        "icmp_out_time_excds": "IcmpOutTimeExcds",
        "icmp_out_parm_probs": "IcmpOutParmProbs",
        "icmp_out_echos": "IcmpOutEchos",
        "icmp_out_echo_reps": "IcmpOutEchoReps",
        "icmp_out_suppressed": "IcmpOutSuppressed",
        "udp_no_ports": "UdpNoPorts",
        "udp_in_errors": "UdpInErrors",
        "ip_in_no_ect_pkts": "IpExtInNoECTPkts",
        "ip_in_ect1_pkts": "IpExtInECT1Pkts",
        "ip_in_ect0_pkts": "IpExtInECT0Pkts",
        "ip_in_ce_pkts": "IpExtInCEPkts",
    },
    TCP: {
        "tcp_active_opens": "TcpActiveOpens",
        "tcp_passive_opens": "TcpPassiveOpens",
        "tcp_attempt_fails": "TcpAttemptFails",
        "tcp_estab_resets": "TcpEstabResets",
        "tcp_in_segs": "TcpInSegs",
        "tcp_out_segs": "TcpOutSegs",
        "tcp_retrans_segs": "TcpRetransSegs",
        "tcp_in_errs": "TcpInErrs",
        "tcp_out_rsts": "TcpOutRsts",
        "tcp_syncookies_sent": "TcpExtSyncookiesSent",
        "tcp_syncookies_recv": "TcpExtSyncookiesRecv",
        "tcp_syncookies_failed": "TcpExtSyncookiesFailed",
        "tcp_paws_rejected": "TcpExtPAWSEstab",
        "tcp_delayed_acks": "TcpExtDelayedACKs",
        "listen_overflows": "TcpExtListenOverflows",
        "tcp_sack_reneging": "TcpExtTCPSACKReneging",
        "tcp_fast_retrans": "TcpExtTCPFastRetrans",
        "tcp_timeouts": "TcpExtTCPTimeouts",
        "tcp_loss_probes": "TcpExtTCPLossProbes",
        "tcp_loss_probe_recovery": "TcpExtTCPLossProbeRecovery",
        "tcp_dsack_recv": "TcpExtTCPDSACKRecv",
        "tcp_abort_on_data": "TcpExtTCPAbortOnData",
        "tcp_abort_on_memory": "TcpExtTCPAbortOnMemory",
        "tcp_spurious_rtos": "TcpExtTCPSpuriousRTOs",
        "tcp_time_wait_overflow": "TcpExtTCPTimeWaitOverflow",
        "tcp_req_q_full_drop": "TcpExtTCPReqQFullDrop",
        "tcp_ofo_queue": "TcpExtTCPOFOQueue",
        "tcp_challenge_ack": "TcpExtTCPChallengeACK",
        "tcp_win_probe": "TcpExtTCPWinProbe",
        "tcp_keep_alive": "TcpExtTCPKeepAlive",
        "tcp_delivered_ce": "TcpExtTCPDeliveredCE",
    },
    APP: {
        "sockets_created": "AppSocketsCreated",
        "connections_opened": "AppConnectionsOpened",
        "connections_accepted": "AppConnectionsAccepted",
        "bytes_sent": "AppBytesSent",
        "bytes_received": "AppBytesReceived",
    },
}
"""nstat's names by the layers' own, in nstat's order; for what it does not have, names in its way.
With `-z` these are shown at zero too."""

GAUGES = frozenset({"tcp_curr_estab", "tcp_memory", "tcp_memory_bound"})
"""What is among the counters and goes up and down (RFC 4022), or stays: nstat leaves it out."""

_ORDER = (IP, TCP, LINK, APP)
"""nstat begins with IP and goes on to TCP; what it does not have follows."""


class Row(NamedTuple):
    """A counter of a host: its name for nstat, and its layer's own; per_second: its rate."""

    host: str
    layer: Role
    name: str
    key: str
    value: int
    per_second: float = 0.0


def name_of(layer: Role, key: str) -> str:
    """nstat's name of a counter: `TcpRetransSegs`, or one made in its way: `LinkDropNotForUs`."""
    known = KNOWN.get(layer, {}).get(key)
    if known is not None:
        return known
    words = [layer, *key.removeprefix(f"{layer}_").split("_")]
    if words[1] == "drop" and words[2:3] == [layer]:  # drop_tcp_bad_checksum
        del words[2]
    return "".join(word.capitalize() for word in words)


def rows(
    counts: Counts,
    *,
    zeros: bool = False,
    patterns: Sequence[str] = (),
    before: Counts | None = None,
    seconds: float = 0.0,
) -> list[Row]:
    """Counters by host, then in nstat's order, those at zero only when asked for.

    patterns: as for nstat, a name with wildcards, or the layer's own name. before: an earlier
    reading, `seconds` ago: values are the difference then, and rates are known.
    """
    found = []
    for host in dict.fromkeys(host for host, _ in counts):
        for layer in _ORDER:
            values = dict(counts.get((host, layer), {}))
            old = before.get((host, layer), {}) if before is not None else {}
            for key in _keys(layer, values, zeros):
                value = values.get(key, 0)
                rate = 0.0
                if before is not None:
                    if value >= old.get(key, 0):  # else the layer was started again meanwhile
                        value -= old.get(key, 0)
                    rate = value / seconds if seconds else 0.0
                name = name_of(layer, key)
                if (value or zeros) and _matches(name, key, patterns):
                    found.append(Row(host, layer, name, key, value, rate))
    return found


def lines(found: Iterable[Row]) -> list[str]:
    """As nstat prints them, the host where nstat has its source."""
    text: list[str] = []
    host = None
    for row in found:
        if row.host != host:
            host = row.host
            text.append(f"#{host}")
        text.append(f"{row.name:<31} {row.value:<16}{row.per_second:6.1f}")
    return text


def as_json(found: Iterable[Row]) -> str:
    """As `nstat -j`, by host: names and values."""
    hosts: dict[str, dict[str, int]] = {}
    for row in found:
        hosts.setdefault(row.host, {})[row.name] = row.value
    return json.dumps(hosts)


def drops(counters: Mapping[str, int]) -> dict[str, int]:
    """What a layer threw away, by reason."""
    return {
        key.removeprefix("drop_"): value
        for key, value in counters.items()
        if key.startswith("drop_") and value
    }


def _keys(layer: Role, values: Mapping[str, int], zeros: bool) -> list[str]:
    """The counters to show: the known ones in their order, others by name, drops last."""
    known = KNOWN[layer]
    others = sorted(
        set(values) - set(known) - GAUGES, key=lambda key: (key.startswith("drop_"), key)
    )
    return [key for key in known if zeros or key in values] + others


def _matches(name: str, key: str, patterns: Sequence[str]) -> bool:
    return not patterns or any(
        fnmatchcase(name, pattern) or fnmatchcase(key, pattern) for pattern in patterns
    )
