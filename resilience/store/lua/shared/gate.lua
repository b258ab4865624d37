-- The circuit breaker of one service: HASH cb:<service>, ZSET cb:<service>:leases of probes by their end.
-- Each transition starts a new generation; a report of an older one changes nothing. A refusal writes nothing.
-- `p` is the policy: failure_threshold failure_rate window recovery max_recovery half_open_calls success_threshold
-- identical_refusals slow_rate hold max_retry_after ttl; all times in ms. A missing hash is a closed gate.
local BUCKETS = 10

local function gate_load(service)
  local g = hash(key('cb', service))
  g.service, g.key, g.leases = service, key('cb', service), key('cb', service, 'leases')
  g.state = g.state or 'closed'
  return g
end

local function num(v) return tonumber(v or 0) end

local function gate_write(g, p, changes)
  write(g.key, g, changes)
  redis.call('PEXPIRE', g.key, int(p.ttl))
end

-- `max` with the clock keeps generations rising even when the key was lost in between.
local function gate_move(g, p, to, event, changes)
  local from = g.state
  changes.state, changes.since, changes.good = to, now, 0
  changes.gen = math.max(num(g.gen) + 1, now)
  if to == 'closed' then
    changes.opens, changes.closed_at, changes.released_at, changes['until'] = 0, now, now, false
    changes.reason, changes.by, changes.code, changes.run, changes.bad_since_hold = false, false, false, false, false
    for i = 0, BUCKETS - 1 do changes['b' .. i] = false end
  end
  local was_since = g.since
  gate_write(g, p, changes)
  redis.call('DEL', g.leases)
  emit(event, {service = g.service, breaker_state = to, from = from, from_since = was_since, reason = g.reason,
    by = g.by, ['until'] = g['until'], waiting = redis.call('ZCARD', key('deferred', g.service))})
end

local function gate_open(g, p, reason, by, retry_after)
  local opens = num(g.opens) + 1
  local wait = math.min(p.max_recovery, p.recovery * 2 ^ math.min(opens - 1, 30))
  wait = math.max(wait, math.min(retry_after or 0, p.max_retry_after))
  gate_move(g, p, 'open', 'breaker_opened', {opens = opens, ['until'] = now + wait, reason = reason, by = by})
end

local function gate_hold(g, p, reason, by, wait)
  gate_move(g, p, 'held', 'service_held',
    {reason = reason, by = by, ['until'] = wait and now + wait or false, bad_since_hold = false})
end

-- When the gate may let something through: ms from now, 0 for at once, nil where waiting does not help.
-- While health says down, an open gate waits for the health check, at most `hold`.
local function gate_wait(g, p)
  if g.state == 'held' then
    return g['until'] and math.max(0, num(g['until']) - now)
  end
  local wait = num(g.paused) - now
  if g.state == 'open' then
    wait = math.max(wait, num(g['until']) - now)
    if g.health == 'down' then wait = math.max(wait, num(g.since) + p.hold - now) end
  elseif g.state == 'half_open' then
    local live = redis.call('ZRANGEBYSCORE', g.leases, '(' .. int(now), '+inf', 'WITHSCORES')
    if #live / 2 >= p.half_open_calls then wait = math.max(wait, num(live[2]) - now) end
  end
  return math.max(0, wait)
end

-- Asks for one request. Returns true, or false with the wait in ms (nil: no use waiting). The same token again
-- gets the same answer.
local function gate_admit(g, p, token, lease)
  if g.state == 'half_open' and num(redis.call('ZSCORE', g.leases, token) or 0) > now then return true end
  local wait = gate_wait(g, p)
  if wait ~= 0 then return false, wait end
  if g.state == 'open' or g.state == 'held' then
    gate_move(g, p, 'half_open', 'breaker_half_open', {['until'] = false})
  end
  if g.state == 'half_open' then
    redis.call('ZREMRANGEBYSCORE', g.leases, '-inf', int(now))
    redis.call('ZADD', g.leases, int(now + lease), token)
    redis.call('PEXPIRE', g.leases, int(p.ttl))
  end
  return true
end

-- Whether the service was well, as far as the gate knows: asked before an attempt is reported, it says whose fault a
-- failure is.
local function gate_is_well(g)
  return g.state == 'closed' and g.health ~= 'down'
end

local function bucket(g, slot)
  local s, ok, fail, slow = string.match(g['b' .. slot % BUCKETS] or '', '^(%d+):(%d+):(%d+):(%d+)$')
  if tonumber(s) ~= slot then return 0, 0, 0 end
  return tonumber(ok), tonumber(fail), tonumber(slow)
end

local function count(g, p, failed, slow)
  local slot = math.floor(now / (p.window / BUCKETS))
  local ok, fail, late = bucket(g, slot)
  if failed then fail = fail + 1 else ok = ok + 1 end
  if slow then late = late + 1 end
  local field = 'b' .. int(slot % BUCKETS)
  gate_write(g, p, {[field] = int(slot) .. ':' .. int(ok) .. ':' .. int(fail) .. ':' .. int(late)})
  local total, fails, lates = 0, 0, 0
  for s = slot - BUCKETS + 1, slot do
    local o, f, l = bucket(g, s)
    total, fails, lates = total + o + f, fails + f, lates + l
  end
  if fails >= p.failure_threshold and fails / total >= p.failure_rate then
    return int(fails) .. ' of ' .. int(total) .. ' requests failed'
  end
  if p.slow_rate and lates >= p.failure_threshold and lates / total >= p.slow_rate then
    return int(lates) .. ' of ' .. int(total) .. ' requests were slow'
  end
end

-- Five contacts in a row refused with the same word are not five bad contacts.
local function count_refusal(g, p, code)
  local run = g.code == code and num(g.run) + 1 or 1
  gate_write(g, p, {code = code, run = run})
  if run >= p.identical_refusals then
    gate_hold(g, p, int(run) .. ' contacts in a row refused with ' .. code, 'breaker')
  end
end

local function report_closed(g, p, r)
  if r.outcome == 'success' or r.outcome == 'failure' then
    if r.outcome == 'success' and g.run then gate_write(g, p, {code = false, run = false}) end
    local why = count(g, p, r.outcome == 'failure', r.slow)
    if why then
      if r.reason then why = why .. ', last: ' .. r.reason end
      gate_open(g, p, why, 'breaker', r.retry_after)
    end
  elseif r.outcome == 'refused' then
    count_refusal(g, p, r.code)
  end
end

local function report_half_open(g, p, r)
  if r.outcome == 'failure' then
    gate_open(g, p, r.reason or 'the probe failed', 'breaker', r.retry_after)
  elseif r.outcome ~= 'ignored' then
    gate_write(g, p, {good = num(g.good) + 1})
    if num(g.good) >= p.success_threshold then gate_move(g, p, 'closed', 'breaker_closed', {}) end
  end
end

-- Takes the outcome of one admitted request. `r`: gen, token, outcome (success failure alive refused ignored), and
-- optionally slow, code, reason, retry_after, pause (ms), hold (a reason). Returns false when the report is stale.
local function gate_report(g, p, r)
  if r.gen ~= num(g.gen) then return false end
  if g.state == 'half_open' and redis.call('ZREM', g.leases, r.token) == 0 then return false end
  if r.hold then
    gate_hold(g, p, r.hold, 'breaker')
    return true
  end
  if g.state == 'closed' then report_closed(g, p, r) else report_half_open(g, p, r) end
  if r.pause then
    local wait = now + math.min(r.pause, p.max_retry_after)
    if num(g.paused) <= now then
      emit('service_throttled', {service = g.service, breaker_state = g.state, reason = r.reason, ['until'] = wait})
    end
    if wait > num(g.paused) then gate_write(g, p, {paused = wait}) end
  end
  return true
end
