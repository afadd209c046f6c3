import type { Millis } from '../../devices/reading.ts'

export const formats = ['json', 'columns', 'csv', 'ndjson'] as const
export type Format = (typeof formats)[number]

export const functions = ['avg', 'min', 'max', 'sum', 'count', 'first', 'last'] as const
export type AggregateFunction = (typeof functions)[number]

export const fills = ['none', 'null', 'previous', 'linear'] as const
type Fill = (typeof fills)[number]

/** What is asked of one device's history. */
export interface HistoryQuery {
  device: string
  /** Patterns of metrics; empty: all. */
  metrics: string[]
  /** The very columns of the answer, in their order, where an earlier page has set them; else `null`. */
  columns: string[] | null
  /** Inclusive; `null`: from the first reading. */
  from: Millis | null
  /** Exclusive; `null`: to the last reading. */
  to: Millis | null
  order: 'asc' | 'desc'
  /** Where the page begins (with `desc`: ends), from the page before; `null` for the first page. */
  position: Millis | null
  /** Rows or buckets at most. */
  limit: number
  /** Values to look at, about; a page that would take more ends earlier. Where none can be cut, `TooCostly`. */
  maxPoints: number
  format: Format
  buckets: BucketQuery | null
}

export interface BucketQuery {
  /** The interval in the words of the client, which the answer repeats. */
  written: string
  /** Milliseconds; days and weeks are local ones when there is a time zone. */
  interval: number
  aggregate: AggregateFunction[]
  fill: Fill
  /** An IANA time zone, or `null`: buckets align to the epoch. */
  timezone: string | null
}

/** One bucket alone takes more values than a query may look at. */
export class TooCostly extends Error {
  constructor() {
    super(TooCostly.name)
  }
}

export interface HistoryPage {
  /** For `json` and `columns` the whole answer; for CSV and NDJSON lines, of which more may follow. */
  body: Uint8Array<ArrayBuffer>
  /** The names of the columns after `ts`, in the order of the rows. */
  columns: string[]
  /** The metrics of those columns, to be given to the next page as its `columns`. */
  metrics: string[]
  rows: number
  /** Where the next page begins (with `desc`: ends), or `null` when this was the last one. */
  next: Millis | null
}

/** The place where a page begins (with `desc`: ends), as `next` says it. */
export function writePosition(ts: Millis): string {
  return `t${ts.toString(36)}`
}

export function readPosition(cursor: string): Millis | null {
  const match = /^t(-?[0-9a-z]{1,11})$/.exec(cursor)
  return match ? Number.parseInt(match[1] as string, 36) : null
}
