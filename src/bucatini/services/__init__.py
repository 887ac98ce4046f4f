"""What the virtual network itself answers: ARP, Neighbour Discovery, DNS, echo at the gateway, ICMP errors.

Each service takes a whole frame from the guest and its own frozen settings, and returns the whole frame to send back,
or None.
"""
