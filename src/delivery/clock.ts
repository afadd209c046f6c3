/** Time as the pusher sees it, so that tests can turn it. */
export interface Clock {
  /** Milliseconds that never go back: what waits are counted in. A clock that is set must not stop the deliveries. */
  now(): number
  /** Milliseconds since the Unix epoch: what people and receivers are told. */
  wall(): number
  /** Calls back once after the wait; returns the function that calls it off. */
  after(millis: number, callback: () => void): () => void
}

/**
 * Milliseconds since the Unix epoch as the clock said when the process began, and only growing since: for times that are
 * kept, and must not come late or at once because the clock was set.
 */
export function steadyNow(): number {
  return Math.floor(performance.timeOrigin + performance.now())
}

/** Beyond this, setTimeout fires at once. */
const maxTimerMillis = 2 ** 31 - 1

export const systemClock: Clock = {
  now: () => performance.now(),
  wall: () => Date.now(),
  after(millis, callback) {
    const timer = setTimeout(callback, Math.min(Math.max(0, millis), maxTimerMillis))
    return () => clearTimeout(timer)
  },
}
