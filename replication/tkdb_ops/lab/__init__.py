"""The lab: a whole tkdb of several regions on this machine, behind the stand-in for flycast."""
