"""The stand-in for flycast: Fly's private anycast, made of real parts, on one Linux machine. See docs/flycast.md."""
