-- The proxy's state of a request in flight. Its parts pass it on in an internal header: `key=value;key=value`.
--   plan    the remaining steps, as `region=iad|instance=m1|any`             step      the present step
--   app     the app that the request is for                                  hops      the number of replays
--   origin  `force:MACHINE@APP` or `prefer:…`: the target of the fallback    deadline  the deadline, ms since 1970
--   began   when the replay began, ms since 1970                             wanted    the preferred machine
--   fell    set after a fallback: then nothing is replayed any longer        from      the machine that replayed it

-- Read `a=b;c="d,e"`, as in the headers fly-replay and flycast-state. Return nil for any other form.
local function parse(text)
  local fields, at = {}, 1
  while at <= #text do
    local _, stop, key = text:find("^%s*([%l_]+)%s*=%s*", at)
    if not stop or fields[key] then return nil end
    local value
    if text:sub(stop + 1, stop + 1) == '"' then
      _, stop, value = text:find('^"([^"]*)"%s*', stop + 1)
    else
      _, stop, value = text:find('^([^;"]*)', stop + 1)
    end
    if not stop then return nil end
    fields[key], at = value:match("^(.-)%s*$"), stop + 1
    if at <= #text then
      if text:sub(at, at) ~= ";" then return nil end
      at = at + 1
    end
  end
  return fields
end

local function compose(fields)
  local parts = {}
  for key, value in pairs(fields) do parts[#parts + 1] = key .. "=" .. tostring(value) end
  return table.concat(parts, ";")
end

local function now_ms(handle) return tonumber(handle:timestampString(EnvoyTimestampResolution.MICROSECOND)) / 1000 end

-- Return "10s", "800ms" or "1.5s" in ms; nil for any other form.
local function duration_ms(text)
  local number, unit = text:match("^(%d+%.?%d*)(%l+)$")
  local scale = ({ ms = 1, s = 1000, m = 60000 })[unit]
  return number and scale and math.ceil(tonumber(number) * scale)
end

local function is_name(text) return text ~= "" and #text <= 64 and text:find("^[%w_.-]+$") ~= nil end

-- Append the steps for a list of regions and aliases, in order of preference. Return nil if it isn't such a list.
local function add_regions(steps, list, app)
  for code in (list .. ","):gmatch("([^,]*),") do
    code = code:match("^%s*(.-)%s*$")
    if code == "any" then
      steps[#steps + 1] = "any"
    elseif ALIASES[code] then
      for _, region in ipairs(REGIONS[app] or {}) do
        if ALIASES[code][region] then steps[#steps + 1] = "region=" .. region end
      end
    elseif is_name(code) then
      steps[#steps + 1] = "region=" .. code
    else
      return nil
    end
    if #steps > STEPS_MAX then return nil end
  end
  return steps
end
