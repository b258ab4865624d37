-- The circuit breaker of one service: HASH cb:<service>, ZSET cb:<service>:leases of probes by their end.
-- Each transition starts a new generation; a report of an older one changes nothing. A refusal writes nothing.
-- `p` is the policy: failure_threshold run_amid_successes failure_rate minimum_calls window recovery max_recovery
-- half_open_calls success_threshold identical_refusals slow_rate hold max_retry_after ttl; all times in ms.
-- A missing hash is a closed gate.
local BUCKETS = 10

-- What opens a closed gate. The figures are for the shipped policy; tests/store/test_breaker_statistics.py has them.
-- 1. failure_threshold (4) failures in a row without a success in the window. Of 1,000 services that fail 20 % of the
--    time 1.6 begin with four failures, so they must all be of one call, or have come so slowly that the window would
--    hold no more than run_amid_successes of them: 4 in 15 s. At a call a second it takes 12.
-- 2. run_amid_successes (12) failures in a row: in 3 of a million runs of 1,000 requests at 20 % failures.
-- 3. A share of failure_rate (0.5) among at least minimum_calls (40) in the window.
-- 4. The same for each sample of minimum_calls requests since the gate closed, however long they took. The first opens
--    it at FIRST x failure_rate, 17 of 40: 99.2 % of services that fail 60 % of the time reach that, and 0.1 % of those
--    that fail 20 %; no other test of 40 requests is better at both. A later one needs LATER x failure_rate, 24 of 40:
--    by bad luck in 1 of 10 million.
local FIRST, LATER = 0.85, 1.2
local LEASES_KEPT = 10 -- leases that an unreported one is kept for

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
    changes.failed_run, changes.failed_since, changes.failed_of = false, false, false
    changes.sample_calls, changes.sample_failures, changes.sampled = false, false, false
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

-- Asks for one request. Returns true, or false with the wait in ms (nil: waiting does not help). The same token again
-- gets the same answer.
local function gate_admit(g, p, token, lease)
  if g.state == 'half_open' and num(redis.call('ZSCORE', g.leases, token) or 0) > now then return true end
  local wait = gate_wait(g, p)
  if wait ~= 0 then return false, wait end
  if g.state == 'open' or g.state == 'held' then
    gate_move(g, p, 'half_open', 'breaker_half_open', {['until'] = false})
  end
  if g.state == 'half_open' then
    -- A lease that ran out stays a while: whoever took it, or the dispatcher, may still report it, once.
    redis.call('ZREMRANGEBYSCORE', g.leases, '-inf', int(now - LEASES_KEPT * lease))
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

local function count_run(g, r, changes)
  if r.outcome == 'success' then
    changes.failed_run, changes.failed_since, changes.failed_of = false, false, false
  else
    changes.failed_run = num(g.failed_run) + 1
    changes.failed_since = g.failed_since or now
    changes.failed_of = (not g.failed_run or g.failed_of == r.source) and r.source or false
  end
end

local function long_run(g, p, lonely)
  local run = num(g.failed_run)
  local slow = now - num(g.failed_since) >= (p.failure_threshold - 1) * p.window / p.run_amid_successes
  return run >= p.run_amid_successes or lonely and run >= p.failure_threshold and (slow or g.failed_of ~= nil)
end

local function share(part, total, what)
  return int(part) .. ' of ' .. int(total) .. ' requests ' .. what
end

local function large_share(p, fails, total, rate)
  if total >= p.minimum_calls and fails >= p.failure_threshold and fails >= math.min(1, rate) * total - 1e-9 then
    return share(fails, total, 'failed')
  end
end

-- Returns the reason to open the gate when this answer completes a sample that says so.
local function count_sample(g, p, failed, changes)
  local calls, fails = num(g.sample_calls) + 1, num(g.sample_failures) + (failed and 1 or 0)
  if calls < p.minimum_calls then
    changes.sample_calls, changes.sample_failures = calls, fails
    return nil
  end
  changes.sample_calls, changes.sample_failures, changes.sampled = false, false, 1
  return large_share(p, fails, calls, p.failure_rate * (g.sampled and LATER or FIRST))
end

-- Counts one answer. Returns the reason to open the gate, if there is one.
local function count(g, p, r)
  local failed, slot = r.outcome == 'failure', math.floor(now / (p.window / BUCKETS))
  local ok, fail, late = bucket(g, slot)
  if failed then fail = fail + 1 else ok = ok + 1 end
  if r.slow then late = late + 1 end
  local changes = {['b' .. int(slot % BUCKETS)] = int(slot) .. ':' .. int(ok) .. ':' .. int(fail) .. ':' .. int(late)}
  count_run(g, r, changes)
  local why = count_sample(g, p, failed, changes)
  gate_write(g, p, changes)
  local total, fails, lates = 0, 0, 0
  for s = slot - BUCKETS + 1, slot do
    local o, f, l = bucket(g, s)
    total, fails, lates = total + o + f, fails + f, lates + l
  end
  if long_run(g, p, fails == total) then return int(num(g.failed_run)) .. ' requests in a row failed' end
  why = why or large_share(p, fails, total, p.failure_rate)
  if why then return why end
  if p.slow_rate and lates >= p.failure_threshold and lates / total >= p.slow_rate then
    return share(lates, total, 'were slow')
  end
end

-- Where five contacts in a row are refused with the same code, the fault is hardly the contacts'.
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
    local why = count(g, p, r)
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
-- optionally slow, code, reason, retry_after, pause (ms), source (the call), hold or open (the reason).
-- Returns false when the report is stale: of an older generation, or of a probe that was reported before. The
-- dispatcher reports a failure for an attempt whose lease ran out, with the attempt's gen and token.
local function gate_report(g, p, r)
  if r.gen ~= num(g.gen) then return false end
  if g.state == 'half_open' and redis.call('ZREM', g.leases, r.token) == 0 then return false end
  if r.hold then
    gate_hold(g, p, r.hold, 'breaker')
    return true
  end
  if r.open then
    gate_open(g, p, r.open, 'breaker', r.retry_after)
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
