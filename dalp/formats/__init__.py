"""How instants are written in the console: sortable, to the second, in UTC."""
