"""Replication between regions: what makes several machines one authority."""
