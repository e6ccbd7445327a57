"""The drawing, line by line: golden files at width 100, colour, folding, narrow and ASCII."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from story_script import Script, handshake

from plywire.lab.story import Renderer, Story
from plywire.lab.story.live import wants_color
from plywire.lab.story.model import tell
from plywire.lab.story.render import ASCII
from plywire.wire import tcp

GOLDEN = Path(__file__).parent.parent / "golden"
GOLDENS = {
    "story-100": {},
    "story-100-bits": {"bits": True},
    "story-80-ascii": {"width": 80, "glyphs": ASCII},
}
HOSTS = ("h1", "h2")
REQUEST = b"GET / HTTP/1.1\r\n\r\n"


def fetch() -> Script:
    """Connect, a request, an answer of fifteen segments, and the first FIN."""
    script = Script()
    handshake(script)
    script.data_down("h1", 2, REQUEST)
    script.segment("h1", tcp.PSH | tcp.ACK, REQUEST)
    script.data_up("h2", 1, REQUEST)
    for _ in range(15):
        script.segment("h2", tcp.ACK, b"x" * 1460)
        script.segment("h1", tcp.ACK)
    script.segment("h1", tcp.FIN | tcp.ACK)
    return script


def draw(script: Script, *, story: Story | None = None, **how: object) -> list[str]:
    renderer = Renderer(HOSTS, **how)
    lines = renderer.head()
    for item in tell(script.events, story or Story(HOSTS)):
        lines += renderer.lines(item)
    return lines


@pytest.mark.parametrize("name", GOLDENS)
def test_drawing_is_the_golden_one(name):
    drawn = "\n".join(draw(fetch(), **GOLDENS[name])) + "\n"
    assert drawn == (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")


def test_no_line_is_wider_than_asked():
    for width in (80, 100, 140):
        assert max(map(len, draw(fetch(), width=width, bits=True))) <= width


def test_colour_changes_nothing_but_colour():
    plain = draw(fetch(), bits=True)
    coloured = draw(fetch(), bits=True, color=True)
    assert any("\x1b[" in line for line in coloured)
    assert not any("\x1b" in line for line in plain)
    assert [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in coloured] == plain
    last = [re.findall(r"\x1b\[([0-9;]*)m", line)[-1:] for line in coloured]
    assert all(codes == ["0"] for codes in last if codes)


def test_colour_is_for_terminals_that_want_it():
    assert wants_color(terminal=True, environment={})
    assert not wants_color(terminal=False, environment={})
    assert not wants_color(terminal=True, environment={"NO_COLOR": "1"})
    assert wants_color(terminal=True, environment={"NO_COLOR": ""})
    assert not wants_color(terminal=True, environment={"TERM": "dumb"})


def test_ascii_drawing_is_ascii():
    assert "".join(draw(fetch(), glyphs=ASCII, bits=True)).isascii()


def test_repeated_segments_are_counted_not_drawn():
    lines = draw(fetch())
    folds = [line for line in lines if "more segments" in line]
    assert len(folds) == 1
    assert "... 25 more segments" in folds[0]
    assert "35 TCP segments" in "\n".join(lines)


def test_every_hop_can_be_drawn():
    story = Story(HOSTS, every_hop=True)
    lines = draw(fetch(), story=story)
    assert not any("more" in line for line in lines)
    assert len(lines) > 200


def test_bit_table_has_each_field_with_its_width():
    text = "\n".join(draw(fetch(), bits=True))
    for bits, name in ((16, "src_port"), (16, "dst_port"), (32, "seq"), (32, "ack"),
                       (4, "data_offset"), (4, "reserved"), (8, "flags"), (16, "window"),
                       (16, "checksum"), (16, "urgent"), (32, "option mss"),
                       (24, "option window_scale")):  # fmt: skip
        assert re.search(rf"│ +{bits} {name} ", text), name
    assert "CWR=0 ECE=0 URG=0 ACK=0 PSH=0 RST=0 SYN=1 FIN=0" in text
    assert "224 bits in all: no data behind it" in text


def test_first_story_tells_sockets_before_and_after():
    lines = draw(fetch())
    start = next(at for at, line in enumerate(lines) if "cannot see this" in line)
    table = "\n".join(lines[start:])
    assert re.search(r"h1 before +h1 after +h2 before +h2 after", table)
    assert re.search(r"state +CLOSED +ESTABLISHED +LISTEN +ESTABLISHED", table)
    assert re.search(r"snd_una +empty +1000000001 +empty +3000000001", table)
    assert re.search(r"remote +empty +10.0.0.2:80 +empty +10.0.0.1:40000", table)


if __name__ == "__main__":
    for golden, options in GOLDENS.items():
        (GOLDEN / f"{golden}.txt").write_text("\n".join(draw(fetch(), **options)) + "\n")
