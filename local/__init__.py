"""A Redis and the processes for one machine: `make run`, the demo and the tests. The product does not import it."""
