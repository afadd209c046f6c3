import type { Millis, Value } from '../../devices/reading.ts'
import { aggregate, type Buckets, figureOf } from './aggregate.ts'
import { fillGaps } from './fill.ts'
import type { Intervals } from './intervals.ts'
import type { AggregateFunction, BucketQuery } from './query.ts'
import type { Segment } from './segments.ts'

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
  columns: { metric: number; aggregate: AggregateFunction; values: (Value | undefined)[] }[]
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
  if (range === null) return { ...tableOf(page, query, [], [], null), next: null }
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
  const { starts } = buckets
  const places = placesInOrder(buckets)
  const startsAt = (list: number[]) => list.map((place) => starts[place] as number)
  // The bucket in which it ended is not complete.
  const limit = more ? Math.min(page.limit, places.length - 1) : page.limit
  if (places.length <= limit) return { ...tableOf(page, query, startsAt(places), places, buckets), next: null }
  const kept = page.order === 'asc' ? places.slice(0, limit) : places.slice(-limit)
  const next = starts[(page.order === 'asc' ? places[limit] : kept[0]) as number] as number
  return { ...tableOf(page, query, startsAt(kept), kept, buckets), next }
}

/** Every bucket of the range, those without a reading filled. */
function readFilled({ segments, page, query, intervals, range }: BucketRead): BucketPage {
  const { isEnough } = page
  const starts =
    page.order === 'asc' ? startsFrom(range, intervals, page.limit) : startsTo(range, intervals, page.limit)
  const from = Math.max(starts[0] as number, range.from)
  const to = Math.min(intervals.end(starts.at(-1) as number), range.to)
  const { buckets } = aggregate(segments, { from, to }, intervals, { isEnough })
  const found = placesInOrder(buckets)
  let next = 0
  const places = starts.map((start) => (buckets.starts[found[next] ?? -1] === start ? (found[next++] as number) : -1))
  const table = tableOf(page, query, starts, places, buckets)
  if (query.fill !== 'null') {
    fillGaps({ segments, intervals, fill: query.fill, whole: page, from, to, starts, isEnough }, table.columns)
  }
  const more = page.order === 'asc' ? to < range.to : from > range.from
  return { ...table, next: more ? (page.order === 'asc' ? to : from) : null }
}

function startsFrom({ from, to }: Range, intervals: Intervals, limit: number): Millis[] {
  const starts: Millis[] = []
  for (let at = intervals.start(from); at < to && starts.length < limit; at = intervals.end(at)) starts.push(at)
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

function placesInOrder({ starts }: Buckets): number[] {
  return Array.from(starts.keys()).sort((a, b) => (starts[a] as number) - (starts[b] as number))
}

/** Buckets by where they begin, with their places. */
function tableOf(
  page: BucketPageQuery,
  query: BucketQuery,
  starts: Millis[],
  places: number[],
  buckets: Buckets | null,
) {
  const columns = page.metrics.flatMap((metric) => {
    const found = buckets?.metrics.get(metric)
    return query.aggregate.map((name) => {
      return { metric, aggregate: name, values: places.map((place) => found && figureOf(found, name, place)) }
    })
  })
  return { times: Float64Array.from(starts), columns }
}
