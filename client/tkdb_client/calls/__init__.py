"""One call to the authority: attempts in rounds, the nearest healthy region, and the limits on retries.

The rules are pure generators that yield effects. A runner carries the effects out, blocking or awaiting.

``attempt``          One attempt of a call at one region
``call``             One call to the authority: its attempts, and its end
``circuit_breaker``  A circuit breaker: it decides whether a region gets calls (Nygard, "Release It!", 2007)
``effects``          The effects of a call
``per_loop``         One value for each event loop in which a client is used, ended together with the loop
``regions``          The choice of the region: the nearest healthy one, and the next one if it fails
``retry_budget``     The budget that limits a client's retries
``runners``          Runners carry out the effects of calls: one blocks its thread, and the other awaits
``transport``        HTTP/Noise, and the client's only socket: one POST carries message 1 there and message 2 back
"""
