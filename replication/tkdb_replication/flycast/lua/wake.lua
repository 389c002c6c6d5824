-- Before a machine that may be stopped: the first request has it started, and waits. The file stands while it is.

function envoy_on_request(handle)
  local file = io.open(STOPPED)
  if not file then return end
  file:close()
  local request = { [":method"] = "POST", [":path"] = WAKE, [":authority"] = "agent" }
  local answer = handle:httpCall("agent", request, "", WAKE_MS)
  if answer[":status"] ~= "200" then
    handle:respond({ [":status"] = "503", ["fly-proxy-error"] = "PC01 the machine didn't start" }, "it didn't start\n")
  end
end
