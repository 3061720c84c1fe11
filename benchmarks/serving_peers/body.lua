-- What wrk sends: the body in the file that is the first argument, with the headers that follow as pairs of name and value.
-- The last line of what it prints is JSON: seconds, answers, those that were refused, errors, and latencies in milliseconds.

function init(arguments)
  local file = assert(io.open(arguments[1], "rb"))
  wrk.method, wrk.body = "POST", file:read("*a")
  file:close()
  for index = 2, #arguments, 2 do
    wrk.headers[arguments[index]] = arguments[index + 1]
  end
end

function done(summary, latency)
  local errors = summary.errors
  local broken = errors.connect + errors.read + errors.write + errors.timeout
  local line = '{"seconds": %f, "answers": %d, "refused": %d, "errors": %d, "p50": %f, "p99": %f}\n'
  local seconds, p50, p99 = summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3
  io.write(string.format(line, seconds, summary.requests, errors.status, broken, p50, p99))
end
