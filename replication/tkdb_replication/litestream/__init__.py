"""Litestream as a supervised child process: its program, its configuration, its control socket, and restores."""
