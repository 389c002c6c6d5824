-- Before the edge: attest the caller, if its address identifies it. The signer renews its Fly-Src every second, in a
-- file whose name is that address. A request that is sent again keeps its first Fly-Src.

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
