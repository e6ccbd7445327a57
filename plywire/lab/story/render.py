"""Drawing a story: items in, lines of plain columns out.

On the left the time in microseconds, then a column for each layer of both hosts, then words. The
drawing is `width` characters wide at most; colour is extra and says nothing that the words do not.
"""

from __future__ import annotations

from typing import NamedTuple

from plywire.lab.story.fields import option_rows
from plywire.lab.story.items import Folded, Hop, Item, Lane, Mark, Socket, Sockets, Summary
from plywire.lab.story.measure import PIPES
from plywire.roles import APP, IP, LAYERS, LINK, TCP, WIRE
from plywire.trace import DROP, STATE
from plywire.wire import tcp

MIN_WIDTH = 80

_FIRST = 10  # where the first lane stands; the time is left of it
_PITCH = 5  # from lane to lane
_WIRE_GAP = 8  # from link to link
_INDENT = 2
_COLORS = {
    APP: "32", TCP: "36", IP: "33", LINK: "35", STATE: "1", DROP: "31", "dim": "2", "bold": "1",
}  # fmt: skip
_NAME_COLUMN = 16


class Glyphs(NamedTuple):
    """The characters of the drawing."""

    lane: str
    dash: str
    wire: str
    right: str
    left: str
    state: str
    call: str
    drop: str
    more: str
    bar: str


UNICODE = Glyphs("│", "─", "~", "►", "◄", "●", "○", "✗", "┊", "█")
ASCII = Glyphs("|", "-", "~", ">", "<", "*", "o", "x", ":", "#")


class _Word(NamedTuple):
    text: str
    style: str = ""


class Renderer:
    """Draws for one or two hosts, the caller's on the left.

    width: of the drawing, in characters; color: use ANSI colours; glyphs: UNICODE or ASCII;
    bits: under each segment that TCP makes, its header as a table of fields and their widths.
    """

    def __init__(
        self,
        hosts: tuple[str, ...],
        *,
        width: int = 100,
        color: bool = False,
        glyphs: Glyphs = UNICODE,
        bits: bool = False,
    ) -> None:
        self.hosts = hosts
        self.width = max(width, MIN_WIDTH)
        self.color = color
        self.glyphs = glyphs
        self.bits = bits
        self._columns = _columns(hosts)
        right = max(self._columns.values())
        self._wire_at = self._columns[Lane(hosts[0], LINK)] + _WIRE_GAP // 2
        self._text_at = max(right, self._wire_at) + 3
        self._start: int | None = None
        self._blank = False  # the last line drawn is empty

    def head(self) -> list[str]:
        """The names above the columns."""
        names = [" "] * self._text_at
        roles = [" "] * self._text_at
        for lane, column in self._columns.items():
            _write(roles, column - 1, lane.role)
            if lane.role == APP:
                _write(names, column - 1, lane.host)
        _write(roles, 1, "time us")
        _write(roles, self._wire_at, self.glyphs.wire)
        lines = [names, roles]
        return [self._paint([_Word("".join(line).rstrip(), "bold")]) for line in lines]

    def lines(self, item: Item) -> list[str]:
        """The lines that draw one item."""
        lines = self._draw(item)
        if self._blank and lines and not lines[0]:
            del lines[0]
        self._blank = not lines[-1]
        return lines

    def _draw(self, item: Item) -> list[str]:
        if isinstance(item, Hop):
            return self._hop(item)
        if isinstance(item, Mark):
            return self._mark(item)
        if isinstance(item, Folded):
            return self._folded(item)
        if isinstance(item, Sockets):
            return self._sockets(item)
        return self._summary(item)

    # --- in the columns ---

    def _hop(self, hop: Hop) -> list[str]:
        glyphs = self.glyphs
        style = hop.start.role if hop.start.role in _COLORS else LINK
        row = self._row()
        start, end = self._at(hop.start), self._at(hop.end)
        right = end > start
        low, high = sorted((start, end))
        across = WIRE in (hop.start.role, hop.end.role) or (
            hop.start.role == hop.end.role == LINK and hop.start.host != hop.end.host
        )
        for column in range(low + 1, high):
            row[column] = _Word(glyphs.wire if across else glyphs.dash, style)
        if high > low + 1:
            row[end - 1 if right else end + 1] = _Word(
                glyphs.right if right else glyphs.left, style
            )
        words = [_Word(hop.sign + hop.title, style)]
        words += [_Word(f"{name}={value}") for name, value in hop.fields.items()]
        words += [_Word(word) for word in hop.tail.split()]
        lines = self._drawn(hop.time, row, words)
        if self.bits and hop.segment:
            lines += self._bit_table(hop.segment)
        return lines

    def _mark(self, mark: Mark) -> list[str]:
        glyphs = self.glyphs
        row = self._row()
        glyph = {STATE: glyphs.state, DROP: glyphs.drop}.get(mark.kind, glyphs.call)
        style = mark.kind if mark.kind in (STATE, DROP) else mark.lane.role
        row[self._at(mark.lane)] = _Word(glyph, style)
        place = f"{mark.lane.host} {mark.lane.role}"
        if mark.kind == STATE:
            if "socket" in mark.fields:
                place += f" socket {mark.fields['socket']}"
            words = [_Word(f"{place}:"), _Word(f"{mark.fields['was']} ->"),
                     _Word(str(mark.fields["is"]), STATE)]  # fmt: skip
            words += [_Word(word) for word in f"({mark.title})".split()] if mark.title else []
            words += [_Word(f"{name}={value}") for name, value in mark.fields.items()
                      if name not in ("was", "is", "socket")]  # fmt: skip
            return self._drawn(mark.time, row, words)
        title = f"dropped: {mark.title}" if mark.kind == DROP else mark.title
        words = [_Word(f"{place}:"), _Word(title, style)]
        words += [_Word(f"{name}={value}") for name, value in mark.fields.items()]
        return self._drawn(mark.time, row, words)

    def _folded(self, item: Folded) -> list[str]:
        row = self._row()
        for column in self._columns.values():
            row[column] = _Word(self.glyphs.more, "dim")
        counts = [f"{count} more {_plural(kind, count)}" for kind, count in item.counts.items()]
        return self._drawn(None, row, [_Word("..."), *map(_Word, ", ".join(counts).split())])

    def _drawn(self, time: int | None, row: list[_Word], words: list[_Word]) -> list[str]:
        """The row with its time and the first words, then as many rows as the rest needs."""
        if time is not None:
            if self._start is None:
                self._start = time
            stamp = f"{(time - self._start) // 1000:>{_FIRST - 2},}"
            row[: len(stamp)] = [_Word(char) for char in stamp]
        lines = []
        for line in _wrap(words, self.width - self._text_at):
            lines.append(self._paint([*row, *line]))
            row = self._row()
        return lines

    def _row(self) -> list[_Word]:
        row = [_Word(" ")] * self._text_at
        for column in self._columns.values():
            row[column] = _Word(self.glyphs.lane, "dim")
        return row

    def _at(self, lane: Lane) -> int:
        return self._columns.get(lane, self._wire_at)

    # --- tables over the whole width ---

    def _bit_table(self, segment: bytes) -> list[str]:
        """Each field of the header with its width in bits and its value."""
        header, data = tcp.decode_unchecked(segment)
        length = len(segment) - len(data)
        values = {
            "src_port": f"{header.src_port}", "dst_port": f"{header.dst_port}",
            "seq": f"{header.seq}", "ack": f"{header.ack}",
            "data_offset": f"{length // 4} words of 32 bits: {length} bytes",
            "reserved": f"{segment[12] & 15}", "flags": _flag_bits(header.flags),
            "window": f"{header.window}", "checksum": f"0x{header.checksum:04x}",
            "urgent": f"{header.urgent}",
        }  # fmt: skip
        rows = [(bits, name, values[name]) for name, bits in tcp.BIT_WIDTHS]
        rows += [(bits, f"option {name}", value) for name, bits, value in option_rows(segment)]
        pad = " " * _FIRST
        lines = [f"{pad}{self.glyphs.lane} bits field                  value"]
        for bits, name, value in rows:
            lines.append(f"{pad}{self.glyphs.lane} {bits:>4} {name:<22} {value}".rstrip())
        total = sum(bits for bits, _, _ in rows)
        lines.append(f"{pad}{self.glyphs.lane} {total:>4} bits in all: {_behind(len(data))}")
        return [self._paint([_Word(line[: self.width], TCP)]) for line in lines]

    def _sockets(self, item: Sockets) -> list[str]:
        """Side by side: before and after, the caller's and the other's."""
        sockets = item.sockets
        space = (self.width - _INDENT - _NAME_COLUMN) // (2 * max(2, len(sockets)))
        names = dict.fromkeys(name for socket in sockets for name in socket.after)
        title = "What each TCP has written in its own socket. The other host cannot see this."
        heads = [f"{socket.host} {when}" for socket in sockets for when in ("before", "after")]
        rows = [["", *heads]]
        for name in names:
            cells = [cell for socket in sockets for cell in _cells(socket, name)]
            if set(cells) - {"", "-"}:
                rows.append([name, *cells])
        indent = " " * _INDENT
        lines = ["", self._paint([_Word(indent + title, "bold")])]
        for index, (name, *cells) in enumerate(rows):
            text = indent + name[: _NAME_COLUMN - 1].ljust(_NAME_COLUMN)
            text += "".join(cell[: space - 1].ljust(space) for cell in cells)
            lines.append(self._paint([_Word(text.rstrip(), "bold" if not index else "")]))
        return [*lines, ""]

    def _summary(self, item: Summary) -> list[str]:
        counts = [_count(item.segments, "TCP segment"), _count(item.frames, "frame"),
                  _count(item.hops, "hop") + " between layers"]  # fmt: skip
        if item.dropped:
            counts.append(f"{item.dropped} dropped")
        if item.lost:
            counts.append(f"{_count(item.lost, 'frame')} sent and not seen to arrive")
        lines = ["", "  " + ", ".join(counts)]
        if item.handshake is not None:
            lines.append(f"  handshake: {_ms(item.handshake)} from the SYN to ESTABLISHED")
        if item.connect is not None:
            lines.append(f"  connect(): {_ms(item.connect)} from the call to its return")
        total = sum(item.shares.values())
        if total:
            lines[-1] += ", of which"
            for name in (*LAYERS, WIRE, PIPES):
                time = item.shares.get(name, 0)
                bar = self.glyphs.bar * round(30 * time / total)
                line = f"    {name:<6}{time * 100 / total:>4.0f} % {_ms(time):>11}  {bar}"
                lines.append(line.rstrip())
        return lines

    def _paint(self, words: list[_Word]) -> str:
        if not self.color:
            return "".join(word.text for word in words).rstrip()
        parts, style = [], ""
        for word in words:
            wanted = _COLORS.get(word.style, "")
            if wanted != style:
                parts.append("\x1b[0m" if style else "")
                parts.append(f"\x1b[{wanted}m" if wanted else "")
                style = wanted
            parts.append(word.text)
        return "".join(parts).rstrip() + ("\x1b[0m" if style else "")


def _columns(hosts: tuple[str, ...]) -> dict[Lane, int]:
    """Where the lanes stand: down the layers of the first host, up those of the second."""
    columns = {Lane(hosts[0], role): _FIRST + _PITCH * at for at, role in enumerate(LAYERS)}
    if len(hosts) > 1:
        first = columns[Lane(hosts[0], LINK)] + _WIRE_GAP
        for at, role in enumerate(reversed(LAYERS)):
            columns[Lane(hosts[1], role)] = first + _PITCH * at
    return columns


def _wrap(words: list[_Word], room: int) -> list[list[_Word]]:
    """Words into lines of at most `room` characters; all lines but the first are indented."""
    lines: list[list[_Word]] = [[]]
    used = 0
    for word in words:
        while True:
            gap = 1 if lines[-1] and lines[-1][-1].text.strip() else 0
            if used + gap + len(word.text) <= room:
                lines[-1] += [_Word(" "), word] if gap else [word]
                used += gap + len(word.text)
                break
            if used <= _INDENT:  # longer than a line: cut
                lines[-1].append(_Word(word.text[: room - used], word.style))
                word = word._replace(text=word.text[room - used :])
            lines.append([_Word(" " * _INDENT)])
            used = _INDENT
    return lines


def _cells(socket: Socket, name: str) -> tuple[str, str]:
    before = socket.before.get(name)
    after = socket.after.get(name)
    return ("empty" if before is None else str(before)), ("-" if after is None else str(after))


def _flag_bits(flags: int) -> str:
    names = reversed(list(enumerate(tcp.FLAG_NAMES)))
    return " ".join(f"{name}={flags >> bit & 1}" for bit, name in names)


def _behind(count: int) -> str:
    return f"{count} bytes of data behind it" if count else "no data behind it"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _plural(kind: str, count: int) -> str:
    return kind.removesuffix("s") if kind == "segments" and count == 1 else kind


def _ms(time: int) -> str:
    return f"{time / 1e6:.3f} ms"


def _write(row: list[str], at: int, text: str) -> None:
    row[at : at + len(text)] = text
