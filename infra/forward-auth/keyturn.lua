-- `http-request lua.keyturn <scopes>`: asks Keyturn about the key of a request. Accepted, it says who calls; refused, it answers.
local server = os.getenv('KEYTURN')

local IDENTITY = { 'keyturn-client', 'keyturn-credential', 'keyturn-key-id', 'keyturn-scopes' }
local NOTICE = { 'keyturn-key-rotation', 'deprecation', 'sunset' }
-- A signature over other fields than these can not be checked unless they are named here.
local SHOWN = {
  'authorization', 'x-api-key', 'user-agent', 'signature', 'signature-input', 'content-digest', 'content-type', 'date',
  'x-key-id', 'x-timestamp', 'x-nonce', 'x-signature', 'x-sequence',
}

-- HAProxy counts the values of a field from 0.
local function first(fields, name)
  return fields[name] and fields[name][0]
end

local function refuse(txn, status, fields, body)
  local headers = {}
  for _, name in ipairs({ 'content-type', 'www-authenticate', 'retry-after', 'cache-control', table.unpack(NOTICE) }) do
    local value = first(fields, name)
    if value then headers[name] = { value } end
  end
  txn:done(txn:reply({ status = status, headers = headers, body = body }))
end

core.register_action('keyturn', { 'http-req' }, function(txn, scopes)
  local given = txn.http:req_get_headers()
  local tls = txn.f:ssl_fc()
  local ask = {
    ['x-forwarded-for'] = { txn.f:src() },
    ['x-forwarded-method'] = { txn.f:method() },
    ['x-forwarded-uri'] = { txn.f:pathq() },
    ['x-forwarded-host'] = { first(given, 'host') },
    ['x-forwarded-proto'] = { (tls == true or tls == 1) and 'https' or 'http' },
  }
  -- Every value of a field: that a key came twice is for Keyturn to see.
  for _, name in ipairs(SHOWN) do
    if given[name] then
      ask[name] = {}
      for i = 0, #given[name] do table.insert(ask[name], given[name][i]) end
    end
  end
  local query = scopes == '-' and '' or '?scope=' .. scopes:gsub(',', '&scope=')
  local answer = core.httpclient():get({ url = server .. '/auth' .. query, headers = ask, timeout = 5000 })
  if answer == nil or answer.status == 0 or answer.status == nil then
    return refuse(txn, 503, { ['retry-after'] = { [0] = '5' } }, '')
  end
  if answer.status ~= 204 then
    return refuse(txn, answer.status, answer.headers, answer.body)
  end
  for _, name in ipairs(IDENTITY) do
    txn.http:req_set_header(name, first(answer.headers, name) or '')
  end
  for _, name in ipairs(NOTICE) do
    local value = first(answer.headers, name)
    if value then txn:set_var('txn.' .. name:gsub('-', '_'), value) end
  end
  txn:set_var('txn.keyturn_accepted', true)
end, 1)
