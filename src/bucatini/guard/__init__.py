"""The isolation filter: a guest may use only its own MAC address and its leased IP addresses.

The guest side of policy: bindings between MAC and IP addresses, leases that make them, and one fall-through-deny
`admit()`. It judges who is speaking; `policy` judges whom may be spoken to. Empty in this version: `bucatini run` makes
the one guest on the link itself.
"""
