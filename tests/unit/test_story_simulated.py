"""What DESIGN section 1 says that connect() must show, looked for in drawings of simulated labs."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from plywire.lab.simulator import World
from plywire.lab.story import Focus, Renderer, Story
from plywire.lab.story.capture import Capture
from plywire.lab.story.model import tell

HOSTS = ("h1", "h2")
MS = 1_000_000
REQUEST = b"GET / HTTP/1.0\r\n\r\n"


class Play:
    """A world of two hosts, watched from the start."""

    def __init__(self, **wire: object) -> None:
        self.world = World(seed=1, hop_delay=10_000)
        self.world.wire("lan", delay=50_000, **wire)
        self.h1 = self.world.host("h1", "10.0.0.1/24")
        self.h2 = self.world.host("h2", "10.0.0.2/24")
        self.world.advance(3_000 * MS)  # both have announced themselves
        self.world.observe()

    def wait(self, call):
        self.world.run(call)
        return call.result()

    def listen(self, port: int = 80) -> int:
        listener = self.wait(self.h2.create_socket())
        self.wait(self.h2.bind(listener, ("", port)))
        self.wait(self.h2.listen(listener, 5))
        return listener

    def draw(self, focus: Focus | None = None, **how: object) -> list[str]:
        renderer = Renderer(HOSTS, **how)
        lines = renderer.head()
        for item in tell(self.world.trace, Story(HOSTS, focus)):
            lines += renderer.lines(item)
        return lines


def fetch(**wire: object) -> Play:
    """The whole story: name, socket, connect, request, answer, close, close."""
    play = Play(**wire)
    h1, h2, wait = play.h1, play.h2, play.wait
    listener = play.listen()
    accepted = h2.accept(listener)
    address = wait(h1.resolve("h2.lab"))[0]
    sock = wait(h1.create_socket())
    wait(h1.connect(sock, (address, 80)))
    other = wait(accepted).descriptor
    wait(h1.send(sock, REQUEST))
    wait(h2.recv(other, 1000))
    wait(h2.send(other, b"x" * 20_000))
    left = 20_000
    while left:
        left -= len(wait(h1.recv(sock, 65_536)).data)
    wait(h2.close_socket(other))
    assert wait(h1.recv(sock, 10)).end_of_stream
    wait(h1.close_socket(sock))
    play.world.advance(1_000 * MS)
    return play


@pytest.fixture(scope="module")
def play() -> Play:
    return fetch()


@pytest.fixture(scope="module")
def drawn(play) -> str:
    """The drawing with its continuation lines joined to those that they continue."""
    return unwrapped(play.draw())


def unwrapped(lines: list[str]) -> str:
    text = "\n".join(lines)
    return re.sub(r"\n {10}[│ ]+    (?=\S)", " ", text)


def test_a_name_becomes_an_address(drawn):
    assert "h1 app: name resolved name=h2.lab address=10.0.0.2" in drawn


def test_connect_hands_address_and_port_to_tcp_which_allocates_the_buffers(drawn):
    asked, answered = drawn.index("Connect descriptor=3 address=10.0.0.2:80"), drawn.index("+TCP")
    between = drawn[asked:answered]
    assert "Connect address=10.0.0.2 port=80" in between
    assert re.search(r"h1 tcp: CLOSED -> SYN-SENT \(active OPEN\).* send_buffer=\d+ "
                     r"receive_buffer=\d+", between)  # fmt: skip
    assert "buffer=" not in drawn[:asked]


def test_tcp_makes_a_header_and_ip_and_ethernet_put_theirs_in_front(drawn):
    syn, ip, ether = (drawn.index(word) for word in ("+TCP SYN src_port=", "+IPv4", "+Ethernet"))
    assert syn < ip < ether
    assert re.search(r"\+TCP SYN src_port=\d+ dst_port=80 seq=\d+ window=64240 mss=1460", drawn)
    assert "+IPv4 src=10.0.0.1 dst=10.0.0.2 ttl=64 protocol=6" in drawn
    assert "+Ethernet dst=02:00:0a:00:00:02 src=02:00:0a:00:00:01 type=0x0800" in drawn


def test_the_header_is_shown_with_bit_widths_when_asked(play):
    text = "\n".join(play.draw(bits=True))
    for row in (r"16 src_port +\d+", r"16 dst_port +80", r"32 seq +\d+", r"32 ack +0",
                r"4 data_offset +10 words", r"4 reserved +0",
                r"8 flags +CWR=0 ECE=0 URG=0 ACK=0 PSH=0 RST=0 SYN=1 FIN=0", r"16 window +64240",
                r"16 checksum +0x", r"16 urgent +0", r"32 option mss +1460"):  # fmt: skip
        assert re.search(rf"│ +{row}", text), row


def test_the_other_side_takes_the_headers_off_and_writes_a_new_socket(drawn):
    last, new = drawn.index("-IPv4 src=10.0.0.1"), drawn.index("h2 tcp: LISTEN -> SYN-RECEIVED")
    assert drawn.index("-Ethernet") < last < new
    assert re.search(r"LISTEN -> SYN-RECEIVED \(rcv SYN\) local=10.0.0.2:80 "
                     r"remote=10.0.0.1:\d+", drawn)  # fmt: skip
    assert new < drawn.index("+TCP SYN+ACK src_port=80")


def test_the_caller_is_established_and_connect_returns(drawn):
    mark = drawn.index("h1 tcp: SYN-SENT -> ESTABLISHED (rcv SYN,ACK)")
    assert mark < drawn.index("+TCP ACK") < drawn.index("h1 app: Connect returned")
    assert drawn.index("h1 app: Connect returned") < drawn.index("h2 tcp: SYN-RECEIVED -> ESTAB")


def test_both_sockets_are_shown_before_and_after(drawn):
    table = drawn[drawn.index("What each TCP has written") :]
    assert "The other host cannot see this" in table
    assert re.search(r"state +CLOSED +ESTABLISHED +LISTEN +ESTABLISHED", table)
    assert re.search(r"remote +empty +10.0.0.2:80 +empty +10.0.0.1:\d+", table)
    assert re.search(r"send_buffer +empty +\d+ +empty +\d+", table)


def in_order(words: tuple[str, ...], text: str) -> None:
    at = 0
    for word in words:
        assert word in text[at:], word
        at = text.index(word, at) + len(word)


def test_fin_ack_fin_ack_and_time_wait(drawn):
    end = drawn[drawn.index("h2 app: CloseSocket") :]
    in_order(("h2 tcp: ESTABLISHED -> FIN-WAIT-1", "h2 tcp: FIN-WAIT-1 -> FIN-WAIT-2",
              "h2 tcp: FIN-WAIT-2 -> TIME-WAIT"), end)  # fmt: skip
    in_order(("h1 tcp: ESTABLISHED -> CLOSE-WAIT", "h1 tcp: CLOSE-WAIT -> LAST-ACK",
              "h1 tcp: LAST-ACK -> CLOSED"), end)  # fmt: skip
    in_order(("+TCP FIN+", "►│    │  ACK seq=", "+TCP FIN+ACK", "◄──", "  ACK seq="), end)


def test_the_end_counts_and_measures(drawn):
    assert re.search(r"\d+ TCP segments, \d+ frames, \d+ hops between layers", drawn)
    # ARP and SYN and SYN,ACK: four crossings of the wire and nine of a pipe, 50 and 10 us each.
    assert re.search(r"handshake: 0\.2\d0 ms from the SYN to ESTABLISHED", drawn)
    assert "wire    67 %    0.200 ms" in drawn


def test_nobody_listens():
    play = Play()
    sock = play.wait(play.h1.create_socket())
    call = play.h1.connect(sock, ("10.0.0.2", 81))
    play.world.run(call)
    drawn = unwrapped(play.draw())
    assert re.search(r"\+TCP RST\+ACK src_port=81", drawn)
    assert "h1 tcp: SYN-SENT -> CLOSED (rcv RST)" in drawn
    assert re.search(r"Connect returned descriptor=3 error=ECONNREFUSED", drawn)
    assert "h2 tcp:" not in drawn


def test_a_wire_without_ethernet_shows_no_header_that_is_not_there():
    drawn = unwrapped(fetch(raw=True).draw())
    assert "Ethernet" not in drawn
    assert drawn.count("the bare IP packet") >= 2 * 3  # down and up, for SYN, SYN+ACK and ACK
    assert "SYN-SENT -> ESTABLISHED" in drawn


def test_a_lossy_wire_shows_what_is_sent_again():
    drawn = unwrapped(fetch(loss=0.25).draw())
    assert "sent again" in drawn
    assert "not seen to arrive" in drawn


def test_focus_finds_all_of_one_connection_among_others(play):
    alone = fetch()
    other = alone.wait(alone.h1.create_socket())
    alone.world.run(alone.h1.connect(other, ("10.0.0.2", 22)))
    focused = unwrapped(alone.draw(Focus("h1", 3, name="h2.lab")))
    assert "dst_port=22" not in focused
    assert "dst_port=22" in unwrapped(alone.draw())
    own = unwrapped(play.draw())
    begin = "h1 app: name resolved"
    times = r"\n *[\d,]+ "
    assert re.sub(times, "", focused[focused.index(begin) :]).splitlines()[0].startswith(begin)
    for line in own[own.index(begin) :].splitlines():
        what = line[48:].strip()
        if what and not what.startswith(("h2 app: Accept", "h2 app: Recv")):
            assert what in focused, what


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
def test_tshark_finds_nothing_to_complain_about(tmp_path):
    play = fetch()
    path = tmp_path / "fetch.pcapng"
    with path.open("wb") as file:
        tell(play.world.trace, Story(HOSTS, capture=Capture(file).take))
    done = subprocess.run(
        ["tshark", "-r", str(path), "-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE",
         "-Y", "_ws.malformed || tcp.analysis.flags || tcp.checksum.status == 0"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout == ""
