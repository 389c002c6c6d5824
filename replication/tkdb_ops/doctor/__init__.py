"""The doctor, which looks for faults that make a deployment not isolated or not safe.

Probes gather facts, and pure checks judge them.
"""
