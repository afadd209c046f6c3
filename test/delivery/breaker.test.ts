import { describe, expect, test } from 'vitest'
import { type Breaker, createBreaker, type Leave, retryMillis } from '../../src/delivery/breaker.ts'
import { createRate } from '../../src/delivery/rate.ts'

function fail(breaker: Breaker, now: number, retryAfterMillis: number | null = null): void {
  breaker.fail(breaker.begin(now) as Leave, now, retryAfterMillis)
}

describe('the circuit', () => {
  test('opens after five failures in a row, over all workers', () => {
    const breaker = createBreaker()
    const leaves = [1, 2, 3, 4].map(() => breaker.begin(0) as Leave)
    for (const leave of leaves) breaker.fail(leave, 10, null)
    expect(breaker.isOpen).toBe(false)
    fail(breaker, 20)
    expect(breaker).toMatchObject({ isOpen: true, failures: 5, nextAttemptAt: 5020 })
    expect(breaker.begin(5019)).toBeNull()
  })

  test('stays closed while there are successes between', () => {
    const breaker = createBreaker()
    for (let n = 0; n < 50; n++) {
      for (let k = 0; k < 4; k++) fail(breaker, n)
      breaker.succeed(breaker.begin(n) as Leave)
    }
    expect(breaker).toMatchObject({ isOpen: false, failures: 0 })
  })

  test('lets one probe through at a time, at intervals that grow from five seconds to five minutes', () => {
    const breaker = createBreaker()
    let now = 0
    for (let n = 0; n < 5; n++) fail(breaker, now)
    const waits: number[] = []
    for (let n = 0; n < 9; n++) {
      waits.push(breaker.nextAttemptAt - now)
      now = breaker.nextAttemptAt
      const probe = breaker.begin(now) as Leave
      expect(breaker.begin(now + 1e9)).toBeNull()
      breaker.fail(probe, now, null)
    }
    expect(waits).toEqual([5, 10, 20, 40, 80, 160, 300, 300, 300].map((seconds) => seconds * 1000))
    breaker.succeed(breaker.begin(breaker.nextAttemptAt) as Leave)
    expect(breaker).toMatchObject({ isOpen: false, failures: 0 })
    expect(breaker.begin(now)).toEqual({ isProbe: false })
  })

  test('late failures of attempts from before do not delay the probe, a late success closes', () => {
    const breaker = createBreaker()
    const late = [1, 2].map(() => breaker.begin(0) as Leave)
    for (let n = 0; n < 5; n++) fail(breaker, 0)
    breaker.fail(late[0] as Leave, 4000, null)
    expect(breaker.nextAttemptAt).toBe(5000)
    breaker.succeed(late[1] as Leave)
    expect(breaker.isOpen).toBe(false)
  })

  test('a probe without an outcome makes room for the next', () => {
    const breaker = createBreaker()
    for (let n = 0; n < 5; n++) fail(breaker, 0)
    breaker.abandon(breaker.begin(5000) as Leave)
    expect(breaker.begin(5000)).toEqual({ isProbe: true })
  })

  test('nobody knocks before the time that the receiver asked for', () => {
    const breaker = createBreaker()
    const other = breaker.begin(0) as Leave
    fail(breaker, 0, 120_000)
    breaker.succeed(other)
    expect(breaker.begin(119_999)).toBeNull()
    expect(breaker.begin(120_000)).not.toBeNull()
  })

  test('the wait of a batch doubles from a second to five minutes, with full jitter', () => {
    const longest = [1, 2, 3, 4, 9, 10, 1000].map((failures) => retryMillis(failures, () => 1))
    expect(longest).toEqual([1000, 2000, 4000, 8000, 256_000, 300_000, 300_000])
    expect(retryMillis(5, () => 0)).toBe(0)
    expect(retryMillis(5, () => 0.5)).toBe(8000)
  })
})

describe('the rate', () => {
  test.each([0.5, 1, 5, 50, 1000])('%d a second is kept to, but for a burst of a tenth of a second', (perSecond) => {
    const rate = createRate(perSecond)
    let taken = 0
    const seconds = 20
    for (let now = 0; now < seconds * 1000; ) {
      const at = rate.nextAt(now)
      if (at > now) now = Math.max(at, now + 0.001)
      else {
        rate.take(now)
        taken++
      }
    }
    expect(taken).toBeGreaterThanOrEqual(perSecond * seconds)
    expect(taken).toBeLessThanOrEqual(perSecond * seconds + Math.max(1, perSecond / 10) + 1)
  })

  test('without a limit it never waits', () => {
    expect(createRate(null).nextAt(7)).toBe(7)
  })
})
