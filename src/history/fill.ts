import type { Millis, Value } from '../../devices/reading.ts'
import { type Aggregates, aggregate, figureOf, finite } from './aggregate.ts'
import type { Intervals } from './intervals.ts'
import { readPage } from './page.ts'
import { type AggregateFunction, type BucketQuery, TooCostly } from './query.ts'
import type { Segment } from './segments.ts'

interface Column {
  metric: number
  aggregate: AggregateFunction
  values: (Value | undefined)[]
}

export interface Gaps {
  segments: readonly Segment[]
  intervals: Intervals
  fill: BucketQuery['fill']
  /** The range of the whole answer. */
  whole: { from: Millis; to: Millis }
  /** The range of the page, and where its buckets begin. */
  from: Millis
  to: Millis
  starts: Millis[]
  isEnough?: (() => boolean) | undefined
}

/** Fills the buckets of a page. Its neighbours fill its edges, so that it shows what the whole answer would show there. */
export function fillGaps(gaps: Gaps, columns: Column[]): void {
  const { fill, whole, from, to, starts } = gaps
  for (const metric of new Set(columns.map((column) => column.metric))) {
    const before = neighbour(gaps, metric, { from: whole.from, to: from }, 'desc')
    const after = fill === 'linear' ? neighbour(gaps, metric, { from: to, to: whole.to }, 'asc') : null
    for (const column of columns) {
      if (column.metric !== metric) continue
      const left = before && { at: before.start, value: figureOf(before.found, column.aggregate, 0) }
      const right = after && { at: after.start, value: figureOf(after.found, column.aggregate, 0) }
      if (fill === 'previous') carryForward(column.values, left?.value)
      else interpolate(column.values, starts, left, right)
    }
  }
}

/** The nearest bucket that has a value. What is looked at on the way to it counts as the page does. */
function neighbour(
  { segments, intervals, whole, isEnough }: Gaps,
  metric: number,
  { from, to }: { from: Millis; to: Millis },
  order: 'asc' | 'desc',
): { start: Millis; found: Aggregates } | null {
  if (from >= to) return null
  const single = segments.filter((segment) => mayHold(segment, metric)).map((segment) => onlyWith(segment, metric))
  const { rows, next } = readPage(single, { from, to, order, limit: 1, isEnough })
  const ts = rows.times[0]
  if (ts === undefined) {
    if (next !== null) throw new TooCostly()
    return null
  }
  const start = intervals.start(ts)
  const range = { from: Math.max(start, whole.from), to: Math.min(intervals.end(ts), whole.to) }
  const found = aggregate(single, range, intervals, { isEnough }).buckets.metrics.get(metric)
  return found ? { start, found } : null
}

function mayHold({ directory }: Segment, metric: number): boolean {
  return directory === null || directory.columns.some((column) => column.metric === metric)
}

function onlyWith(segment: Segment, metric: number): Segment {
  const { directory } = segment
  return {
    ...segment,
    directory: directory && { ...directory, columns: directory.columns.filter((column) => column.metric === metric) },
    open: () => {
      const { times, columns } = segment.open()
      return { times, columns: columns.filter((column) => column.metric === metric) }
    },
  }
}

function carryForward(values: (Value | undefined)[], before: Value | undefined): void {
  let previous = before
  for (let i = 0; i < values.length; i++) {
    if (values[i] === undefined) values[i] = previous
    else previous = values[i]
  }
}

interface Point {
  at: Millis
  value: Value | undefined
}

function interpolate(values: (Value | undefined)[], starts: Millis[], left: Point | null, right: Point | null): void {
  let previous = left
  let from = 0
  const bridge = (to: number, next: Point | null) => {
    if (typeof previous?.value === 'number' && typeof next?.value === 'number') {
      const slope = (next.value - previous.value) / (next.at - previous.at)
      for (let i = from; i < to; i++) {
        values[i] = finite(previous.value + slope * ((starts[i] as number) - previous.at))
      }
    }
  }
  for (let i = 0; i < values.length; i++) {
    if (values[i] === undefined) continue
    const point = { at: starts[i] as number, value: values[i] }
    bridge(i, point)
    previous = point
    from = i + 1
  }
  bridge(values.length, right)
}
