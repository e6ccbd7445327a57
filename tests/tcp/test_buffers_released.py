"""DESIGN section 1, line 9: the end of a connection releases its buffers, and that can be seen."""

from __future__ import annotations

from .harness import ACK, FIN, Peer


def in_time_wait() -> Peer:
    peer = Peer()
    peer.data(b"x" * 80)  # which the program never reads
    peer.raw.end(0)
    peer.take()
    peer.ack(1)
    peer.data(b"", ACK | FIN)
    assert peer.state == "TIME-WAIT"
    return peer


def test_time_wait_has_no_buffers_and_no_queues() -> None:
    control = in_time_wait().tcb.control()
    assert [control[name] for name in ("send_buffer", "receive_buffer", "send_queue",
                                       "receive_queue", "out_of_order")] == [0] * 5  # fmt: skip


def test_ss_shows_empty_queues_in_time_wait() -> None:
    peer = in_time_wait()
    (row,) = peer.raw.layer.describe("connections", peer.raw.now)
    assert (row["recv_q"], row["send_q"]) == (0, 0)


def test_nothing_waits_for_a_program_that_has_closed_its_descriptor() -> None:
    peer = Peer()
    peer.data(b"x" * 80)
    assert peer.tcb.receive_queue == 80
    peer.raw.close(0)
    assert peer.state == "FIN-WAIT-1"
    assert peer.tcb.receive_queue == 0


def test_an_established_connection_has_its_buffers() -> None:
    control = Peer().tcb.control()
    assert control["send_buffer"] > 0
    assert control["receive_buffer"] > 0
