"""Which numeric addresses lead to the whole internet, and which stay inside a network."""

from __future__ import annotations

import ipaddress


def is_public(address: str) -> bool:
    """Whether a numeric address is one machine that the whole internet can reach.

    Args:
        address: IPv4 or IPv6, without brackets.

    Raises:
        ValueError: it is not numeric.
    """
    at = ipaddress.ip_address(address)
    # Python calls some addresses global that are for groups, or that lead to any IPv4 address.
    return at.is_global and not (at.is_multicast or at.is_reserved)
