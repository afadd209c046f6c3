import type { Millis } from '../../devices/reading.ts'

interface Failures {
  count: number
  last: Millis
}

/** Failures that cost nothing: somebody mistypes, or a device still has its old password. */
const free = { network: 50, identity: 5 }
const firstPauseMillis = 1_000
const maxPauseMillis = 60_000
/** After so long without a failure everything is forgiven. */
const memoryMillis = 15 * 60_000
const maxRemembered = 20_000

export interface Attempts {
  /** Milliseconds until the next attempt is looked at; 0: now. */
  pause(network: string, identity: string): Millis
  failed(network: string, identity: string): void
  succeeded(identity: string): void
  readonly figures: { failed: number; slowed: number }
}

/**
 * Slows down who guesses: after a few failures against an identity, or against many identities from one network (an
 * address, or what counts as one), each further one doubles the time for which nothing more is looked at. A device that
 * comes back with its old password again and again counts once for its network, behind which its whole fleet may be.
 */
export function createAttempts(now: () => Millis = Date.now): Attempts {
  const known = new Map<string, Failures>()
  const figures = { failed: 0, slowed: 0 }

  function pauseOf(key: string, allowed: number): Millis {
    const failures = known.get(key)
    if (!failures || failures.count < allowed) return 0
    const pause = Math.min(firstPauseMillis * 2 ** (failures.count - allowed), maxPauseMillis)
    return Math.max(failures.last + pause - now(), 0)
  }

  function count(key: string): void {
    const before = known.get(key)
    const forgiven = !before || now() - before.last > memoryMillis
    // Taken out and put in again: the first one in the map is the one that is quiet for longest.
    known.delete(key)
    known.set(key, { count: forgiven ? 1 : before.count + 1, last: now() })
    if (known.size > maxRemembered) known.delete(known.keys().next().value as string)
  }

  return {
    pause(network, identity) {
      const pause = Math.max(pauseOf(`@${network}`, free.network), pauseOf(identity, free.identity))
      if (pause > 0) figures.slowed++
      return pause
    },
    failed(network, identity) {
      figures.failed++
      const pair = `${network} ${identity}`
      if (!known.has(pair)) count(`@${network}`)
      count(pair)
      if (identity !== '') count(identity)
    },
    succeeded: (identity) => void known.delete(identity),
    figures,
  }
}
