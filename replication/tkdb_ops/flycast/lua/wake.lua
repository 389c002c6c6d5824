-- Before a machine that may be stopped. A request that finds the gate closed has the machine started, and checks again.
-- No request is sent to the machine unless it has just found the gate open. So the agent, which stops the machine,
-- knows every request that a stop could cut.

local TRIES = 5

local function is_closed()
  local file = io.open(GATE)
  if file then file:close() end
  return file ~= nil
end

function envoy_on_request(handle)
  local request = { [":method"] = "POST", [":path"] = WAKE, [":authority"] = "agent" }
  for _ = 1, TRIES do
    if not is_closed() then return end
    if handle:httpCall("agent", request, "", WAKE_MS)[":status"] ~= "200" then break end
  end
  if is_closed() then
    handle:respond({ [":status"] = "503", ["fly-proxy-error"] = "PC01 the machine didn't start" }, "it didn't start\n")
  end
end
