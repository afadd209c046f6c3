/** At most so many requests a second, evenly: a bucket of tokens. */
export interface Rate {
  /** The earliest time at which there is a token, in monotonic milliseconds. */
  nextAt(now: number): number
  take(now: number): void
}

/** Timers are no finer than a millisecond or two; with this much in hand, they do not slow a fast rate down. */
const bucketSeconds = 0.1

/** `null` is no limit. */
export function createRate(perSecond: number | null, burstSeconds = bucketSeconds): Rate {
  if (perSecond === null) return { nextAt: (now) => now, take: () => {} }
  const capacity = Math.max(1, perSecond * burstSeconds)
  let tokens = capacity
  let at = Number.NEGATIVE_INFINITY

  function refill(now: number): void {
    if (now <= at) return
    tokens = Math.min(capacity, tokens + ((now - at) / 1000) * perSecond!)
    at = now
  }

  return {
    nextAt(now) {
      refill(now)
      return tokens >= 1 ? now : now + ((1 - tokens) / perSecond) * 1000
    },
    take(now) {
      refill(now)
      tokens -= 1
    },
  }
}
