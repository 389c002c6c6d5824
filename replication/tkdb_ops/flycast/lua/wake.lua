-- Before a machine that may be stopped. Whoever finds its gate closed has it started, and looks again: nobody is sent to
-- the machine who hasn't just found the gate open, so who stops it knows of all that it could cut.

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
