"""The configuration of Envoy as a region's Fly Proxy. Pure: what it gives is written to a file and read by Envoy.

::

    caller -> edge [flycast address]:80 -> dialler -> backhaul, in the target's region -> machine
              plan, replay, Fly-Src        balance, retry      limit, wake, 4 s pool

One Envoy a region holds an edge for each app, a dialler that only its own edges reach, and a backhaul for each machine
of the region. docs/flycast.md says what each setting is for.

>>> from tkdb_replication.flycast.addresses import OnLoopback
>>> from tkdb_replication.flycast.layout import App, Layout
>>> layout = Layout.of(App("tkdb", ("iad", "syd")))
>>> made = configuration(layout, OnLoopback(layout, 3), "syd", Files(Path("/run/here")))
>>> [listener["name"] for listener in made["static_resources"]["listeners"]]
['dialler', 'edge-tkdb', 'backhaul-tkdb-syd-1']
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tkdb_replication.flycast import proxy_lua
from tkdb_replication.flycast.addresses import Addresses, Endpoint
from tkdb_replication.flycast.layout import App, Layout, Slot

BODY_MAX: Final = 1_048_576
"""The largest body, in bytes, that is kept, so that its request can be sent again."""

HEALTH_PATH: Final = "/.flycast/health"
RETRIES: Final = 5
REDIRECTS_MAX: Final = 32

SPOOFED: Final = (
    "fly-client-ip", "fly-forwarded-port", "fly-preferred-instance-unavailable", "fly-proxy-error", "fly-region",
    "fly-replay-cache-status", "fly-replay-failed", "fly-replay-src", "fly-request-id", "fly-src", "fly-src-signature",
    "flycast-cluster", "flycast-instance", "flycast-pick", "flycast-state", "flycast-status", "flycast-timeout-ms",
    "x-forwarded-port", "x-forwarded-ssl",
)  # fmt: skip
"""What only the proxy says: a caller's own are dropped before anything looks at them."""

_INTERNAL: Final = ("flycast-state", "flycast-pick", "flycast-cluster", "flycast-timeout-ms")
_COPIED: Final = ("flycast-state", "fly-replay-src", "fly-replay-failed", "fly-preferred-instance-unavailable")
_TYPES: Final = "type.googleapis.com/envoy.extensions"
_PLENTY: Final = 1_000_000

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Files:
    """Where a stand-in's processes meet: one folder, the same path for all of them."""

    folder: Path

    @property
    def agent(self) -> Path:
        """The socket of who starts machines."""
        return self.folder / "agent.sock"

    @property
    def attested(self) -> Path:
        """The folder of signed Fly-Src values, a file for each caller's address."""
        return self.folder / "attested"

    def admin(self, region: str) -> Path:
        """The socket at which the Envoy of ``region`` says how it is."""
        return self.folder / f"envoy-{region}.sock"

    def gate(self, machine: Slot) -> Path:
        """The file that stands while requests have to ask the agent before they are sent to ``machine``."""
        return self.folder / "gates" / machine.id


def configuration(layout: Layout, addresses: Addresses, region: str, files: Files) -> Json:
    """Return the bootstrap configuration of the Envoy of ``region``, to be written as JSON."""
    build = _Build(layout, addresses, region, files)
    here = layout.in_region(region)
    listeners = [build.dialler(), *(build.edge(app) for app in layout.apps), *(build.backhaul(one) for one in here)]
    clusters = [_dialler_cluster(build.lua("replay")), _pipe_cluster("agent", files.agent)]
    clusters += [build.app_cluster(app) for app in layout.apps] + [build.machine_cluster(one) for one in here]
    internal = _typed("envoy.bootstrap.internal_listener", "bootstrap.internal_listener.v3.InternalListener")
    return {
        "admin": {"address": _pipe(files.admin(region))},
        "bootstrap_extensions": [internal],
        "static_resources": {"listeners": listeners, "clusters": clusters},
    }


@dataclass(frozen=True, slots=True)
class _Build:
    """The parts of one region's configuration."""

    layout: Layout
    addresses: Addresses
    region: str
    files: Files

    def lua(self, part: str, **values: str | int) -> str:
        """The source of one of the proxy's own parts, for this region."""
        return proxy_lua.source(part, self.layout, self.region, **values)

    def edge(self, app: App) -> Json:
        """Where callers connect: their headers become a plan, and a replay is followed."""
        route = {
            "cluster": "dialler",
            "timeout": "0s",
            "internal_redirect_policy": {
                "max_internal_redirects": REDIRECTS_MAX,
                "redirect_response_codes": [308],
                "response_headers_to_copy": list(_COPIED),
                "allow_cross_scheme_redirect": True,
            },
        }
        added = {
            "Fly-Client-IP": "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%",
            "Fly-Region": self.region,
            "Fly-Forwarded-Port": "%DOWNSTREAM_LOCAL_PORT%",
            "X-Forwarded-Port": "%DOWNSTREAM_LOCAL_PORT%",
            "X-Forwarded-SSL": "off",
            "Fly-Request-Id": f"%REQ(X-REQUEST-ID)%-{self.region}",
        }
        host = {
            "name": "app",
            "domains": ["*"],
            "routes": [{"match": {"prefix": "/"}, "route": route}],
            "request_body_buffer_limit": BODY_MAX,
            "request_headers_to_add": [_set(name, value) for name, value in added.items()],
            "request_headers_to_remove": ["x-envoy-external-address", "x-envoy-original-url", "x-envoy-internal"],
            "response_headers_to_add": [_set("Fly-Request-Id", f"%REQ(X-REQUEST-ID)%-{self.region}")],
        }
        early = _typed(
            "antispoof",
            "http.early_header_mutation.header_mutation.v3.HeaderMutation",
            mutations=[{"remove": name} for name in SPOOFED],
        )
        manager = _manager(
            f"edge-{app.name}", host, [_lua(self.lua("edge", APP=app.name, ATTESTED=f"{self.files.attested}/"))],
            use_remote_address=True,
            skip_xff_append=False,
            internal_address_config={"cidr_ranges": [{"address_prefix": "192.0.2.255", "prefix_len": 32}]},
            via="1.1 fly.io",
            server_name="Fly",
            server_header_transformation="OVERWRITE",
            generate_request_id=True,
            preserve_external_request_id=False,
            early_header_mutation_extensions=[early],
        )  # fmt: skip
        also = self.addresses.also(self.region, app.name)
        further = {"additional_addresses": [{"address": _socket(also)}]} if also else {}
        return _listener(f"edge-{app.name}", _socket(self.addresses.edge(self.region, app.name)), manager, **further)

    def dialler(self) -> Json:
        """What one step of a plan goes through: a machine is chosen, and another one where nothing was sent."""
        retry = {
            "retry_on": "connect-failure,refused-stream,retriable-headers",
            "num_retries": RETRIES,
            "retriable_headers": [{"name": "fly-proxy-error", "string_match": {"prefix": "PC01"}}],
            "retry_priority": _typed(
                "envoy.retry_priorities.previous_priorities",
                "retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
                update_frequency=1,
            ),
            "retry_back_off": {"base_interval": "0.005s", "max_interval": "0.02s"},
        }
        route = {"cluster_header": "flycast-cluster", "timeout": "0s", "retry_policy": retry}
        host = {
            "name": "step",
            "domains": ["*"],
            "routes": [{"match": {"prefix": "/"}, "route": route}],
            "request_body_buffer_limit": BODY_MAX,
            "request_headers_to_remove": [*_INTERNAL, "x-envoy-expected-rq-timeout-ms", "x-envoy-internal"],
        }
        replies = [_failure(["UT"], "PC04 no answer in time"), _failure(["UH", "NC"], "PC02 no machine could be asked")]
        manager = _manager("dialler", host, [_lua(self.lua("dial"))], replies=[*replies, *_SENT_OR_NOT])
        filters = {"filter_chains": [{"filters": [manager]}]}
        return {"name": "dialler", "internal_listener": {}, **filters}

    def backhaul(self, machine: Slot) -> Json:
        """Where the diallers of all regions reach one machine of this one."""
        cluster = f"machine-{machine.id}"
        host = {
            "name": "machine",
            "domains": ["*"],
            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "0s"}}],
            "response_headers_to_remove": ["fly-proxy-error", "flycast-refused", "flycast-state", "flycast-status"],
            "response_headers_to_add": [_set("flycast-instance", machine.id)],
        }
        health = _typed(
            "health",
            "filters.http.health_check.v3.HealthCheck",
            pass_through_mode=False,
            cluster_min_healthy_percentages={cluster: {"value": 1}},
            headers=[{"name": ":path", "string_match": {"exact": HEALTH_PATH}}],
        )
        filters = [health]
        if self.layout.app(machine.app).autostop_ms is not None:
            gate = str(self.files.gate(machine))
            filters.append(_lua(self.lua("wake", GATE=gate, WAKE=f"/wake/{machine.id}", WAKE_MS=60_000)))
        replies = [_failure(["UH", "NC"], "PC01 the machine isn't there"), *_SENT_OR_NOT]
        manager = _manager(f"backhaul-{machine.id}", host, filters, replies=replies)
        workers = self.addresses.workers()
        guard = [_only_from(workers)] if workers else []
        address = _socket(self.addresses.backhaul(machine))
        return _listener(f"backhaul-{machine.id}", address, manager, before=guard)

    def app_cluster(self, app: App) -> Json:
        """All machines of an app, by their backhauls: nearest region first, the next one when none of it is well."""
        by_region: dict[str, list[Json]] = {}
        for machine in self.layout.nearest(self.region, app.name):
            labels = {"any": "1", "region": machine.region, "instance": machine.id}
            endpoint = {"endpoint": {"address": _socket(self.addresses.backhaul(machine))}}
            labelled = endpoint | {"metadata": {"filter_metadata": {"envoy.lb": labels}}}
            by_region.setdefault(machine.region, []).append(labelled)
        groups = [
            {"priority": priority, "locality": {"region": region}, "lb_endpoints": endpoints}
            for priority, (region, endpoints) in enumerate(by_region.items())
        ]
        return _cluster(
            f"app-{app.name}", groups, [_health(HEALTH_PATH, "1s", "1s", "0.5s")],
            connect_timeout="1s",
            # The default leaks traffic to further regions as soon as one machine of two is ill.
            assignment={"policy": {"overprovisioning_factor": 100_000}},
            # By default changes of health are gathered for a second before anything follows from them.
            common_lb_config={"healthy_panic_threshold": {"value": 0}, "update_merge_window": "0s"},
            lb_subset_config={
                "fallback_policy": "NO_FALLBACK",
                "subset_selectors": [{"keys": [key]} for key in ("any", "region", "instance")],
            },
            outlier_detection=_OUTLIERS,
            circuit_breakers=_limits(_PLENTY),
        )  # fmt: skip

    def machine_cluster(self, machine: Slot) -> Json:
        """One machine, from beside it."""
        app = self.layout.app(machine.app)
        endpoint: Json = {"address": _socket(self.addresses.local(machine))}
        path = app.check
        if app.autostop_ms is not None:  # who starts it answers while it is stopped: so the check never wakes it
            endpoint["health_check_config"] = {"address": _pipe(self.files.agent)}
            path = f"/check/{machine.id}"
        group = {"lb_endpoints": [{"endpoint": endpoint}]}
        return _cluster(
            f"machine-{machine.id}", [group], [_health(path, "1s", "1s", "0.25s")],
            connect_timeout="0.5s",
            common_lb_config={"update_merge_window": "0s"},
            circuit_breakers=_limits(app.hard_limit),
        )  # fmt: skip


_OUTLIERS: Final = {
    # Only what this proxy sees of the network counts: an app may say 503 as often as it likes.
    "split_external_local_origin_errors": True,
    "consecutive_local_origin_failure": 2,
    "enforcing_consecutive_local_origin_failure": 100,
    **{f"enforcing_{kind}": 0 for kind in ("consecutive_5xx", "consecutive_gateway_failure", "success_rate")},
    "enforcing_local_origin_success_rate": 0,
    "interval": "1s",
    "base_ejection_time": "2s",
    "max_ejection_time": "10s",
    "max_ejection_percent": 100,
}


def _failure(flags: Sequence[str], text: str) -> Json:
    """A reply of the proxy's own, named by what became of the request."""
    return {
        "filter": {"response_flag_filter": {"flags": list(flags)}},
        "headers_to_add": [_set("fly-proxy-error", text)],
    }


def _set(name: str, value: str) -> Json:
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


_SENT_OR_NOT: Final = (
    _failure(["UF", "UO"], "PC01 nothing was sent"),
    _failure(["UC", "UR", "LR", "UPE"], "PC03 the connection ended while the request was in flight"),
)


def _typed(name: str, kind: str, **fields: Any) -> Json:
    return {"name": name, "typed_config": {"@type": f"{_TYPES}.{kind}", **fields}}


def _lua(source: str) -> Json:
    kind = "filters.http.lua.v3.Lua"
    return _typed("envoy.filters.http.lua", kind, default_source_code={"inline_string": source})


def _manager(name: str, host: Json, filters: Sequence[Json], *, replies: Sequence[Json] = (), **fields: Any) -> Json:
    """The HTTP connection manager: between hops it passes on what the edge has written."""
    router = _typed("envoy.filters.http.router", "filters.http.router.v3.Router", suppress_envoy_headers=True)
    between = {
        "use_remote_address": False,
        "skip_xff_append": True,
        "server_header_transformation": "PASS_THROUGH",
        "generate_request_id": False,
        "preserve_external_request_id": True,
    }
    return _typed(
        "envoy.filters.network.http_connection_manager",
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=name,
        stream_idle_timeout="60s",
        route_config={"name": name, "virtual_hosts": [host]},
        http_filters=[*filters, router],
        local_reply_config={"mappers": list(replies)},
        **(between | fields),
    )


def _listener(name: str, address: Json, manager: Json, *, before: Sequence[Json] = (), **fields: Any) -> Json:
    # Without freebind, nothing can listen at an anycast address: it is on no interface.
    return {
        "name": name, "address": address, "freebind": True, "filter_chains": [{"filters": [*before, manager]}], **fields
    }  # fmt: skip


def _only_from(hosts: Sequence[str]) -> Json:
    """A backhaul isn't for machines: they could write there what only the edge may say."""
    length = 128 if ":" in hosts[0] else 32
    principals = [{"direct_remote_ip": {"address_prefix": host, "prefix_len": length}} for host in hosts]
    rules = {"action": "ALLOW", "policies": {"workers": {"permissions": [{"any": True}], "principals": principals}}}
    return _typed("envoy.filters.network.rbac", "filters.network.rbac.v3.RBAC", stat_prefix="guard", rules=rules)


def _cluster(
    name: str, groups: Sequence[Json], health: Sequence[Json], *, assignment: Mapping[str, Any] = {}, **fields: Any
) -> Json:
    options = {
        "explicit_http_config": {"http_protocol_options": {}},
        "common_http_protocol_options": {"idle_timeout": "4s"},  # Fly pools connections for about as long
    }
    return {
        "name": name,
        "type": "STATIC",
        "lb_policy": "LEAST_REQUEST",
        "load_assignment": {"cluster_name": name, "endpoints": list(groups), **assignment},
        "health_checks": list(health),
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{_TYPES}.upstreams.http.v3.HttpProtocolOptions",
                **options,
            }
        },
        **fields,
    }


def _dialler_cluster(replay: str) -> Json:
    address = {"envoy_internal_address": {"server_listener_name": "dialler"}}
    group = {"lb_endpoints": [{"endpoint": {"address": address}}]}
    codec = _typed("envoy.filters.http.upstream_codec", "filters.http.upstream_codec.v3.UpstreamCodec")
    cluster = _cluster("dialler", [group], [], connect_timeout="1s", circuit_breakers=_limits(_PLENTY))
    options = cluster["typed_extension_protocol_options"]["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"]
    options["http_filters"] = [_lua(replay), codec]
    return cluster


def _pipe_cluster(name: str, path: Path) -> Json:
    group = {"lb_endpoints": [{"endpoint": {"address": _pipe(path)}}]}
    return _cluster(name, [group], [], connect_timeout="1s")


def _limits(requests: int) -> Json:
    """Default circuit breakers cut at 3 retries and 1,024 requests, which gave 503s in failover."""
    plenty = dict.fromkeys(("max_connections", "max_pending_requests", "max_retries"), _PLENTY)
    return {"thresholds": [{**plenty, "max_requests": requests}]}


def _health(path: str, interval: str, timeout: str, when_ill: str) -> Json:
    return {
        "timeout": timeout,
        "interval": interval,
        "unhealthy_interval": when_ill,
        "no_traffic_interval": interval,
        "no_traffic_healthy_interval": interval,
        "initial_jitter": "0.05s",
        "unhealthy_threshold": 2,
        "healthy_threshold": 1,
        "http_health_check": {"path": path},
    }


def _socket(endpoint: Endpoint) -> Json:
    return {"socket_address": {"address": endpoint.host, "port_value": endpoint.port}}


def _pipe(path: Path) -> Json:
    return {"pipe": {"path": str(path)}}
