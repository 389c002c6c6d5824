-- In the dialler: the step of the plan selects the machines from which the balancer chooses, and limits the time.

function envoy_on_request(handle)
  local headers = handle:headers()
  local key, value = headers:get("flycast-pick"):match("^(%l+)=?(.*)$")
  handle:streamInfo():dynamicMetadata():set("envoy.lb", key, key == "any" and "1" or value)
  local timeout_ms = headers:get("flycast-timeout-ms")
  if timeout_ms then headers:replace("x-envoy-upstream-rq-timeout-ms", timeout_ms) end
end
