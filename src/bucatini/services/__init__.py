"""What the virtual network itself says: ARP, NDP and router advertisements, DHCP, DNS, echo, ICMP errors, groups.

Each service takes a whole frame from the guest and its own frozen settings, and returns the whole frame to send back,
or None.
"""
