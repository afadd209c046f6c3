import type { Millis, Value } from '../../devices/reading.ts'
import type { ColumnSummary } from '../store/block.ts'
import { type Values, valueAt } from '../store/columns.ts'
import type { Intervals } from './intervals.ts'
import { readPage } from './page.ts'
import { type AggregateFunction, type BucketQuery, TooCostly } from './query.ts'
import { readSegments, type Segment } from './segments.ts'

/** What a bucket knows of one metric. Booleans count as 0 and 1; texts have a count, a first and a last only. */
interface Aggregate {
  count: number
  numbers: number
  min: number
  max: number
  sum: number
  first: Value
  firstTs: Millis
  last: Value
  lastTs: Millis
}

/** Buckets by their start, each by metric. */
type Buckets = Map<Millis, Map<number, Aggregate>>

export interface BucketPageQuery {
  /** The range that was asked for. */
  from: Millis
  to: Millis
  /** Where this page begins, or with `desc` ends. */
  position: Millis | null
  order: 'asc' | 'desc'
  limit: number
  metrics: number[]
  /** Whether so much was looked at that the page shall end where it is. */
  isEnough?(): boolean
}

export interface BucketPage {
  /** Ascending, whatever the order of the query. */
  times: Float64Array
  columns: { metric: number; aggregate: AggregateFunction; values: Values }[]
  next: Millis | null
}

/** One page of buckets. The segments hold only the metrics that are asked for. */
export function readBuckets(
  segments: readonly Segment[],
  page: BucketPageQuery,
  query: BucketQuery,
  intervals: Intervals,
): BucketPage {
  const range = clampRange(segments, page)
  if (range === null) return { times: new Float64Array(0), columns: columnsOf(page, query, [], new Map()), next: null }
  const read = { segments, page, query, intervals, range }
  return query.fill === 'none' ? readFound(read) : readFilled(read)
}

/** What a page is made of. */
interface BucketRead {
  segments: readonly Segment[]
  page: BucketPageQuery
  query: BucketQuery
  intervals: Intervals
  range: Range
}

interface Range {
  from: Millis
  to: Millis
}

/** The part of the range that this page may look at, ending where the data ends. */
function clampRange(segments: readonly Segment[], page: BucketPageQuery): Range | null {
  const first = segments.reduce((least, segment) => Math.min(least, segment.firstTs), Number.POSITIVE_INFINITY)
  const last = segments.reduce((most, segment) => Math.max(most, segment.lastTs), Number.NEGATIVE_INFINITY)
  const unboundedFrom = page.from === Number.MIN_SAFE_INTEGER
  const unboundedTo = page.to === Number.MAX_SAFE_INTEGER
  let from = unboundedFrom ? first : page.from
  let to = unboundedTo ? last + 1 : page.to
  if (page.position !== null) {
    if (page.order === 'asc') from = Math.max(from, page.position)
    else to = Math.min(to, page.position)
  }
  return from < to ? { from, to } : null
}

/** Only buckets that hold a reading. */
function readFound({ segments, page, query, intervals, range }: BucketRead): BucketPage {
  const { buckets, more } = aggregate(segments, range, intervals, page)
  const starts = [...buckets.keys()].sort((a, b) => a - b)
  // The bucket in which it ended is not complete.
  const limit = more ? Math.min(page.limit, starts.length - 1) : page.limit
  if (starts.length <= limit) return { ...tableOf(page, query, starts, buckets), next: null }
  const kept = page.order === 'asc' ? starts.slice(0, limit) : starts.slice(-limit)
  const next = page.order === 'asc' ? (starts[limit] as number) : (kept[0] as number)
  return { ...tableOf(page, query, kept, buckets), next }
}

/** Every bucket of the range, those without a reading filled. */
function readFilled({ segments, page, query, intervals, range }: BucketRead): BucketPage {
  const starts =
    page.order === 'asc' ? startsFrom(range, intervals, page.limit) : startsTo(range, intervals, page.limit)
  const begin = Math.max(starts[0] as number, range.from)
  const end = Math.min(intervals.next(starts.at(-1) as number), range.to)
  const { buckets } = aggregate(segments, { from: begin, to: end }, intervals, { isEnough: page.isEnough })
  const table = tableOf(page, query, starts, buckets)
  if (query.fill !== 'null') fillGaps(segments, page, query, intervals, { from: begin, to: end }, starts, table)
  const more = page.order === 'asc' ? end < range.to : begin > range.from
  return { ...table, next: more ? (page.order === 'asc' ? end : begin) : null }
}

function startsFrom({ from, to }: Range, intervals: Intervals, limit: number): Millis[] {
  const starts: Millis[] = []
  for (let at = intervals.start(from); at < to && starts.length < limit; at = intervals.next(at)) starts.push(at)
  return starts
}

function startsTo({ from, to }: Range, intervals: Intervals, limit: number): Millis[] {
  const starts: Millis[] = []
  for (let at = intervals.start(to - 1); starts.length < limit; at = intervals.start(at - 1)) {
    starts.push(at)
    if (at <= from) break
  }
  return starts.reverse()
}

// Neighbours outside the page fill its edges, so that a page shows what the whole answer would show there.
function fillGaps(
  segments: readonly Segment[],
  page: BucketPageQuery,
  query: BucketQuery,
  intervals: Intervals,
  { from, to }: Range,
  starts: Millis[],
  { columns }: Pick<BucketPage, 'columns'>,
): void {
  for (const metric of page.metrics) {
    const own = columns.filter((column) => column.metric === metric)
    const before = neighbour(segments, { from: page.from, to: from }, 'desc', metric, intervals, page)
    const after =
      query.fill === 'linear' ? neighbour(segments, { from: to, to: page.to }, 'asc', metric, intervals, page) : null
    for (const { aggregate: name, values } of own) {
      const mixed = values as (Value | undefined)[]
      const left = before && { at: before.start, value: figure(before.aggregate, name) }
      const right = after && { at: after.start, value: figure(after.aggregate, name) }
      if (query.fill === 'previous') carryForward(mixed, left?.value)
      else interpolate(mixed, starts, left, right)
    }
  }
}

function neighbour(
  segments: readonly Segment[],
  { from, to }: Range,
  order: 'asc' | 'desc',
  metric: number,
  intervals: Intervals,
  page: BucketPageQuery,
): { start: Millis; aggregate: Aggregate } | null {
  if (from >= to) return null
  const single = segments.map((segment) => ({
    ...segment,
    open: () => {
      const rows = segment.open()
      return { times: rows.times, columns: rows.columns.filter((column) => column.metric === metric) }
    },
  }))
  const { rows } = readPage(single, { from, to, order, limit: 1 })
  const ts = rows.times[0]
  if (ts === undefined) return null
  const start = intervals.start(ts)
  const range = { from: Math.max(start, page.from), to: Math.min(intervals.next(start), page.to) }
  const found = aggregate(single, range, intervals, {}).buckets.get(start)?.get(metric)
  return found ? { start, aggregate: found } : null
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
      for (let i = from; i < to; i++) values[i] = previous.value + slope * ((starts[i] as number) - previous.at)
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

/**
 * Adds up the readings between `from` and `to`. With a limit it stops as soon as there are more buckets than that, or
 * when enough was looked at: the last one tells where the next page begins and need not be complete. Without a limit
 * nothing can be left out, and too much is too much.
 */
function aggregate(
  segments: readonly Segment[],
  { from, to }: Range,
  intervals: Intervals,
  { order, limit, isEnough }: { order?: 'asc' | 'desc'; limit?: number; isEnough?: (() => boolean) | undefined },
): { buckets: Buckets; more: boolean } {
  const buckets: Buckets = new Map()
  const clusters = clustersOf(segments.filter(({ firstTs, lastTs }) => lastTs >= from && firstTs < to))
  if (order === 'desc') clusters.reverse()
  for (const [index, cluster] of clusters.entries()) {
    const [only] = cluster
    const start = only ? intervals.start(only.firstTs) : 0
    const answersAlone =
      cluster.length === 1 &&
      only?.directory?.distinct &&
      only.firstTs >= from &&
      only.lastTs < to &&
      only.lastTs < intervals.next(start)
    if (answersAlone) for (const summary of only.directory?.columns ?? []) addSummary(buckets, start, only, summary)
    else addRows(buckets, readSegments(cluster, from, to), intervals)
    if (limit !== undefined && buckets.size > limit) return { buckets, more: true }
    if (index + 1 === clusters.length || !isEnough?.()) continue
    if (limit !== undefined && buckets.size > 1) return { buckets, more: true }
    throw new TooCostly()
  }
  return { buckets, more: false }
}

/** Segments whose times overlap, together and in the order of the log; the groups ascend. */
function clustersOf(segments: readonly Segment[]): Segment[][] {
  const byTime = segments.map((segment, place) => ({ segment, place }))
  byTime.sort((a, b) => a.segment.firstTs - b.segment.firstTs)
  const clusters: (typeof byTime)[] = []
  let reach = Number.NEGATIVE_INFINITY
  for (const entry of byTime) {
    if (entry.segment.firstTs > reach) clusters.push([entry])
    else clusters.at(-1)?.push(entry)
    reach = Math.max(reach, entry.segment.lastTs)
  }
  return clusters.map((cluster) => cluster.sort((a, b) => a.place - b.place).map(({ segment }) => segment))
}

function aggregateOf(buckets: Buckets, start: Millis, metric: number): Aggregate {
  let metrics = buckets.get(start)
  if (!metrics) {
    metrics = new Map()
    buckets.set(start, metrics)
  }
  let found = metrics.get(metric)
  if (!found) {
    found = {
      count: 0,
      numbers: 0,
      min: Number.POSITIVE_INFINITY,
      max: Number.NEGATIVE_INFINITY,
      sum: 0,
      first: 0,
      firstTs: Number.POSITIVE_INFINITY,
      last: 0,
      lastTs: Number.NEGATIVE_INFINITY,
    }
    metrics.set(metric, found)
  }
  return found
}

function addSummary(buckets: Buckets, start: Millis, segment: Segment, summary: ColumnSummary): void {
  if (summary.count === 0) return
  // Texts have no figures in the directory.
  if (summary.kind === 'mixed') {
    const rows = segment.open()
    addRows(
      buckets,
      { times: rows.times, columns: rows.columns.filter(({ metric }) => metric === summary.metric) },
      {
        start: () => start,
        next: () => Number.POSITIVE_INFINITY,
      },
    )
    return
  }
  const into = aggregateOf(buckets, start, summary.metric)
  const asValue = (number: number): Value => (summary.kind === 'boolean' ? number === 1 : number)
  into.count += summary.count
  into.numbers += summary.count
  into.sum += summary.sum
  if (summary.min < into.min) into.min = summary.min
  if (summary.max > into.max) into.max = summary.max
  // No other segment overlaps this one, so its own edges order it against all others.
  if (segment.firstTs < into.firstTs) {
    into.first = asValue(summary.first)
    into.firstTs = segment.firstTs
  }
  if (segment.lastTs > into.lastTs) {
    into.last = asValue(summary.last)
    into.lastTs = segment.lastTs
  }
}

function addRows(
  buckets: Buckets,
  rows: { times: Float64Array; columns: { metric: number; values: Values }[] },
  intervals: Intervals,
): void {
  const { times } = rows
  for (const { metric, values } of rows.columns) {
    for (let row = 0; row < times.length; ) {
      if (valueAt(values, row) === undefined) {
        row++
        continue
      }
      const start = intervals.start(times[row] as number)
      const end = intervals.next(start)
      const into = aggregateOf(buckets, start, metric)
      if (values instanceof Float64Array) row = addNumbers(into, times, values, row, end)
      else row = addValues(into, times, values, row, end)
    }
  }
}

/** Adds the rows from `row` on that lie before `end`; returns the first that does not. */
function addNumbers(into: Aggregate, times: Float64Array, values: Float64Array, row: number, end: Millis): number {
  let { count, min, max, sum } = into
  const before = count
  let last = row
  let at = row
  for (; at < times.length && (times[at] as number) < end; at++) {
    const value = values[at] as number
    if (Number.isNaN(value)) continue
    count++
    sum += value
    if (value < min) min = value
    if (value > max) max = value
    last = at
  }
  into.count = count
  into.numbers += count - before
  into.sum = sum
  into.min = min
  into.max = max
  noteEdges(into, times[row] as number, values[row] as number)
  noteEdges(into, times[last] as number, values[last] as number)
  return at
}

function addValues(into: Aggregate, times: Float64Array, values: Values, row: number, end: Millis): number {
  let at = row
  for (; at < times.length && (times[at] as number) < end; at++) {
    const value = valueAt(values, at)
    if (value !== undefined) addValue(into, times[at] as number, value)
  }
  return at
}

function noteEdges(into: Aggregate, ts: Millis, value: Value): void {
  if (ts < into.firstTs) {
    into.first = value
    into.firstTs = ts
  }
  if (ts > into.lastTs) {
    into.last = value
    into.lastTs = ts
  }
}

function addValue(into: Aggregate, ts: Millis, value: Value): void {
  into.count++
  noteEdges(into, ts, value)
  if (typeof value === 'string') return
  const number = Number(value)
  into.numbers++
  into.sum += number
  if (number < into.min) into.min = number
  if (number > into.max) into.max = number
}

const figures: Record<AggregateFunction, (aggregate: Aggregate) => Value | undefined> = {
  avg: ({ numbers, sum }) => (numbers > 0 ? sum / numbers : undefined),
  min: ({ numbers, min }) => (numbers > 0 ? min : undefined),
  max: ({ numbers, max }) => (numbers > 0 ? max : undefined),
  sum: ({ numbers, sum }) => (numbers > 0 ? sum : undefined),
  count: ({ count }) => count,
  first: ({ first }) => first,
  last: ({ last }) => last,
}

function figure(aggregate: Aggregate, name: AggregateFunction): Value | undefined {
  return figures[name](aggregate)
}

function tableOf(page: BucketPageQuery, query: BucketQuery, starts: Millis[], buckets: Buckets) {
  return { times: Float64Array.from(starts), columns: columnsOf(page, query, starts, buckets) }
}

function columnsOf(page: BucketPageQuery, query: BucketQuery, starts: Millis[], buckets: Buckets) {
  return page.metrics.flatMap((metric) =>
    query.aggregate.map((aggregate) => ({
      metric,
      aggregate,
      values: starts.map((start) => {
        const found = buckets.get(start)?.get(metric)
        return found && figure(found, aggregate)
      }),
    })),
  )
}
