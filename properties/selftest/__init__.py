"""The harness's own tests: strategies, oracle, command line, seeded faults."""
