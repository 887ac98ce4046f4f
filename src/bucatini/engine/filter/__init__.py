"""The isolation filter as a process of its own: frames pass between a guest's link and a bridge unchanged, or end."""
