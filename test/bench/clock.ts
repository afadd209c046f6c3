/**
 * Milliseconds of the system's monotonic clock, with a fraction. All processes of one machine read the same clock, so
 * that one process can tell when another one sent; `performance.now()` starts anew in each.
 */
export function now(): number {
  const [seconds, nanoseconds] = process.hrtime()
  return seconds * 1000 + nanoseconds / 1e6
}
