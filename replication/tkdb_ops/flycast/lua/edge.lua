-- At the edge: the caller's headers become a plan, and each pass takes one step of it.

local function asked(headers)
  local instance = headers:get("fly-force-instance-id")
  if instance and is_name(instance) then return { plan = "instance=" .. instance } end
  instance = headers:get("fly-prefer-instance-id")
  if instance and is_name(instance) then return { plan = "instance=" .. instance .. "|any", wanted = instance } end
  local list = headers:get("fly-force-region")
  local steps = list and add_regions({}, list, APP)
  if steps then return { plan = table.concat(steps, "|") } end
  list = headers:get("fly-prefer-region")
  steps = list and add_regions({}, list, APP)
  if steps then return { plan = table.concat(steps, "|") .. "|any" } end
  return { plan = "any" }
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local known = headers:get("flycast-state")
  local state
  if known then
    state = parse(known)
  else
    state = asked(headers)
    state.app, state.hops = APP, 0
  end
  state.step, state.plan = state.plan:match("^([^|]*)|?(.*)$")
  headers:replace("flycast-state", compose(state))
  headers:replace("flycast-pick", state.step)
  headers:replace("flycast-cluster", "app-" .. state.app)
  if state.deadline and not state.fell then
    local left = math.max(1, math.ceil(tonumber(state.deadline) - now_ms(handle)))
    headers:replace("flycast-timeout-ms", tostring(left))
  end
end

-- The proxy can't do what the request asks for. The caller gets the reason, and nothing of the app's answer.
local function refuse(handle, headers, text)
  local kept = { ["fly-request-id"] = 1, server = 1, via = 1, date = 1 }
  local names = {}
  for name in pairs(headers) do names[#names + 1] = name end
  for _, name in ipairs(names) do
    if not kept[name] and name:sub(1, 1) ~= ":" then headers:remove(name) end
  end
  headers:replace(":status", "502")
  headers:replace("fly-proxy-error", text)
  headers:replace("content-type", "text/plain")
  headers:replace("content-length", "0")
  local body = handle:body(true)
  if body then handle:headers():replace("content-length", tostring(body:setBytes(text .. "\n"))) end
end

function envoy_on_response(handle)
  local headers = handle:headers()
  local refused, was = headers:get("flycast-refused"), headers:get("flycast-status")
  if headers:get("flycast-state") then -- Envoy couldn't follow this redirect.
    refused = "the request can't be sent again: its body is over 1 MiB, or the app answered before it was read"
  end
  if refused then return refuse(handle, headers, refused) end
  if was then headers:replace(":status", was) end
  headers:remove("flycast-status")
  headers:remove("flycast-instance")
end
