"""The configuration of Envoy as a proxy that acts like Fly's proxy for flycast. The caller writes it to a file.

::

    caller -> edge -> dialler -> backhaul -> machine
              plan,   balance,   limit,
              replay  retry      wake, 4 s pool

A proxy has an edge for each app, a dialler that only its own edges reach, and a backhaul for each machine that it
reaches directly. The backhauls of other machines are in other proxies. docs/flycast.md explains each setting.

>>> from tkdb_ops.flycast.addresses import Endpoint
>>> machine = Backend("m1", "syd", local=Endpoint("10.0.0.1", 8080))
>>> made = configuration(Site("syd", (Door("tkdb", (Endpoint("127.0.0.1", 80),), (machine,)),)))
>>> [listener["name"] for listener in made["static_resources"]["listeners"]]
['dialler', 'edge-tkdb', 'backhaul-m1']
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tkdb_ops.flycast import proxy_lua
from tkdb_ops.flycast.addresses import Endpoint
from tkdb_ops.flycast.site import Backend, Door, Site

BODY_MAX: Final = 1_048_576
"""The largest body, in bytes, that the proxy keeps in order to send its request again."""

HEALTH_PATH: Final = "/.flycast/health"
RETRIES: Final = 5
REDIRECTS_MAX: Final = 32

SPOOFED: Final = (
    "fly-client-ip", "fly-forwarded-port", "fly-preferred-instance-unavailable", "fly-proxy-error", "fly-region",
    "fly-replay-cache-status", "fly-replay-failed", "fly-replay-src", "fly-request-id", "fly-src", "fly-src-signature",
    "flycast-cluster", "flycast-instance", "flycast-pick", "flycast-state", "flycast-status", "flycast-timeout-ms",
    "x-forwarded-port", "x-forwarded-ssl",
)  # fmt: skip
"""The headers that only the proxy may set. If a caller sends one, it is dropped before anything reads it."""

_INTERNAL: Final = ("flycast-state", "flycast-pick", "flycast-cluster", "flycast-timeout-ms")
_COPIED: Final = ("flycast-state", "fly-replay-src", "fly-replay-failed", "fly-preferred-instance-unavailable")
_TYPES: Final = "type.googleapis.com/envoy.extensions"
_PLENTY: Final = 1_000_000

Json = dict[str, Any]


def configuration(site: Site) -> Json:
    """Return the bootstrap configuration of the Envoy of ``site``, to be written as JSON."""
    build = _Build(site)
    listeners = [build.dialler(), *map(build.edge, site.doors)]
    clusters = [_dialler_cluster(build.lua("replay")), *map(build.app_cluster, site.doors)]
    if site.agent is not None:
        clusters.append(_pipe_cluster("agent", site.agent))
    for door in site.doors:
        for machine in door.machines:
            if machine.local is not None:
                listeners.append(build.backhaul(door, machine))
                clusters.append(build.machine_cluster(door, machine, machine.local))
    internal = _typed("envoy.bootstrap.internal_listener", "bootstrap.internal_listener.v3.InternalListener")
    admin = {} if site.admin is None else {"admin": {"address": _address(site.admin)}}
    return {
        **admin,
        "bootstrap_extensions": [internal],
        "static_resources": {"listeners": listeners, "clusters": clusters},
    }


@dataclass(frozen=True, slots=True)
class _Build:
    """The parts of one proxy's configuration."""

    site: Site

    def lua(self, part: str, **values: str | int) -> Json:
        """Return one of the proxy's own Lua parts, as a filter."""
        source = proxy_lua.source(part, self.site, **values)
        return _typed(
            "envoy.filters.http.lua", "filters.http.lua.v3.Lua", default_source_code={"inline_string": source}
        )

    def edge(self, door: Door) -> Json:
        """Return the listener for callers. Their headers become a plan, and it follows replays."""
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
            "Fly-Region": self.site.region,
            "Fly-Forwarded-Port": "%DOWNSTREAM_LOCAL_PORT%",
            "X-Forwarded-Port": "%DOWNSTREAM_LOCAL_PORT%",
            "X-Forwarded-SSL": "off",
            "Fly-Request-Id": f"%REQ(X-REQUEST-ID)%-{self.site.region}",
        }
        host = {
            "name": "app",
            "domains": ["*"],
            "routes": [{"match": {"prefix": "/"}, "route": route}],
            "request_body_buffer_limit": BODY_MAX,
            "request_headers_to_add": [_set(name, value) for name, value in added.items()],
            "request_headers_to_remove": ["x-envoy-external-address", "x-envoy-original-url", "x-envoy-internal"],
            "response_headers_to_add": [_set("Fly-Request-Id", f"%REQ(X-REQUEST-ID)%-{self.site.region}")],
        }
        early = _typed(
            "antispoof",
            "http.early_header_mutation.header_mutation.v3.HeaderMutation",
            mutations=[{"remove": name} for name in SPOOFED],
        )
        filters = [self.lua("edge", APP=door.app)]
        if self.site.attested is not None:
            filters.insert(0, self.lua("attest", ATTESTED=f"{self.site.attested}/"))
        named: Json = {"server_name": self.site.server, "server_header_transformation": "OVERWRITE"}
        manager = _manager(
            f"edge-{door.app}", host, filters,
            use_remote_address=True,
            skip_xff_append=False,
            internal_address_config={"cidr_ranges": [{"address_prefix": "192.0.2.255", "prefix_len": 32}]},
            via=self.site.via,
            generate_request_id=True,
            preserve_external_request_id=False,
            early_header_mutation_extensions=[early],
            **(named if self.site.server is not None else {}),
        )  # fmt: skip
        first, *others = map(_address, door.addresses)
        addresses = {"additional_addresses": [{"address": other} for other in others]} if others else {}
        return _listener(f"edge-{door.app}", first, manager, **addresses)

    def dialler(self) -> Json:
        """Return the listener for one step of a plan. It chooses a machine, and another one if nothing was sent."""
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
        manager = _manager("dialler", host, [self.lua("dial")], replies=[*replies, *_SENT_OR_NOT])
        return _listener("dialler", None, manager)

    def backhaul(self, door: Door, machine: Backend) -> Json:
        """Return the listener by which diallers reach one machine: those of all proxies, or only this one's."""
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
        filters = [] if door.direct else [health]
        if machine.gate is not None:
            filters.append(self.lua("wake", GATE=machine.gate, WAKE=f"/wake/{machine.id}", WAKE_MS=60_000))
        replies = [_failure(["UH", "NC"], "PC01 the machine isn't there"), *_SENT_OR_NOT]
        manager = _manager(f"backhaul-{machine.id}", host, filters, replies=replies)
        guard = [_only_from(self.site.workers)] if self.site.workers else []
        address = None if machine.backhaul is None else _address(machine.backhaul)
        return _listener(f"backhaul-{machine.id}", address, manager, before=guard)

    def app_cluster(self, door: Door) -> Json:
        """Return the cluster of an app's machines, by their backhauls.

        The nearest region comes first. The next one gets requests only if no machine of the first is healthy.
        """
        by_region: dict[str, list[Json]] = {}
        for machine in door.machines:
            labels = {"any": "1", "region": machine.region, "instance": machine.id}
            metadata = {"filter_metadata": {"envoy.lb": labels}}
            by_region.setdefault(machine.region, []).append({"endpoint": _backhaul(machine), "metadata": metadata})
        groups = [
            {"priority": priority, "locality": {"region": region}, "lb_endpoints": endpoints}
            for priority, (region, endpoints) in enumerate(by_region.items())
        ]
        return _cluster(
            f"app-{door.app}", groups,
            connect_timeout="1s",
            health_checks=[_health(door.check if door.direct else HEALTH_PATH, "1s", "1s", "0.5s")],
            # By default, Envoy sends traffic to further regions as soon as one machine of two is unhealthy.
            assignment={"policy": {"overprovisioning_factor": 100_000}},
            common_lb_config=_AT_ONCE | _NO_PANIC,
            lb_subset_config={
                "fallback_policy": "NO_FALLBACK",
                "subset_selectors": [{"keys": [key]} for key in ("any", "region", "instance")],
            },
            outlier_detection=_OUTLIERS,
            circuit_breakers=_limits(_PLENTY),
        )  # fmt: skip

    def machine_cluster(self, door: Door, machine: Backend, local: Endpoint) -> Json:
        """Return the cluster of one machine, for the proxy next to it; or for any proxy, if none is next to it."""
        endpoint: Json = {"address": _address(local)}
        path = door.check
        if machine.gate is not None and self.site.agent is not None:
            # The agent answers the check while the machine is stopped, so a check never wakes it.
            endpoint["health_check_config"] = {"address": _address(self.site.agent)}
            path = f"/check/{machine.id}"
        beside: Json = {"connect_timeout": "0.5s", "health_checks": [_health(path, "1s", "1s", "0.25s")]}
        direct: Json = {"connect_timeout": "1s"}  # The app's cluster checks its health.
        group = {"lb_endpoints": [{"endpoint": endpoint}]}
        return _cluster(
            f"machine-{machine.id}",
            [group],
            **(direct if door.direct else beside),
            common_lb_config=_AT_ONCE,
            circuit_breakers=_limits(door.hard_limit),
        )


# By default, Envoy collects changes of health for a second before it acts on them.
_AT_ONCE: Final = {"update_merge_window": "0s"}
_NO_PANIC: Final = {"healthy_panic_threshold": {"value": 0}}
_OUTLIERS: Final = {
    # Only network errors that this proxy observes count. An app may answer 503 at any rate.
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


def _manager(name: str, host: Json, filters: Sequence[Json], *, replies: Sequence[Json] = (), **fields: Any) -> Json:
    """Return the HTTP connection manager. Between hops, it leaves the edge's headers as they are."""
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


def _listener(name: str, address: Json | None, manager: Json, *, before: Sequence[Json] = (), **fields: Any) -> Json:
    """Return a listener. If it has no address, only this Envoy itself can reach it."""
    # An anycast address is on no interface, so only freebind makes it possible to listen there.
    where = {"internal_listener": {}} if address is None else {"address": address, "freebind": True}
    return {"name": name, **where, "filter_chains": [{"filters": [*before, manager]}], **fields}


def _only_from(hosts: Sequence[str]) -> Json:
    """Return a filter that takes connections only from ``hosts``: a machine could send the edge's headers here."""
    length = 128 if ":" in hosts[0] else 32
    principals = [{"direct_remote_ip": {"address_prefix": host, "prefix_len": length}} for host in hosts]
    rules = {"action": "ALLOW", "policies": {"workers": {"permissions": [{"any": True}], "principals": principals}}}
    return _typed("envoy.filters.network.rbac", "filters.network.rbac.v3.RBAC", stat_prefix="guard", rules=rules)


def _cluster(name: str, groups: Sequence[Json], *, assignment: Mapping[str, Any] = {}, **fields: Any) -> Json:
    options = {
        "explicit_http_config": {"http_protocol_options": {}},
        "common_http_protocol_options": {"idle_timeout": "4s"},  # Fly's pool of connections uses about the same time.
    }
    return {
        "name": name,
        "type": "STATIC",
        "lb_policy": "LEAST_REQUEST",
        "load_assignment": {"cluster_name": name, "endpoints": list(groups), **assignment},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{_TYPES}.upstreams.http.v3.HttpProtocolOptions",
                **options,
            }
        },
        **fields,
    }


def _dialler_cluster(replay: Json) -> Json:
    group = {"lb_endpoints": [{"endpoint": {"address": _internal("dialler")}}]}
    codec = _typed("envoy.filters.http.upstream_codec", "filters.http.upstream_codec.v3.UpstreamCodec")
    cluster = _cluster("dialler", [group], connect_timeout="1s", circuit_breakers=_limits(_PLENTY))
    options = cluster["typed_extension_protocol_options"]["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"]
    options["http_filters"] = [replay, codec]
    return cluster


def _pipe_cluster(name: str, path: str) -> Json:
    group = {"lb_endpoints": [{"endpoint": {"address": _address(path)}}]}
    return _cluster(name, [group], connect_timeout="1s")


def _limits(requests: int) -> Json:
    """Return circuit breakers with high limits: the defaults, 3 retries and 1,024 requests, gave 503s in failover."""
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


def _address(where: Endpoint | str) -> Json:
    """Return a TCP address, or the path of a socket, in Envoy's form."""
    if isinstance(where, str):
        return {"pipe": {"path": where}}
    return {"socket_address": {"address": where.host, "port_value": where.port}}


def _backhaul(machine: Backend) -> Json:
    """Return a machine's backhaul as an endpoint."""
    if machine.backhaul is not None:
        return {"address": _address(machine.backhaul)}
    endpoint: Json = {"address": _internal(f"backhaul-{machine.id}")}
    if machine.local is not None:  # Envoy's main thread checks health, and it can't use internal listeners.
        endpoint["health_check_config"] = {"address": _address(machine.local)}
    return endpoint


def _internal(listener: str) -> Json:
    return {"envoy_internal_address": {"server_listener_name": listener}}
