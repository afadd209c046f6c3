import { hubNow, type Millis, type Point, type Reading, readHistory } from './api.ts'
import type { Span } from './place.ts'

/** One metric of one device over a span that ends now. */
export interface Series {
  readonly device: string
  readonly metric: string
  readonly span: Span
  /** Ascending by time, no time twice. */
  readonly points: readonly Point[]
  readonly loading: boolean
  /** Why the history could not be pulled, or `null`. */
  readonly failure: Error | null
  /** Pulls the history; what is there stays until it has come. */
  pull(): Promise<void>
  /** What the feed says, in the order in which it does. */
  apply(readings: Reading[]): void
  /** Forgets what has left the span. */
  trim(): void
  close(): void
}

/** Each pull of a bucket answers for all readings that reached it meanwhile. */
const refreshMillis = 1000

/**
 * History and feed overlap: the feed goes on from a cursor that is older than the answer. Readings merge by their
 * time, and the feed has the last word, as it tells corrections in their order. A bucket cannot tell whether it counts
 * a reading already, so the feed only says which buckets are stale, and the hub is asked for those again.
 */
export function createSeries(device: string, metric: string, span: Span, onChange: () => void): Series {
  const { interval } = span
  const aborter = new AbortController()
  let points: Point[] = []
  let loading = false
  let failure: Error | null = null
  let early: Reading[] = []
  let pulls = 0
  let stale: { from: Millis; to: Millis } | null = null
  let refresh: ReturnType<typeof setTimeout> | undefined

  const begin = () => floor(hubNow() - span.millis)
  const floor = (ts: Millis) => (interval === null ? ts : Math.floor(ts / interval) * interval)

  async function pull(): Promise<void> {
    const turn = ++pulls
    loading = true
    failure = null
    early = []
    onChange()
    try {
      const history = await readHistory({ device, metric, from: begin(), to: null, interval }, aborter.signal)
      if (turn !== pulls) return
      points = history
      loading = false
      take(early)
    } catch (error) {
      if (turn !== pulls || aborter.signal.aborted) return
      loading = false
      failure = error as Error
    }
    early = []
    onChange()
  }

  function apply(readings: Reading[]): void {
    const own = readings.filter((reading) => reading.device === device && Object.hasOwn(reading.values, metric))
    if (own.length === 0) return
    if (loading) early.push(...own)
    if (take(own)) onChange()
  }

  function take(readings: Reading[]): boolean {
    const from = begin()
    let changed = false
    for (const { ts, values } of readings) {
      const value = values[metric]
      if (typeof value !== 'number' || ts < from) continue
      if (interval === null) insert(points, { ts, value, low: value, high: value })
      else markStale(ts)
      changed = interval === null
    }
    return changed
  }

  function markStale(ts: Millis): void {
    stale = { from: Math.min(stale?.from ?? ts, ts), to: Math.max(stale?.to ?? ts, ts) }
    refresh ??= setTimeout(pullStale, refreshMillis)
  }

  async function pullStale(): Promise<void> {
    if (stale === null || interval === null) return
    const { from, to } = stale
    const turn = pulls
    stale = null
    try {
      const query = { device, metric, from: floor(from), to: floor(to) + interval, interval }
      const buckets = await readHistory(query, aborter.signal)
      // Those of a pull that began later are newer.
      if (turn === pulls && !loading) for (const bucket of buckets) insert(points, bucket)
      refresh = undefined
      onChange()
    } catch {
      if (aborter.signal.aborted) return
      refresh = undefined
      markStale(from)
      markStale(to)
    }
    // What came while the answer was on its way.
    if (stale !== null) refresh ??= setTimeout(pullStale, refreshMillis)
  }

  return {
    device,
    metric,
    span,
    get points() {
      return points
    },
    get loading() {
      return loading
    },
    get failure() {
      return failure
    },
    pull,
    apply,
    trim() {
      const from = begin()
      let gone = 0
      while (gone < points.length && (points[gone] as Point).ts < from) gone++
      if (gone > 0) points.splice(0, gone)
    },
    close() {
      clearTimeout(refresh)
      aborter.abort()
    },
  }
}

/** Puts a point into its place; one of the same time gives way. Nearly all come at the end. */
function insert(points: Point[], point: Point): void {
  let low = 0
  let high = points.length
  if (high > 0 && (points[high - 1] as Point).ts < point.ts) low = high
  while (low < high) {
    const middle = (low + high) >>> 1
    if ((points[middle] as Point).ts < point.ts) low = middle + 1
    else high = middle
  }
  points.splice(low, points[low]?.ts === point.ts ? 1 : 0, point)
}
