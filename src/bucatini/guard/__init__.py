"""The isolation filter: a guest may use only its own MAC address and its leased IP addresses.

The guest side of policy: bindings between MAC and IP addresses, leases that make them, and one fall-through-deny
`admit()`. It judges who is speaking; whom may be spoken to is judged by Softnet's rules, here, or else by `policy`.

    frame         the frame as the filter sees it: checked once, sorted by what it claims
    binding       what one guest may call itself, and until when
    admit         may this frame pass: ours, and row by row that of Softnet 0.19.0
    snoop         leases of somebody else's DHCP server, by watching it

    rule_grammar  what a user writes after --allow and --block
    rules         the rules as one immutable table
    reach         what is open where no rule decides
    flow_states   who began a conversation, so that an answer needs no rule
    live_policy   the rules of a running guest, changed by JSON-RPC
    rule_policy   the same rules as the policy of a translating engine
"""
