"""The link layer as a process, with the devices of its interfaces."""

from plywire.runtime.process import main
from services.link.devices import open_ports

main("link", open_ports=open_ports)
