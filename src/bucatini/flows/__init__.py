"""Layer 2 to layer 4 and back: the flow table, its sides, and one sans-IO machine per protocol (TCP, UDP, ICMP echo,
splice).

A flow is one translated conversation. Its guest side speaks frames, its host side is an ordinary socket. The machines
here decide; they act through the narrow `Out` they are handed, know the time only as an argument, and hold no
payload.
"""
