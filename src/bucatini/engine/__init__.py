"""The reactor, its timers, the sink that performs, and the composition root: one short function per mode."""
