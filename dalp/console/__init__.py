"""The console: what an operator sees beyond the lists of rows."""
