-- Before the edge: the caller is attested, where who calls can be told by its address. Its Fly-Src is signed anew every
-- second, in a file that is named for that address. A request that is sent again keeps what it was given at first.

function envoy_on_request(handle)
  local headers = handle:headers()
  if headers:get("flycast-state") then return end
  local peer = handle:streamInfo():downstreamDirectRemoteAddress():match("^%[?(.-)%]?:%d+$")
  local file = peer and io.open(ATTESTED .. peer)
  if not file then return end
  local source, signature = file:read("*l"), file:read("*l")
  file:close()
  if not signature then return end
  headers:replace("fly-src", source)
  headers:replace("fly-src-signature", signature)
end
