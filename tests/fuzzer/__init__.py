"""A fuzzer of the real cores: bad peers beside good ones: `python -m tests.fuzzer.fuzz --seconds 60`."""
