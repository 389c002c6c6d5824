"""The doctor: what would make a deployment not isolated or not safe. Checks are pure; probes gather what they judge."""
