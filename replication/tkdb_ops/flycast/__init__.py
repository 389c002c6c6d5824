"""The stand-in for flycast: Fly's private anycast, built of real parts, on one Linux machine.

docs/flycast.md explains it.

``addresses``       The addresses at which each part listens
``admin``           The admin socket of a region's Envoy, and the state that Envoy reports there
``autostop``        Autostop and autostart
``backbone``        The backbone between regions, in user space
``environment``     The ground of a stand-in: the places in which programs run, and from which sockets connect
``envoy``           The configuration of Envoy as a proxy that acts like Fly's proxy for flycast
``fleet``           A fleet of ordinary hosts in regions, and the task of the proxy in each region: flycast without Fly
``flycast``         The complete stand-in: apps behind a private anycast address, in several regions, on this machine
``health_check``    A health check, like a proxy's
``layout``          The layout of a stand-in: its apps, the regions of their machines, and the regions of callers
``loopback``        The ground without a separate network: all places are addresses in 127.0.0.0/8
``machines``        Machines: an app's programs, which can be started, stopped, killed and paused
``names``           DNS names, as the resolver in a Fly Machine answers them
``namespace_init``  The keeper of namespaces and of the programs in them
``namespaces``      Network namespaces
``proxy_lua``       A proxy's own parts, in Lua
``regions``         Fly's regions, and the round trips between them
``relay``           A relay of TCP connections, byte for byte: into a stand-in's network, or out of it
``services``        The services inside a stand-in, apart from its proxies: the resolver, and the signer of Fly-Src
``site``            The task of one proxy: the apps that it opens to callers, and the addresses of their machines
``worker``          The proxy of one region of a stand-in
"""
