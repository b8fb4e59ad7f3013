"""Stories on real kernels, a real charon and real TCP, in the lab: tests/run scenarios."""
