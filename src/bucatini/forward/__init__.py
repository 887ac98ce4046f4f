"""Published ports as data: the port-spec grammar, host port -> guest endpoint. Opens no socket."""
