"""The resolver: exact answers to valid queries, and an answer or silence for any other datagram."""

from __future__ import annotations

import struct
from ipaddress import IPv6Address

from hypothesis import example, given
from hypothesis import strategies as st

from tkdb_ops.flycast.addresses import Sixpn
from tkdb_ops.flycast.layout import App, Layout
from tkdb_ops.flycast.names import AAAA, TXT, Names

LAYOUT = Layout.for_apps(App("tkdb", ("iad", "ams", "syd")), App("web", ("syd",)), clients=["sin"])
ADDRESSES = Sixpn(LAYOUT)
NAMES = Names(LAYOUT, ADDRESSES, {"store.internal": "fdaa:0:1:0:a::2"})
STARTED = frozenset(machine for machine in LAYOUT.machines if machine.region != "syd")


def query(name: str, kind: int = AAAA, number: int = 7) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack("!6H", number, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!HH", kind, 1)


def resolve(name: str, kind: int = AAAA) -> tuple[int, list[bytes]]:
    """Return the response code and the data of the records."""
    question = query(name, kind)
    answer = NAMES.answer(question, "sin", STARTED)
    assert answer is not None
    number, flags, questions, count, _, _ = struct.unpack_from("!6H", answer)
    assert (number, questions) == (7, 1)
    assert answer[12 : len(question)] == question[12:]
    at, records = len(question), []
    for _ in range(count):
        _, kind_of, _, _, length = struct.unpack_from("!HHHIH", answer, at)
        assert kind_of == kind
        records.append(answer[at + 12 : at + 12 + length])
        at += 12 + length
    assert at == len(answer)
    return flags & 15, records


def packed(*names: str) -> list[bytes]:
    return [IPv6Address(ADDRESSES.private(LAYOUT.machine(name))).packed for name in names]


def test_flycast_names_resolve_to_the_anycast_address() -> None:
    for name in ("tkdb.flycast", "TKDB.Flycast", "api.svc.tkdb.flycast"):
        assert resolve(name) == (0, [IPv6Address(ADDRESSES.anycast("tkdb")).packed])


def test_internal_names_resolve_to_started_machines_nearest_first() -> None:
    assert resolve("tkdb.internal") == (0, packed("tkdb-ams-1", "tkdb-iad-1"))
    assert resolve("global.tkdb.internal") == resolve("tkdb.internal")
    assert resolve("iad.tkdb.internal") == (0, packed("tkdb-iad-1"))
    assert resolve("top1.nearest.of.tkdb.internal") == (0, packed("tkdb-ams-1"))
    assert resolve("tkdb-ams-1.vm.tkdb.internal") == (0, packed("tkdb-ams-1"))
    assert resolve("store.internal")[0] == 0


def test_a_name_without_started_machines_has_no_records() -> None:
    assert resolve("syd.tkdb.internal") == (0, [])
    assert resolve("web.internal") == (0, [])


def test_an_unknown_name_does_not_exist() -> None:
    for name in ("nobody.flycast", "zzz.tkdb.internal", "example.com", "top1.nearest.of.tkdb.flycast", "internal"):
        assert resolve(name) == (3, [])


def test_a_query_for_ipv4_has_no_records() -> None:
    assert resolve("tkdb.flycast", 1) == (0, [])


def test_txt_records_list_machines_regions_and_apps() -> None:
    def text(name: str) -> str:
        code, (record,) = resolve(name, TXT)
        assert code == 0
        assert record[0] == len(record) - 1
        return record[1:].decode()

    assert text("vms.tkdb.internal") == "tkdb-iad-1 iad,tkdb-ams-1 ams"
    assert text("all.regions.tkdb.internal") == "iad,ams,syd"
    assert text("regions.tkdb.internal") == "iad,ams"
    assert text("_apps.internal") == "tkdb,web"


@given(st.binary(max_size=600))
@example(query("tkdb.flycast")[:-1])
@example(query("tkdb.flycast")[:12] + b"\xc0\x0c\0\x1c\0\1")
def test_any_datagram_is_answered_or_ignored(datagram: bytes) -> None:
    answer = NAMES.answer(datagram, "sin", STARTED)
    assert answer is None or answer[:2] == datagram[:2]


@given(st.lists(st.text("abcdefghijklmnopqrstuvwxyz0123456789-_", min_size=1, max_size=20), min_size=1, max_size=6))
def test_any_name_gets_an_answer(labels: list[str]) -> None:
    for kind in (AAAA, TXT, 1):
        answer = NAMES.answer(query(".".join(labels), kind), "sin", STARTED)
        assert answer is not None
        assert len(answer) <= 512
