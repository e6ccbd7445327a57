"""The programs of the demo: ordinary clients of the socket API, each in a process of its own."""
