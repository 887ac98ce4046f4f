"""The isolation filter: a guest may use only its own MAC address and its leased IP addresses.

The guest side of policy: bindings between MAC and IP addresses, leases that make them, and one fall-through-deny
`admit()`. It judges who is speaking; `policy` judges whom may be spoken to.

    frame     the frame as the filter sees it: checked once, sorted by what it claims
    binding   what one guest may call itself, and until when
    admit     may this frame pass: ours, and row by row that of Softnet 0.19.0
    snoop     leases of somebody else's DHCP server, by watching it
"""
