"""Who may talk to whom: destination groups, rules, decide, explain. Pure: no I/O, no clock.

Read in this order: `groups` (what an address is), `rules` (the words a user writes), `decide` (the answer, by longest
prefix), `settings` (the options). `docs/policy.md` says the same for users.
"""
