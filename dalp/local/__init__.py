"""Local services: a Redis, a PostgreSQL, a chain and our own processes, for the demo, the tests and the benchmarks."""
