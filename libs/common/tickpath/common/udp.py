"""UDP sockets of market data: open, join, and say how large the buffer really is. No Numba here."""

from __future__ import annotations

import errno
import os
import socket
import struct
from ipaddress import IPv4Address

_SO_RCVBUFFORCE = 33  # Linux: beyond net.core.rmem_max, with CAP_NET_ADMIN


class UdpError(OSError):
    """A socket could not be opened as configured; the text says what, where and what to do."""


def open_udp_socket(
    host: str, port: int, rcvbuf_bytes: int, interface: str | None = None
) -> tuple[socket.socket, int]:
    """A bound, non-blocking socket that receives from `host`:`port`, and the size of its receive buffer in bytes.

    `host` is an IPv4 address or a name that resolves to one: an address of this machine, or a multicast group,
    which is then joined on `interface` (address or name; default is the routing table's choice). Port 0 takes a
    free one. The size is as the kernel states it: it doubles what is asked for, for its own book-keeping, and
    without CAP_NET_ADMIN caps it at net.core.rmem_max. Raises UdpError.
    """
    where = f"UDP {host}:{port}"
    if not 0 <= port <= 65535:
        msg = f"{where}: the port must be 0 to 65535"
        raise UdpError(errno.EINVAL, msg)
    if rcvbuf_bytes <= 0:
        msg = f"{where}: the receive buffer must be at least 1 byte, not {rcvbuf_bytes}"
        raise UdpError(errno.EINVAL, msg)
    try:
        address = socket.getaddrinfo(host, port, socket.AF_INET, socket.SOCK_DGRAM)[0][4][0]
    except (OSError, UnicodeError) as error:
        msg = f"{where}: {host!r} is no IPv4 address and does not resolve to one ({error})"
        raise UdpError(errno.EADDRNOTAVAIL, msg) from error
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        udp.setblocking(False)
        if IPv4Address(address).is_multicast:
            udp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # several listeners share a group
        _bind(udp, str(address), port, where)
        if IPv4Address(address).is_multicast:
            _join(udp, str(address), interface, where)
        return udp, _set_receive_buffer(udp, rcvbuf_bytes)
    except BaseException:
        udp.close()
        raise


def _bind(udp: socket.socket, address: str, port: int, where: str) -> None:
    try:
        udp.bind((address, port))
    except OSError as error:
        why = {
            errno.EADDRINUSE: "the port is in use by another process; stop it or choose another port",
            errno.EADDRNOTAVAIL: "this host has no such address; allowed is an address of it or a multicast group",
            errno.EACCES: "ports below 1024 need the capability NET_BIND_SERVICE; choose a higher one",
        }.get(error.errno or 0, os.strerror(error.errno or 0))
        msg = f"{where}: {why}"
        raise UdpError(error.errno, msg) from error


def _join(udp: socket.socket, group: str, interface: str | None, where: str) -> None:
    """Join a group; `struct ip_mreqn` is group, address of the interface, index of the interface."""
    local, index = "0.0.0.0", 0
    if interface:
        try:
            local = str(IPv4Address(interface))
        except ValueError:
            try:
                index = socket.if_nametoindex(interface)
            except OSError as error:
                names = ", ".join(name for _, name in socket.if_nameindex())
                msg = f"{where}: no interface {interface!r}; this host has {names}, or give an address"
                raise UdpError(errno.ENODEV, msg) from error
    try:
        request = struct.pack("=4s4si", socket.inet_aton(group), socket.inet_aton(local), index)
        udp.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
    except OSError as error:
        msg = f"{where}: cannot join the group on {interface or 'the default interface'}: {error.strerror}"
        raise UdpError(error.errno, msg) from error


def _set_receive_buffer(udp: socket.socket, size: int) -> int:
    try:
        udp.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, size)
    except OSError:  # no CAP_NET_ADMIN
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
    return udp.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
