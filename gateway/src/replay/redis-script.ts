/**
 * One check in Redis, atomic. Redis is asked as one process with one memory: the record `born` says since when it has remembered without
 * a gap. A process that was restarted (from whatever it had saved), a replica that took over, and a store that was emptied have none, or
 * that of another run: they remember from now on, and what may have been accepted before is `unavailable`.
 *
 * The arithmetic of sequences is that of `advance`.
 */
export const CHECK_SCRIPT = `
local born, nonce, sequence = KEYS[1], KEYS[2], KEYS[3]
local run, now, created, margin, keep = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local number, reorder, keepSequence = ARGV[6], tonumber(ARGV[7]), ARGV[8]

local record = redis.call('GET', born)
local since = record and string.match(record, '^' .. run .. ' (%d+)$')
if not since then
  local time = redis.call('TIME')
  since = string.format('%.0f', math.max(now, time[1] * 1000 + math.floor(time[2] / 1000)))
  redis.call('SET', born, run .. ' ' .. since)
end
if created <= tonumber(since) + margin then return 'unavailable' end
if redis.call('EXISTS', nonce) == 1 then return 'replayed' end

if number ~= '' then
  local n = tonumber(number)
  local state = redis.call('HMGET', sequence, 'top', 'used')
  local top, used = tonumber(state[1]), tonumber(state[2])
  if not top then
    top, used = n, 1
  elseif n > top then
    used = n - top > 31 and 1 or bit.bor(bit.lshift(used, n - top), 1)
    top = n
  else
    local flag = bit.lshift(1, top - n)
    if top - n > reorder or bit.band(used, flag) ~= 0 then return 'out-of-order' end
    used = bit.bor(used, flag)
  end
  redis.call('HSET', sequence, 'top', string.format('%.0f', top), 'used', used)
  redis.call('PEXPIRE', sequence, keepSequence)
end
redis.call('SET', nonce, '', 'PX', keep)
return 'fresh'
`
