-- The recovery ramp: after a recovery or a pause, calls are let through at `r.rate` a second, doubling each second, until
-- `r.max_rate` is reached.
-- Returns the calls a second that may go now, and whether the ramp is over.
local function ramp(g, r)
  local since = math.max(0, now - math.max(num(g.closed_at), num(g.paused))) / 1000
  local rate = r.rate * 2 ^ math.min(math.floor(since), 30)
  return math.min(r.max_rate, rate), rate >= r.max_rate
end
