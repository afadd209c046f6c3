import type { Millis, Value } from '../../devices/reading.ts'
import type { ColumnSummary } from '../store/block.ts'
import { type Rows, type Values, valueAt } from '../store/columns.ts'
import type { Intervals } from './intervals.ts'
import { type AggregateFunction, TooCostly } from './query.ts'
import { clustersOf, readSegments, type Segment } from './segments.ts'

/**
 * What buckets know of one metric, a bucket a place. Booleans count as 0 and 1; texts have a count, a first and a last
 * only. Arrays of numbers, as an object a bucket made half of the work: it had to be allocated, and outlived a collection.
 */
export interface Aggregates {
  /** 0 where a bucket has no value. */
  count: number[]
  numbers: number[]
  min: number[]
  max: number[]
  sum: number[]
  first: Value[]
  firstTs: Millis[]
  last: Value[]
  lastTs: Millis[]
}

/** Buckets that hold a reading. Each has a place, in no order of time. */
export interface Buckets {
  starts: Millis[]
  metrics: Map<number, Aggregates>
}

interface Range {
  from: Millis
  to: Millis
}

/**
 * Adds up the readings between `from` and `to`. With a limit it stops as soon as there are more buckets than that, or
 * when enough was looked at: the last one tells where the next page begins and need not be complete. Without a limit
 * nothing can be left out, and too much is too much.
 */
export function aggregate(
  segments: readonly Segment[],
  { from, to }: Range,
  intervals: Intervals,
  { order, limit, isEnough }: { order?: 'asc' | 'desc'; limit?: number; isEnough?: (() => boolean) | undefined },
): { buckets: Buckets; more: boolean } {
  const buckets: Buckets = { starts: [], metrics: new Map() }
  const clusters = clustersOf(segments.filter(({ firstTs, lastTs }) => lastTs >= from && firstTs < to))
  if (order === 'desc') clusters.reverse()
  let edge = 0
  for (const [index, cluster] of clusters.entries()) {
    const [only] = cluster
    const answersAlone =
      cluster.length === 1 &&
      only?.directory?.distinct &&
      only.firstTs >= from &&
      only.lastTs < to &&
      only.lastTs < intervals.end(only.firstTs)
    if (answersAlone) edge = addDirectory(buckets, edge, only, intervals)
    else edge = addRows(buckets, edge, readSegments(cluster, from, to), intervals)
    if (limit !== undefined && buckets.starts.length > limit) return { buckets, more: true }
    if (index + 1 === clusters.length || !isEnough?.()) continue
    if (limit !== undefined && buckets.starts.length > 1) return { buckets, more: true }
    throw new TooCostly()
  }
  return { buckets, more: false }
}

/*
 * Clusters come in ascending or in descending order, and the buckets of each ascend. So a bucket is either new, or the
 * one before it, or the first of the cluster before: its place is the `edge` between the two.
 */
function placeOf({ starts }: Buckets, edge: number, start: Millis): number {
  if (starts[edge] === start) return edge
  return starts[starts.length - 1] === start ? starts.length - 1 : starts.push(start) - 1
}

/** The figures of all rows of a segment that lies in one bucket; returns the new edge. */
function addDirectory(buckets: Buckets, edge: number, segment: Segment, intervals: Intervals): number {
  const columns = segment.directory?.columns.filter(({ count }) => count > 0) ?? []
  if (columns.length === 0) return edge
  const place = placeOf(buckets, edge, intervals.start(segment.firstTs))
  for (const summary of columns) {
    const into = aggregatesOf(buckets, summary.metric, place)
    if (summary.kind !== 'mixed') addSummary(into, place, segment, summary)
    else addColumn(into, place, segment, summary.metric)
  }
  return place
}

// No other segment overlaps this one, so its own edges order it against all others.
function addSummary(into: Aggregates, place: number, { firstTs, lastTs }: Segment, summary: ColumnSummary): void {
  const { kind, count, min, max, sum, first, last } = summary
  addNumbers(into, place, count, min, max, sum)
  noteEdge(into, place, firstTs, kind === 'boolean' ? first === 1 : first)
  noteEdge(into, place, lastTs, kind === 'boolean' ? last === 1 : last)
}

/** Texts have no figures in the directory. */
function addColumn(into: Aggregates, place: number, segment: Segment, metric: number): void {
  const { times, columns } = segment.open()
  const column = columns.find((one) => one.metric === metric)
  if (column) addMixed(into, place, times, column.values, 0, times.length)
}

/** Cuts rows into buckets; returns the new edge. */
function addRows(buckets: Buckets, edge: number, { times, columns }: Rows, intervals: Intervals): number {
  let newEdge = -1
  let stop = 0
  for (let row = 0; row < times.length; row = stop) {
    const ts = times[row] as number
    const start = intervals.start(ts)
    const end = intervals.end(ts)
    if (!(start <= ts && ts < end)) throw new Error(`BUG: the bucket of ${ts} lies between ${start} and ${end}`)
    for (stop = row + 1; stop < times.length && (times[stop] as number) < end; stop++);
    for (const { metric, values } of columns) {
      let first = row
      while (first < stop && valueAt(values, first) === undefined) first++
      if (first === stop) continue
      const place = placeOf(buckets, edge, start)
      if (newEdge < 0) newEdge = place
      const into = aggregatesOf(buckets, metric, place)
      if (values instanceof Float64Array) addColumnOfNumbers(into, place, times, values, first, stop)
      else addMixed(into, place, times, values, first, stop)
    }
  }
  return newEdge < 0 ? edge : newEdge
}

/** The first of the values is there. */
function addColumnOfNumbers(
  into: Aggregates,
  place: number,
  times: Float64Array,
  values: Float64Array,
  first: number,
  stop: number,
): void {
  let last = first
  let count = 0
  let min = Number.POSITIVE_INFINITY
  let max = Number.NEGATIVE_INFINITY
  let sum = 0
  for (let row = first; row < stop; row++) {
    const value = values[row] as number
    if (Number.isNaN(value)) continue
    count++
    sum += value
    if (value < min) min = value
    if (value > max) max = value
    last = row
  }
  addNumbers(into, place, count, min, max, sum)
  noteEdge(into, place, times[first] as number, values[first] as number)
  noteEdge(into, place, times[last] as number, values[last] as number)
}

function addMixed(
  into: Aggregates,
  place: number,
  times: Float64Array,
  values: Values,
  from: number,
  to: number,
): void {
  for (let row = from; row < to; row++) {
    const value = valueAt(values, row)
    if (value === undefined) continue
    noteEdge(into, place, times[row] as number, value)
    const number = Number(value)
    if (typeof value !== 'string') addNumbers(into, place, 1, number, number, number)
    else into.count[place] = (into.count[place] as number) + 1
  }
}

function addNumbers(into: Aggregates, place: number, count: number, min: number, max: number, sum: number): void {
  into.count[place] = (into.count[place] as number) + count
  into.numbers[place] = (into.numbers[place] as number) + count
  into.sum[place] = (into.sum[place] as number) + sum
  if (min < (into.min[place] as number)) into.min[place] = min
  if (max > (into.max[place] as number)) into.max[place] = max
}

function noteEdge(into: Aggregates, place: number, ts: Millis, value: Value): void {
  if (ts < (into.firstTs[place] as number)) {
    into.first[place] = value
    into.firstTs[place] = ts
  }
  if (ts > (into.lastTs[place] as number)) {
    into.last[place] = value
    into.lastTs[place] = ts
  }
}

/** With room for this place. */
function aggregatesOf({ metrics }: Buckets, metric: number, place: number): Aggregates {
  let found = metrics.get(metric)
  if (!found) {
    found = { count: [], numbers: [], min: [], max: [], sum: [], first: [], firstTs: [], last: [], lastTs: [] }
    metrics.set(metric, found)
  }
  while (found.count.length <= place) {
    found.count.push(0)
    found.numbers.push(0)
    found.min.push(Number.POSITIVE_INFINITY)
    found.max.push(Number.NEGATIVE_INFINITY)
    found.sum.push(0)
    found.first.push(0)
    found.firstTs.push(Number.POSITIVE_INFINITY)
    found.last.push(0)
    found.lastTs.push(Number.NEGATIVE_INFINITY)
  }
  return found
}

/** What a function gives for a bucket; `undefined` where there is no value, or no number that can be written. */
export function figureOf(from: Aggregates, name: AggregateFunction, place: number): Value | undefined {
  const count = from.count[place] ?? 0
  if (count === 0) return undefined
  if (name === 'count') return count
  if (name === 'first') return from.first[place]
  if (name === 'last') return from.last[place]
  const numbers = from.numbers[place] as number
  if (numbers === 0) return undefined
  if (name === 'avg') return finite((from.sum[place] as number) / numbers)
  return finite(from[name][place] as number)
}

/** Sums of numbers near the largest one leave what a number can be. */
export function finite(number: number): number | undefined {
  return Number.isFinite(number) ? number : undefined
}
