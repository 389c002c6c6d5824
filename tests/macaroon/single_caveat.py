"""Helpers that clear a single caveat, and return the text of its denial."""

from __future__ import annotations

import pytest

from tkdb.errors import Denied
from tkdb.macaroon.access import Access, Policy
from tkdb.macaroon.caveats import AnyCaveat
from tkdb.macaroon.clearing import clear

NOW_S = 1_700_000_000
POLICY = Policy(organization="acme", clock=lambda: NOW_S)


def clears(caveat: AnyCaveat, access: Access, policy: Policy = POLICY) -> bool:
    try:
        clear("acme", (caveat,), access, policy)
    except Denied:
        return False
    return True


def denial(caveat: AnyCaveat, access: Access, policy: Policy = POLICY) -> str:
    with pytest.raises(Denied) as caught:
        clear("acme", (caveat,), access, policy)
    assert caught.value.caveat == 1
    return str(caught.value)
