"""The messages that the layers hand one another; `proto/pipes.md` is their description.

A message is a NamedTuple, quick to build and already a msgpack array. On a pipe its `KIND` stands
in front of its fields. The first field is always the trace id (0: none), which every message
caused by another one inherits. The annotations are the schema: `plywire.envelope` checks type and
size of each field against them before a layer sees the message.

Addresses are 4 bytes, hardware addresses 6, times are nanoseconds, offsets count the bytes of a
stream from its start and do not wrap.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

SCHEMA = 3
"""The version that stands at the head of each batch. A reader refuses any other."""

NOTHING = 0xFFFF_FFFF_FFFF_FFFF
"""Of a stream's offsets: beyond every byte."""
MAX_PACKET = 65_535
MAX_FRAME = 65_600
MAX_CHUNK = 262_144
"""The most payload that one `Data` message carries."""


class Int(NamedTuple):
    """An integer from low to high, both included."""

    low: int
    high: int


class Bin(NamedTuple):
    """Bytes, low to high of them."""

    low: int
    high: int


class Text(NamedTuple):
    """A UTF-8 string of at most high characters."""

    high: int


class Rows(NamedTuple):
    """At most high arrays, each of exactly these fields."""

    high: int
    fields: tuple[Int | Bin | Text, ...]


class Scalar(NamedTuple):
    """An integer from low to high, or a UTF-8 string of at most length characters."""

    low: int
    high: int
    length: int


class Map(NamedTuple):
    """At most high pairs of a string and an integer or string."""

    high: int


U8 = Annotated[int, Int(0, 0xFF)]
U16 = Annotated[int, Int(0, 0xFFFF)]
U32 = Annotated[int, Int(0, 0xFFFF_FFFF)]
U64 = Annotated[int, Int(0, 0xFFFF_FFFF_FFFF_FFFF)]
Flag = Annotated[int, Int(0, 1)]
Address = Annotated[bytes, Bin(4, 4)]
Mac = Annotated[bytes, Bin(6, 6)]
Packet = Annotated[bytes, Bin(0, MAX_PACKET)]
FrameBytes = Annotated[bytes, Bin(0, MAX_FRAME)]
Chunk = Annotated[bytes, Bin(0, MAX_CHUNK)]
Name = Annotated[str, Text(64)]
Words = Annotated[str, Text(200)]
Endpoint = Annotated[str, Text(255)]
Setting = Annotated[int | str, Scalar(-(1 << 31), 0xFFFF_FFFF, 200)]
Settings = Annotated[dict, Map(64)]
PathRows = Annotated[tuple, Rows(1024, (Bin(4, 4), Int(0, 32), Bin(4, 4), Int(68, MAX_PACKET)))]
MemberRows = Annotated[tuple, Rows(1024, (Text(64), Text(255)))]


# --- every pipe -----------------------------------------------------------------------------------


class Hello(NamedTuple):
    """Who is there: sent when a neighbour's inbox is first reached, and in answer to a new one.

    generation: chosen at random when a process starts. A neighbour whose generation is new has
    forgotten everything; a layer then says again what that neighbour must know.
    """

    KIND = 1
    trace: U64
    role: Name
    generation: U64
    reply: Flag  # 1: an answer to a Hello; it is not answered again


class Barrier(NamedTuple):
    """Let a station on a wire know when all that it sent before this has been worked through.

    From the station to a link, up to app and down again, on each pipe behind what the layer made
    of everything before it. The link then answers the station with BarrierDone. No layer's core
    sees it.

    ifindex: the interface that the station is heard on; the link writes it. station: who asks;
    token: its own number for it.
    """

    KIND = 2
    trace: U64
    ifindex: U16
    station: Name
    token: U64


class Fence(NamedTuple):
    """A layer is about to be exchanged: nothing may be on its way to it meanwhile.

    stage 0: the layer has said all that it had to say, and asks. 1: the neighbour's answer, behind
    all that it had sent; what it has to send from then on waits. 2: the layer stays after all. The
    successor's Hello, or stage 2, or two seconds without either, ends the waiting. No core sees it.
    """

    KIND = 3
    trace: U64
    stage: U8
    token: U64


class Kept(NamedTuple):
    """This process has what the one before it had with the neighbour: said in front of a Hello.

    generation: this process's, as in that Hello; neighbour: of the neighbour's process that the one
    before knew. When it is that one, nothing is forgotten, and both say again what may be lost.
    """

    KIND = 4
    trace: U64
    generation: U64
    neighbour: U64


# --- ip <-> link ----------------------------------------------------------------------------------

FLAG_BROADCAST = 1
"""The packet came in a frame for everybody, so it may not be answered with an error."""
FLAG_DONT_FRAGMENT = 2


class Datagram(NamedTuple):
    """An IP packet. Down: `next_hop` names the neighbour. Up: `next_hop` is 0.0.0.0.

    flags: up, FLAG_BROADCAST.
    """

    KIND = 16
    trace: U64
    ifindex: U16
    next_hop: Address
    flags: U8
    packet: Packet


class NeighbourFailed(NamedTuple):
    """link -> ip: no station answers for `next_hop`; `packet` is what was to be sent to it."""

    KIND = 17
    trace: U64
    ifindex: U16
    next_hop: Address
    packet: Packet


class Interface(NamedTuple):
    """link -> ip: an interface and what it is now; sent to each new ip and at each change."""

    KIND = 18
    trace: U64
    ifindex: U16
    name: Name
    mac: Mac
    mtu: U16
    up: Flag


# --- tcp <-> ip -----------------------------------------------------------------------------------


class Segment(NamedTuple):
    """The payload of an IP packet between a transport and ip.

    Down: flags FLAG_DONT_FRAGMENT; up: flags FLAG_BROADCAST. tos is the whole octet (DSCP, ECN).
    ttl: down 0 for the default; up as received.
    """

    KIND = 32
    trace: U64
    protocol: U8
    src: Address
    dst: Address
    tos: U8
    ttl: U8
    flags: U8
    payload: Packet


class PacketError(NamedTuple):
    """ip -> tcp: an ICMP error about a packet that this host sent, or its local equivalent.

    local: 1 when this host found out itself (no route, no neighbour, too big), 0 when `reporter`
    said so. type and code are ICMP's; mtu is that of code 4, else 0. src, dst and quote (the first
    bytes of the transport header, at least 8 unless local) are the offending packet's.
    """

    KIND = 33
    trace: U64
    protocol: U8
    local: Flag
    reporter: Address
    type: U8
    code: U8
    mtu: U16
    src: Address
    dst: Address
    quote: Packet


class Paths(NamedTuple):
    """ip -> tcp: every route as (prefix, length, source address to use, mtu); longest match wins.

    Sent to each new tcp and at each change; it replaces what was sent before. The host's own
    addresses are in it with length 32.
    """

    KIND = 34
    trace: U64
    rows: PathRows


# --- app <-> tcp: control -------------------------------------------------------------------------
# A handle names a socket on this boundary. app chooses even ones, tcp odd ones (for connections
# that came in). Errors are errno names, "" for success; cause says what happened in words.


class Bind(NamedTuple):
    """app -> tcp: reserve a local port (0: any). Answered by Bound."""

    KIND = 48
    trace: U64
    handle: U64
    address: Address
    port: U16
    reuse: Flag


class Bound(NamedTuple):
    """tcp -> app: the answer to Bind and to Listen."""

    KIND = 49
    trace: U64
    handle: U64
    address: Address
    port: U16
    error: Name
    cause: Words


class Listen(NamedTuple):
    """app -> tcp: accept connections at the bound address (or at any port). Answered by Bound.

    options are those of the socket, inherited by its connections.
    """

    KIND = 50
    trace: U64
    handle: U64
    backlog: U32
    options: Settings


class Connect(NamedTuple):
    """app -> tcp: open a connection; the buffers are allocated now. limit: the first credit.

    Answered by Opened or Closed.
    """

    KIND = 51
    trace: U64
    handle: U64
    address: Address
    port: U16
    limit: U64
    options: Settings


class Opened(NamedTuple):
    """tcp -> app: the connection is ESTABLISHED. listener: 0, or the handle that it came in on.

    limit: how far the app may send (an offset), as in Credit.
    """

    KIND = 52
    trace: U64
    handle: U64
    listener: U64
    local_address: Address
    local_port: U16
    remote_address: Address
    remote_port: U16
    limit: U64


class Accepted(NamedTuple):
    """app -> tcp: a program has taken this connection; its place in the backlog is free."""

    KIND = 53
    trace: U64
    handle: U64


class Close(NamedTuple):
    """app -> tcp: the program has closed the descriptor; nothing more will be read or written.

    offset: the end of the stream sent. abort: 1 to send RST and forget (data left unread, or
    SO_LINGER 0), 0 to finish with FIN.
    """

    KIND = 54
    trace: U64
    handle: U64
    offset: U64
    abort: Flag


class Closed(NamedTuple):
    """tcp -> app: the connection (or the attempt) is over; the handle is free.

    error: "" after an orderly close on both sides, else why it ended (`ECONNRESET`).
    """

    KIND = 55
    trace: U64
    handle: U64
    error: Name
    cause: Words


class Option(NamedTuple):
    """app -> tcp: set an option of a connection or listener (`TCP_NODELAY`), by Linux's name, to a
    number or, as TCP_CONGESTION, a word."""

    KIND = 56
    trace: U64
    handle: U64
    name: Name
    value: Setting


AGAIN = "again"
"""The topic of a Query by which an app that has recovered asks to be told everything again."""


class Query(NamedTuple):
    """app -> tcp: what is in this socket's control block? Answered by Info. topic: "" for the
    block, "tcp_info" for Linux's struct, "congestion" for the algorithms that there are, AGAIN for
    nothing: what tcp says behind that Info is meant for this app, and not for one that died."""

    KIND = 57
    trace: U64
    handle: U64
    topic: Name = ""


class Info(NamedTuple):
    """tcp -> app: the control block by the RFC's field names, or what the topic is about; empty
    when there is none."""

    KIND = 58
    trace: U64
    handle: U64
    fields: Settings
    topic: Name = ""


# --- app <-> tcp: the stream, the same in both directions -----------------------------------------


class Data(NamedTuple):
    """Bytes of the stream from `offset` on. What lies before the receiver's `acked` is a repeat."""

    KIND = 64
    trace: U64
    handle: U64
    offset: U64
    payload: Chunk


class Credit(NamedTuple):
    """The receiver of Data has taken all bytes before `acked` and takes those before `limit`.

    From app to tcp, acked is what the program has read and limit - acked is the receive buffer:
    TCP's receive window is limit - rcv_nxt. From tcp to app, acked is what the send buffer holds
    and limit is where it would be full. needed: those from here on may be asked for again, by an
    app that had died and has recovered; NOTHING: none of those before acked. All only grow.
    """

    KIND = 65
    trace: U64
    handle: U64
    acked: U64
    limit: U64
    needed: U64 = NOTHING


class End(NamedTuple):
    """The stream ends at `offset`: shutdown(SHUT_WR) on the way down, FIN on the way up."""

    KIND = 66
    trace: U64
    handle: U64
    offset: U64


# --- the wire -------------------------------------------------------------------------------------


class Frame(NamedTuple):
    """A frame (or, on a raw-IP device, a packet) on a wire, without frame check sequence.

    ifindex: the sender's on the way out; the device that receives it writes its own.
    sent_at: the sender's clock in nanoseconds.
    """

    KIND = 80
    trace: U64
    ifindex: U16
    sent_at: U64
    frame: FrameBytes


class Join(NamedTuple):
    """A station asks to be on the wire: its name and the endpoint of its inbox.

    relay: 1 asks the receiver to tell the other stations, and to answer with Members; it is asked
    again until the answer comes.
    """

    KIND = 81
    trace: U64
    name: Name
    endpoint: Endpoint
    relay: Flag


class Members(NamedTuple):
    """The stations that the sender knows, as (name, endpoint), its own row first.

    The answer to a Join with relay 1, and bears that one's trace id.
    """

    KIND = 82
    trace: U64
    rows: MemberRows


class Leave(NamedTuple):
    """A station is going: frames for it are no longer sent."""

    KIND = 83
    trace: U64
    name: Name


class BarrierDone(NamedTuple):
    """To the station that sent a Barrier: it has been through all layers of `station`'s host.

    What the host sent because of the frames before it is on the wire before this message.
    """

    KIND = 84
    trace: U64
    station: Name
    token: U64


Message = (
    Hello | Barrier | Fence | Kept | Datagram | NeighbourFailed | Interface | Segment | PacketError
    | Paths | Bind | Bound | Listen | Connect | Opened | Accepted | Close | Closed | Option | Query
    | Info | Data | Credit | End | Frame | Join | Members | Leave
    | BarrierDone
)  # fmt: skip

KINDS: dict[int, type] = {cls.KIND: cls for cls in Message.__args__}
"""Message classes by their number on a pipe."""
