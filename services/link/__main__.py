"""The link layer as a process, with the devices of its interfaces."""

from plywire.runtime.process import main
from services.link.devices import impairing, open_ports

main("link", open_ports=open_ports, verbs={"impair": impairing.answer})
