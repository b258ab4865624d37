"""The stand-in providers and the scripted outage: the outside world on loopback, for `make demo` and the tests."""
