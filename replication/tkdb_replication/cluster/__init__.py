"""The work of `tkdb init`, `tkdb recover` and `tkdb gc`, on the bucket as a whole."""
