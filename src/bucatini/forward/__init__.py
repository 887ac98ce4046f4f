"""Where flows lead, as data: port grammars, automatic forwarding, address translation. Opens no socket."""
