"""Fly's regions, and the round trips between them.

Measured round trips, in ms, are between AWS sites near Fly's. The others are estimated from the distance: light in
fibre travels 200 km a millisecond, cables are 1.45 times as long as the great circle, and the ends take 4 ms. For three
in four of the measured pairs, the estimate is off by at most a quarter. If a cable makes a long detour (Tokyo to
Frankfurt), the estimate is up to 40 % too short. Codes and places: https://fly.io/docs/reference/regions/

>>> round_trip_ms("sin", "syd")
93.0
>>> nearest("sin", ["iad", "ams", "syd"])
('syd', 'ams', 'iad')
>>> alias("eu", ["iad", "fra", "ams"])
('fra', 'ams')
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import asin, cos, radians, sin, sqrt
from typing import Final

from tkdb import errors

_KM_PER_MS: Final = 200.0
_DETOUR: Final = 1.45
_ENDS_MS: Final = 4.0
_EARTH_KM: Final = 6371.0


@dataclass(frozen=True, slots=True)
class Region:
    """A region: its code, its city, the city's latitude and longitude in degrees, and its geographic aliases."""

    code: str
    city: str
    latitude: float
    longitude: float
    aliases: frozenset[str]


_EU: Final = frozenset({"eu"})
_US: Final = frozenset({"us", "usa", "na"})
_APAC: Final = frozenset({"apac"})

REGIONS: Final = {
    region.code: region
    for region in (
        Region("ams", "Amsterdam", 52.4, 4.9, _EU),
        Region("arn", "Stockholm", 59.3, 18.1, _EU),
        Region("bom", "Mumbai", 19.1, 72.9, _APAC),
        Region("cdg", "Paris", 48.9, 2.4, _EU),
        Region("dfw", "Dallas", 32.8, -96.8, _US),
        Region("ewr", "Secaucus", 40.8, -74.1, _US),
        Region("fra", "Frankfurt", 50.1, 8.7, _EU),
        Region("gru", "Sao Paulo", -23.5, -46.6, frozenset({"sa"})),
        Region("iad", "Ashburn", 39.0, -77.5, _US),
        Region("jnb", "Johannesburg", -26.2, 28.0, frozenset()),
        Region("lax", "Los Angeles", 34.1, -118.2, _US),
        Region("lhr", "London", 51.5, -0.1, _EU),
        Region("nrt", "Tokyo", 35.7, 139.7, _APAC),
        Region("ord", "Chicago", 41.9, -87.6, _US),
        Region("sin", "Singapore", 1.4, 103.8, _APAC),
        Region("sjc", "San Jose", 37.3, -121.9, _US),
        Region("syd", "Sydney", -33.9, 151.2, _APAC),
        Region("yyz", "Toronto", 43.7, -79.4, frozenset({"na"})),
    )
}

ALIASES: Final = ("apac", "eu", "na", "sa", "us", "usa")

MEASURED_MS: Final = {
    frozenset(pair.split("-")): ms
    for pair, ms in {
        "iad-fra": 92.0, "iad-lhr": 76.0, "iad-syd": 199.0, "iad-sin": 211.0, "iad-nrt": 146.0, "iad-gru": 114.0,
        "iad-sjc": 62.0, "fra-lhr": 17.0, "fra-syd": 249.0, "fra-sin": 158.0, "fra-nrt": 223.0, "fra-gru": 204.0,
        "fra-sjc": 151.0, "lhr-syd": 265.0, "lhr-sin": 171.0, "lhr-nrt": 210.0, "lhr-gru": 186.0, "lhr-sjc": 147.0,
        "syd-sin": 93.0, "syd-nrt": 109.0, "syd-gru": 312.0, "syd-sjc": 138.0, "sin-nrt": 69.0, "sin-gru": 322.0,
        "sin-sjc": 172.0, "nrt-gru": 256.0, "nrt-sjc": 108.0,
    }.items()
}  # fmt: skip
"""The measured round trips, by pair."""


def find(code: str) -> Region:
    """Return the region with this code.

    Raises:
        ConfigurationError: Fly has no such region.
    """
    try:
        return REGIONS[code]
    except KeyError:
        known = " ".join(REGIONS)
        raise errors.ConfigurationError(f"{code!r:.20} isn't a Fly region", hint=f"use one of {known}") from None


def round_trip_ms(one: str, other: str) -> float:
    """Return the round trip between two regions, in ms; 0 within one region.

    Raises:
        ConfigurationError: Fly has no such region.
    """
    a, b = find(one), find(other)
    if a is b:
        return 0.0
    measured = MEASURED_MS.get(frozenset({one, other}))
    return estimated_ms(one, other) if measured is None else measured


def estimated_ms(one: str, other: str) -> float:
    """Return the round trip between two regions, in ms, estimated from their distance.

    Raises:
        ConfigurationError: Fly has no such region.
    """
    return round(_ENDS_MS + 2 * _DETOUR * _distance_km(find(one), find(other)) / _KM_PER_MS, 1)


def nearest(origin: str, among: Iterable[str]) -> tuple[str, ...]:
    """Return the regions ``among``, sorted so that the nearest to ``origin`` is first.

    Raises:
        ConfigurationError: Fly has no such region.
    """
    return tuple(sorted(among, key=lambda code: (round_trip_ms(origin, code), code)))


def alias(name: str, among: Iterable[str]) -> tuple[str, ...]:
    """Return the regions ``among`` that a geographic alias such as "eu" covers."""
    return tuple(code for code in among if name in find(code).aliases)


def _distance_km(a: Region, b: Region) -> float:
    """Return the length of the great circle, by the haversine formula."""
    lat_a, lat_b = radians(a.latitude), radians(b.latitude)
    half_lat, half_lon = (lat_b - lat_a) / 2, radians(b.longitude - a.longitude) / 2
    square = sin(half_lat) ** 2 + cos(lat_a) * cos(lat_b) * sin(half_lon) ** 2
    return 2 * _EARTH_KM * asin(sqrt(square))
