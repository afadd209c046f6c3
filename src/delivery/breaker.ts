/** When to knock again at a receiver that fails. Pure state: the caller brings the time, in monotonic milliseconds. */
export interface Breaker {
  readonly isOpen: boolean
  /** Attempts that have failed since the last one that did not. */
  readonly failures: number
  /** The earliest time of the next attempt. Infinity while a probe is under way: only its outcome tells. */
  readonly nextAttemptAt: number
  /** Leave for one attempt, or `null` before its time. Each leave ends in `succeed`, `fail` or `abandon`. */
  begin(now: number): Leave | null
  succeed(leave: Leave): void
  /** `retryAfterMillis` is what the receiver asked for: until then nobody knocks. */
  fail(leave: Leave, now: number, retryAfterMillis: number | null): void
  /** The attempt had no outcome. */
  abandon(leave: Leave): void
}

export interface Leave {
  readonly isProbe: boolean
}

/** So many failures in a row, over all workers, are an outage rather than bad luck. */
const failuresToOpen = 5
const firstProbeMillis = 5000
const firstRetryMillis = 1000
const maxWaitMillis = 5 * 60_000

/**
 * How long a batch waits after it has failed so often: exponential, with full jitter, so that batches that failed
 * together do not come back together.
 */
export function retryMillis(failures: number, random: () => number): number {
  return random() * growing(firstRetryMillis, failures)
}

function growing(first: number, times: number): number {
  return Math.min(maxWaitMillis, first * 2 ** Math.min(30, Math.max(0, times - 1)))
}

/**
 * Opens after five failures without a success between. Then single probes go out at growing intervals, and the first
 * success closes it.
 */
export function createBreaker(): Breaker {
  let failures = 0
  let failedProbes = 0
  let isOpen = false
  let probing = false
  let probeAt = 0
  let pausedUntil = 0

  function nextAttemptAt(): number {
    if (!isOpen) return pausedUntil
    return probing ? Number.POSITIVE_INFINITY : Math.max(pausedUntil, probeAt)
  }

  return {
    get isOpen() {
      return isOpen
    },
    get failures() {
      return failures
    },
    get nextAttemptAt() {
      return nextAttemptAt()
    },
    begin(now) {
      if (now < nextAttemptAt()) return null
      probing = isOpen
      return { isProbe: isOpen }
    },
    succeed() {
      // Also the late success of an attempt from before: the receiver is back. What it asked for by Retry-After holds.
      failures = 0
      failedProbes = 0
      isOpen = false
      probing = false
    },
    fail({ isProbe }, now, retryAfterMillis) {
      failures++
      if (retryAfterMillis !== null) pausedUntil = Math.max(pausedUntil, now + retryAfterMillis)
      if (isOpen && isProbe) {
        probing = false
        failedProbes++
        probeAt = now + growing(firstProbeMillis, failedProbes + 1)
      } else if (!isOpen && failures >= failuresToOpen) {
        isOpen = true
        failedProbes = 0
        probeAt = now + firstProbeMillis
      }
    },
    abandon({ isProbe }) {
      if (isProbe) probing = false
    },
  }
}
