"""Start a link with a TAP in a container: `python tap.py ADDRESS/LENGTH UID COMMAND...`, as root.

It makes tap0 for the user UID, gives the kernel's end an address, and becomes that user to run the
command: the link itself has no privilege. It needs CAP_NET_ADMIN, CAP_SETUID, CAP_SETGID and
/dev/net/tun, and no other.
"""

import fcntl
import ipaddress
import os
import socket
import struct
import sys

NAME = b"tap0"
DEVICE = "/dev/net/tun"
TUNSETIFF, TUNSETPERSIST, TUNSETOWNER = 0x400454CA, 0x400454CB, 0x400454CC
IFF_TAP_NO_PI = 0x1002
SIOCSIFADDR, SIOCSIFNETMASK, SIOCGIFFLAGS, SIOCSIFFLAGS = 0x8916, 0x891C, 0x8913, 0x8914
IFF_UP = 1


def make_tap(user):
    """A TAP that stays when this process lets go of it, for `user` to open without privilege."""
    os.chmod(DEVICE, 0o666)  # the container's own node; what may be done with it, the kernel checks
    fd = os.open(DEVICE, os.O_RDWR)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", NAME, IFF_TAP_NO_PI))
    fcntl.ioctl(fd, TUNSETOWNER, user)
    fcntl.ioctl(fd, TUNSETPERSIST, 1)
    os.close(fd)


def set_up(address):
    """The kernel's end: its address, its network mask, and up."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:

        def place(request, item):
            sockaddr = struct.pack("HH4s8x", socket.AF_INET, 0, item.packed)
            fcntl.ioctl(control, request, struct.pack("16s16s8x", NAME, sockaddr))

        place(SIOCSIFADDR, address.ip)
        place(SIOCSIFNETMASK, address.netmask)
        words = fcntl.ioctl(control, SIOCGIFFLAGS, struct.pack("16sH22x", NAME, 0))
        (flags,) = struct.unpack_from("H", words, 16)
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH22x", NAME, flags | IFF_UP))


def main(address, user, *command):
    make_tap(int(user))
    set_up(ipaddress.IPv4Interface(address))
    os.setgroups([])
    os.setgid(int(user))
    os.setuid(int(user))
    os.execvp(command[0], command)


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except OSError as error:
        sys.exit(
            f"tap.py: {error}: the container needs /dev/net/tun (on the machine: modprobe tun),"
            " NET_ADMIN, SETUID and SETGID"
        )
