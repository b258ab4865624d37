-- The recovery ramp: after a recovery or a pause, calls are let through at `r.rate` a second, doubling each second, until
-- `r.max_rate` is reached. It begins at the dispatcher's first tick after it (ramp_at), however late that is: time in
-- which nothing was tried proves nothing about the service.
local function ramp_start(g) return math.max(num(g.closed_at), num(g.paused)) end

-- Returns the calls a second that may go now, and whether the ramp is over.
local function ramp(g, r)
  local since = num(g.ramp_at) >= ramp_start(g) and math.max(0, now - num(g.ramp_at)) / 1000 or 0
  local rate = ramp_start(g) > 0 and r.rate * 2 ^ math.min(math.floor(since), 30) or r.max_rate
  return math.min(r.max_rate, rate), rate >= r.max_rate
end
