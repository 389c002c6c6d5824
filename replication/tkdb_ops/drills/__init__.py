"""Failover drills: a fault is made while clients call, what happens is recorded, measured and judged."""
