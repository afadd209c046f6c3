import type { Millis } from '../devices/reading.ts'

/** Tokens that come back at a rate. It may be overdrawn: what has arrived has arrived, and the debt is waited off. */
export interface Bucket {
  take(count: number): void
  /** How long until there is a token. */
  wait(): Millis
}

/** `null` for a rate of 0, which is no limit. */
export function createBucket(perSecond: number, burstSeconds: number): Bucket | null {
  if (perSecond === 0) return null
  const capacity = Math.max(1, perSecond * burstSeconds)
  let tokens = capacity
  let at = performance.now()

  function refill(): void {
    const now = performance.now()
    tokens = Math.min(capacity, tokens + ((now - at) / 1000) * perSecond)
    at = now
  }

  return {
    take(count) {
      refill()
      tokens -= count
    },
    wait() {
      refill()
      return tokens >= 1 ? 0 : ((1 - tokens) / perSecond) * 1000
    },
  }
}
