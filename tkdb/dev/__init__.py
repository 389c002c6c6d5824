"""The authority as plain JSON, for `tkdb dev`.

A local signer may do anything here, so `tkdb serve` never loads this package.
"""
