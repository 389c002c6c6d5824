-- Between the edge and the dialler: two kinds of answers become redirects: one that asks for a replay, and one that
-- reports that nothing was sent. Envoy follows redirects by itself, with the body that it has kept. The app's own 308s
-- get another status until they reach the edge.

local PASSED = { "fly-replay-src", "fly-replay-failed", "fly-preferred-instance-unavailable" }

local function redirect(headers, known, state)
  headers:replace(":status", "308")
  headers:replace("location", "http://" .. known.host .. known.path)
  headers:replace("flycast-state", compose(state))
  for _, name in ipairs(PASSED) do
    if known[name] ~= "" then headers:replace(name, known[name]) else headers:remove(name) end
  end
  headers:remove("fly-replay")
  headers:remove("fly-proxy-error")
end

local function refuse(headers, text) headers:replace("flycast-refused", text) end

-- Return the plan that a fly-replay asks for; nil and the reason if that can't be done.
local function planned(fields, app, instance)
  local steps = {}
  if not MACHINES[app] then return nil, "fly-replay names an app that isn't there" end
  if fields.instance then
    if not is_name(fields.instance) then return nil, "fly-replay names no machine" end
    return "instance=" .. fields.instance
  end
  if fields.prefer_instance then
    if not is_name(fields.prefer_instance) then return nil, "fly-replay names no machine" end
    steps[1] = "instance=" .. fields.prefer_instance
  end
  if fields.region then
    if not add_regions(steps, fields.region, app) then return nil, "fly-replay names no regions" end
  elseif fields.elsewhere == "true" then
    for _, machine in ipairs(MACHINES[app]) do
      if machine ~= instance then steps[#steps + 1] = "instance=" .. machine end
    end
  else
    steps[#steps + 1] = "any"
  end
  if #steps == 0 then return nil, "there is no other machine" end
  return table.concat(steps, "|")
end

local function replay(handle, headers, known, state)
  local fields = parse(headers:get("fly-replay"))
  if not fields then return refuse(headers, "fly-replay can't be read") end
  local hops = tonumber(state.hops) + 1
  if hops > HOPS_MAX then return refuse(headers, "it was replayed too often") end
  local instance = headers:get("flycast-instance") or ""
  local app = fields.app or state.app
  local plan, why = planned(fields, app, instance)
  local timeout_ms = fields.timeout and duration_ms(fields.timeout)
  local kind = fields.fallback and ({ force_self = "force", prefer_self = "prefer" })[fields.fallback]
  if fields.timeout and not timeout_ms then plan, why = nil, "fly-replay has a timeout that can't be read" end
  if fields.fallback and not kind then plan, why = nil, "fly-replay has a fallback that isn't known" end
  if not plan then return refuse(headers, why) end
  local now = now_ms(handle)
  local after = { plan = plan, app = app, hops = hops, from = instance, began = now, wanted = fields.prefer_instance }
  after.deadline = timeout_ms and now + timeout_ms
  after.origin = kind and kind .. ":" .. instance .. "@" .. state.app
  local source = "instance=" .. instance .. ";region=" .. (WHERE[instance] or "") .. ";t=" .. string.format("%.0f", now * 1000)
  if fields.state then source = source .. ";state=" .. fields.state end
  known["fly-replay-src"], known["fly-replay-failed"] = source, ""
  redirect(headers, known, after)
end

-- Nothing was sent, or time has run out: take the next step, or fall back, or leave the answer as it is.
local function go_on(handle, headers, known, state, reason)
  local now = now_ms(handle)
  if state.deadline and now >= tonumber(state.deadline) then reason = "timeout" end
  if state.wanted and state.step == "instance=" .. state.wanted then
    known["fly-preferred-instance-unavailable"] = state.wanted
  end
  if reason ~= "timeout" and state.plan ~= "" then return redirect(headers, known, state) end
  local kind, machine, app = (state.origin or ""):match("^(%l+):([^@]*)@(.*)$")
  if not kind then return end
  local key, value = state.step:match("^(%l+)=?(.*)$")
  local failed = (key == "any" and "" or key .. "=" .. value .. ";") .. "app=" .. state.app
  failed = failed .. ";replay_source=" .. state.from .. ";reason=" .. reason
  failed = failed .. ";elapsed_ms=" .. math.floor(now - tonumber(state.began))
  known["fly-replay-src"], known["fly-replay-failed"] = "", failed
  local plan = "instance=" .. machine .. (kind == "prefer" and "|any" or "")
  redirect(headers, known, { plan = plan, app = app, hops = state.hops, fell = 1 })
end

function envoy_on_request(handle)
  local metadata, headers = handle:streamInfo():dynamicMetadata(), handle:headers()
  metadata:set("flycast", "state", headers:get("flycast-state"))
  metadata:set("flycast", "path", headers:get(":path"))
  metadata:set("flycast", "host", headers:get(":authority") or "")
  for _, name in ipairs(PASSED) do metadata:set("flycast", name, headers:get(name) or "") end
end

function envoy_on_response(handle)
  local headers = handle:headers()
  local known = handle:streamInfo():dynamicMetadata():get("flycast")
  local state = parse(known.state)
  local said = (headers:get("fly-proxy-error") or ""):match("^(PC%d+)")
  if said == "PC01" then
    go_on(handle, headers, known, state, "retries_exhausted")
  elseif said == "PC02" then
    go_on(handle, headers, known, state, "no_candidate")
  elseif said == "PC04" and state.deadline then
    go_on(handle, headers, known, state, "timeout")
  elseif headers:get("fly-replay") and not state.fell then
    replay(handle, headers, known, state)
  elseif headers:get(":status") == "308" then
    headers:replace(":status", "299")
    headers:replace("flycast-status", "308")
  end
end
