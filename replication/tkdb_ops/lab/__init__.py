"""The lab: a complete multi-region tkdb on this machine, behind the stand-in for flycast."""
