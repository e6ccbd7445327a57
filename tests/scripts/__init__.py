"""Wire-level scripts: a small language for what a TCP sends, when, and in answer to what.

`docs/scripts.md` describes it; `python -m tests.scripts FILE [NAME]` runs one and shows what
happened.
"""
