import type { Millis } from '../../devices/reading.ts'
import type { Offset } from '../store/store.ts'

/** Consecutive readings of the log that were delivered together and wait for their acknowledgement. */
export interface Run {
  from: Offset
  /** Exclusive. */
  to: Offset
  /** How often they were delivered. */
  attempt: number
  /** When they may be delivered again, as `steadyNow` counts. */
  ready: Millis
  /** When they were delivered for the first time, by the clock. */
  since: Millis
}

/**
 * What a consumer has delivered and nobody has acknowledged. It costs by run, not by reading: a thousand readings
 * that were received together are one run, also while they are acknowledged one by one in their order.
 */
export function createPending(known: readonly Run[] = []) {
  // In the order of the log; no two overlap.
  let runs: Run[] = known.map((run) => ({ ...run }))
  let count = runs.reduce((sum, { from, to }) => sum + to - from, 0)

  /** The first run that ends after an offset. */
  function indexOf(offset: Offset): number {
    let low = 0
    let high = runs.length
    while (low < high) {
      const middle = (low + high) >>> 1
      if ((runs[middle] as Run).to <= offset) low = middle + 1
      else high = middle
    }
    return low
  }

  function add({ from, to, attempt, ready, since }: Run): void {
    count += to - from
    const at = indexOf(from)
    const before = runs[at - 1]
    const same = before?.to === from && before.attempt === attempt && before.ready === ready
    if (before && same) {
      before.to = to
      before.since = Math.min(before.since, since)
    } else {
      runs.splice(at, 0, { from, to, attempt, ready, since })
    }
  }

  /** Takes out what lies from one offset to another, as the pieces of runs that it was. */
  function cut(from: Offset, to: Offset): Run[] {
    const first = indexOf(from)
    const pieces: Run[] = []
    const rest: Run[] = []
    let last = first
    for (let run = runs[last]; run && run.from < to; run = runs[++last]) {
      const piece = { ...run, from: Math.max(run.from, from), to: Math.min(run.to, to) }
      pieces.push(piece)
      count -= piece.to - piece.from
      if (run.from < piece.from) rest.push({ ...run, to: piece.from })
      if (piece.to < run.to) rest.push({ ...run, from: piece.to })
    }
    const [only] = rest
    // The usual way: the beginning of a run is acknowledged.
    if (only && rest.length === 1 && last === first + 1) runs[first] = only
    else if (last > first) runs.splice(first, last - first, ...rest)
    return pieces
  }

  return {
    add,
    cut,
    get count() {
      return count
    },
    get runs(): readonly Run[] {
      return runs
    },
    /** What lies from one offset to another, as pieces of runs. */
    peek(from: Offset, to: Offset): Run[] {
      const pieces: Run[] = []
      for (let at = indexOf(from), run = runs[at]; run && run.from < to; run = runs[++at]) {
        pieces.push({ ...run, from: Math.max(run.from, from), to: Math.min(run.to, to) })
      }
      return pieces
    },
    /** What may be delivered again at `now`, at most so many readings, in the order of the log. */
    ready(now: Millis, most: number): Run[] {
      const ready: Run[] = []
      let room = most
      for (const run of runs) {
        if (room <= 0) break
        if (run.ready > now) continue
        const piece = { ...run, to: Math.min(run.to, run.from + room) }
        room -= piece.to - piece.from
        ready.push(piece)
      }
      return ready
    },
    /** When the next run may be delivered again; `null`: nothing waits. */
    nextReady(): Millis | null {
      let next: Millis | null = null
      for (const { ready } of runs) if (next === null || ready < next) next = ready
      return next
    },
    clear(): void {
      runs = []
      count = 0
    },
  }
}
