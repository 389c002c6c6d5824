"""Tools for operators: they examine a replicated authority, or break one on purpose.

They are never part of a running authority.
"""
