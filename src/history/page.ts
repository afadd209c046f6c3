import type { Millis } from '../../devices/reading.ts'
import { concatRows, pickRows, type Rows, sliceRows, type Values, valueAt } from '../store/columns.ts'
import { readSegments, type Segment, spanFor } from './segments.ts'

export interface PageQuery {
  from: Millis
  to: Millis
  order: 'asc' | 'desc'
  limit: number
  /** Whether so much was looked at that the page shall end where it is. */
  isEnough?: (() => boolean) | undefined
}

/** One page of raw readings, ascending by time whatever the order of the query; `next` as in `HistoryPage`. */
export function readPage(segments: readonly Segment[], query: PageQuery): { rows: Rows; next: number | null } {
  const desc = query.order === 'desc'
  let { from, to } = query
  let collected: Rows = { times: new Float64Array(0), columns: [] }
  for (;;) {
    const span = spanFor(segments, from, to, query.limit - collected.times.length, desc)
    const more = dropEmptyRows(readSegments(segments, span.from, span.to))
    collected = desc ? join(more, collected) : join(collected, more)
    if (collected.times.length > query.limit) return cut(collected, query.limit, desc)
    if (desc ? span.from === from : span.to === to) return { rows: collected, next: null }
    if (desc) to = span.from
    else from = span.to
    if (query.isEnough?.()) return { rows: collected, next: desc ? to : from }
  }
}

function join(earlier: Rows, later: Rows): Rows {
  if (earlier.times.length === 0) return later
  return later.times.length === 0 ? earlier : concatRows([earlier, later])
}

function cut(rows: Rows, limit: number, desc: boolean): { rows: Rows; next: number } {
  const { times } = rows
  if (desc) {
    const first = times[times.length - limit] as number
    return { rows: sliceRows(rows, first, Number.POSITIVE_INFINITY), next: first }
  }
  const next = times[limit] as number
  return { rows: sliceRows(rows, Number.NEGATIVE_INFINITY, next), next }
}

/** Rows without a value in any of the wanted columns are no answer. */
function dropEmptyRows(rows: Rows): Rows {
  const { times, columns } = rows
  if (columns.some(({ values }) => isFull(values, times.length))) return rows
  const kept: number[] = []
  for (let row = 0; row < times.length; row++) {
    if (columns.some(({ values }) => valueAt(values, row) !== undefined)) kept.push(row)
  }
  return kept.length === times.length ? rows : pickRows(rows, kept)
}

function isFull(values: Values, rows: number): boolean {
  for (let row = 0; row < rows; row++) if (valueAt(values, row) === undefined) return false
  return true
}
