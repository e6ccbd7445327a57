"""What came of one run: the numbers that are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple, Self

from plywire.lab.exp.samples import Samples
from plywire.lab.exp.workload import Progress


class Exchange(NamedTuple):
    """A layer was exchanged. at: seconds since connect() when it was fenced; pause: seconds until
    the successor went on, None in the simulator, where time stands still meanwhile."""

    end: str
    layer: str
    at: float
    pause: float | None


class Outcome(NamedTuple):
    """results: for run.json. goodput: bits a second of payload, both ways, from connect() to the
    last byte read; duration: seconds; retransmissions: segments of the sender; latency: seconds
    from a request's first write to its response, the median, None without requests; completed: all
    bytes arrived as they were sent; error: why not, "" else; swaps: each Exchange that was made;
    late: how many exchanges came after the last byte, or not at all; pause: the median of those
    that came before it, None without."""

    results: dict[str, Any]
    samples: Samples

    @classmethod
    def of(
        cls,
        progress: Progress,
        began: int,
        error: str,
        row: Mapping[str, Any],
        samples: Samples,
        now: int,
        wanted: int,
        swaps: Sequence[Exchange],
    ) -> Self:
        """began, now: nanoseconds; row: the sender's control block at the end; wanted: how many
        exchanges there were to be."""
        ended = progress.ended
        completed = ended is not None and progress.intact
        if ended is not None and not completed:
            error = "what arrived is not what was sent"
        duration = ((now if ended is None else ended) - began) / 1e9
        delivered = progress.delivered + progress.answered
        latencies = progress.latencies
        amid = [item for item in swaps if item.at < duration]
        pauses = [item.pause for item in amid if item.pause is not None]
        results = {
            "completed": completed,
            "error": error or ("" if completed else "not done within the limit"),
            "duration": duration,
            "delivered": delivered,
            "goodput": delivered * 8 / duration if duration else 0.0,
            "retransmissions": row.get("retransmits", 0),
            "latency": median(latencies) / 1e9 if latencies else None,
            "pause": median(pauses) if pauses else None,
            "swaps": [item._asdict() for item in swaps],
            "late": wanted - len(amid),
        }
        return cls(results, samples)
