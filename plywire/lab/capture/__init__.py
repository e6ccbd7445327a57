"""`plywire capture`: the packets that cross the boundaries of a running lab.

`points` says where is captured, `session` takes packets from the lab to a reader, which is a pcapng
stream (`recording`) or lines as tcpdump prints them (`lines`); `filters` picks, `packets` reads
headers, `outputs` is what is written to, `serve` has readers on a TCP port.
"""
