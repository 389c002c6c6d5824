"""Failover drills: a fault is injected while clients call, and the effects are recorded, measured and judged."""
