import type { Clock } from '../../src/delivery/clock.ts'

/** Time that stands still, and goes on when the test says so. */
export interface FakeClock extends Clock {
  /** How long until the next timer; `null` without one. */
  readonly next: number | null
  advance(millis: number): void
}

export function createFakeClock(): FakeClock {
  const timers = new Set<{ at: number; callback: () => void }>()
  const start = Date.UTC(2026, 0, 31, 12)
  let now = 1000
  return {
    now: () => now,
    wall: () => start + now,
    after(millis, callback) {
      const timer = { at: now + millis, callback }
      timers.add(timer)
      return () => void timers.delete(timer)
    },
    get next() {
      return timers.size === 0 ? null : Math.min(...[...timers].map(({ at }) => at)) - now
    },
    advance(millis) {
      const end = now + millis
      while (true) {
        const due = [...timers].filter(({ at }) => at <= end).sort((a, b) => a.at - b.at)[0]
        if (!due) break
        timers.delete(due)
        now = Math.max(now, due.at)
        due.callback()
      }
      now = end
    },
  }
}
