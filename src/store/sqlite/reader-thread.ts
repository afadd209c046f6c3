import { type MessagePort, parentPort, workerData } from 'node:worker_threads'
import type { Millis } from '../../../devices/reading.ts'
import { type BucketPage, readBuckets } from '../../history/buckets.ts'
import { encodePage } from '../../history/encode.ts'
import { createIntervals } from '../../history/intervals.ts'
import { columnName, type Table } from '../../history/layouts.ts'
import { readPage } from '../../history/page.ts'
import type { HistoryPage, HistoryQuery } from '../../history/query.ts'
import type { Segment } from '../../history/segments.ts'
import { decodeBlock, readDirectory } from '../block.ts'
import type { Rows } from '../columns.ts'
import {
  beginPage,
  copyPage,
  createEntryBuffer,
  createEntryReaders,
  isFullPage,
  type Names,
  remembered,
} from '../entries.ts'
import { compilePatterns } from '../filter.ts'
import type { LogPage, LogQuery, Offset } from '../store.ts'
import { Moved, serveCalls } from './calls.ts'
import { checkCommit, commitsFrom } from './log-table.ts'
import { giveWay } from './priority.ts'
import { openForReading } from './schema.ts'

/*
 * Answers history and the older part of the log straight from the file, on a thread of its own, down to the bytes that
 * go over the wire: the thread that speaks HTTP only passes them on.
 */

export interface ReaderOptions {
  path: string
}

/** What the writer knows of a device and the file does not tell yet. */
export interface UnsealedPart {
  device: number
  rows: Rows
  /** All metrics that the device ever reported. */
  metrics: number[]
}

/** Bytes of the log that one call goes through at most, so that a call stays short whatever the filter. */
const maxLogBytes = 4 * 1024 * 1024

interface BlockRow {
  id: number
  first_ts: number
  last_ts: number
  rows: number
  directory: Buffer
}

function openReader({ path }: ReaderOptions) {
  const db = openForReading(path)
  const blocks = db.prepare<[number, number, number], BlockRow>(
    `SELECT id, first_ts, last_ts, rows, directory FROM blocks
     WHERE device = ? AND last_ts >= ? AND first_ts < ? ORDER BY first_offset`,
  )
  const blockData = db.prepare<[number], Buffer>('SELECT data FROM blocks WHERE id = ?').pluck()
  const offsetAt = db
    .prepare<[number], number>('SELECT "offset" FROM log WHERE received >= ? ORDER BY "offset" LIMIT 1')
    .pluck()
  const oldest = db.prepare<[], number>('SELECT coalesce(min("offset"), 1) FROM log').pluck()
  const entries = createEntryBuffer()
  const begin = db.prepare('BEGIN')
  const end = db.prepare('COMMIT')
  const names: Names = {
    device: createNames('SELECT name FROM devices WHERE id = ?'),
    metric: createNames('SELECT name FROM metrics WHERE id = ?'),
  }
  const entryReader = createEntryReaders(names)

  // The dictionary only grows, and grows in the same commit as the readings that use it.
  function createNames(sql: string): (id: number) => string {
    const find = db.prepare<[number], string>(sql).pluck()
    return remembered((id) => {
      const name = find.get(id)
      if (name === undefined) throw new Error(`BUG: the dictionary does not hold number ${id}`)
      return name
    })
  }

  /** Runs within one snapshot of the file. */
  function snapshot<T>(read: () => T): T {
    begin.run()
    try {
      return read()
    } finally {
      end.run()
    }
  }

  function history({ query, unsealed }: { query: HistoryQuery; unsealed: UnsealedPart }): Moved<HistoryPage> {
    const matches = compilePatterns(query.metrics)
    const matching = unsealed.metrics.filter((metric) => !matches || matches(names.metric(metric)))
    const metrics = query.columns ? inOrder(matching, query.columns) : matching
    let points = 0
    const isEnough = () => points > query.maxPoints
    const { table, next } = snapshot(() => {
      const segments = segmentsOf(unsealed, metrics, query, (looked) => {
        points += looked
      })
      return query.buckets
        ? bucketTable(segments, metrics, query, query.buckets, isEnough)
        : rawTable(segments, metrics, query, isEnough)
    })
    const page = encodePage(table, query, next)
    const columns = { columns: table.columns.map(columnName), metrics: metrics.map(names.metric) }
    return new Moved({ ...page, ...columns }, [page.body.buffer])
  }

  function inOrder(metrics: number[], columns: string[]): number[] {
    const byName = new Map(metrics.map((metric) => [names.metric(metric), metric]))
    return columns.flatMap((name) => byName.get(name) ?? [])
  }

  // Blocks are read after the head was taken, so a reading that is sealed in between appears in both: the same
  // reading twice is one row.
  function segmentsOf(
    unsealed: UnsealedPart,
    metrics: number[],
    query: HistoryQuery,
    onOpen: (points: number) => void,
  ): Segment[] {
    // A raw page needs nothing before (with `desc`: after) the place where the last one ended.
    const begin = query.buckets || query.order === 'desc' ? query.from : (query.position ?? query.from)
    const end = query.buckets || query.order === 'asc' ? query.to : (query.position ?? query.to)
    const wanted = new Set(metrics)
    const segments: Segment[] = blocks
      .all(unsealed.device, begin ?? Number.MIN_SAFE_INTEGER, end ?? Number.MAX_SAFE_INTEGER)
      .map((block) => {
        const directory = readDirectory(block.directory)
        const columns = directory.columns.filter(({ metric }) => wanted.has(metric))
        return {
          firstTs: block.first_ts,
          lastTs: block.last_ts,
          rows: block.rows,
          directory: { ...directory, columns },
          open: once(() => {
            onOpen(block.rows * columns.length)
            return decodeBlock(directory, blockData.get(block.id) as Buffer, (metric) => wanted.has(metric))
          }),
        }
      })
    const { times, columns } = unsealed.rows
    if (times.length === 0) return segments
    const rows = { times, columns: columns.filter(({ metric }) => wanted.has(metric)) }
    const [firstTs, lastTs] = [times[0] as number, times[times.length - 1] as number]
    segments.push({ firstTs, lastTs, rows: times.length, directory: null, open: () => rows })
    return segments
  }

  function rawTable(segments: Segment[], metrics: number[], query: HistoryQuery, isEnough: () => boolean) {
    let from = query.from ?? Number.MIN_SAFE_INTEGER
    let to = query.to ?? Number.MAX_SAFE_INTEGER
    if (query.position !== null) {
      if (query.order === 'asc') from = Math.max(from, query.position)
      else to = Math.min(to, query.position)
    }
    const { rows, next } = readPage(segments, {
      from,
      to,
      order: query.order,
      limit: rowsFor(query, metrics.length),
      isEnough,
    })
    const byMetric = new Map(rows.columns.map(({ metric, values }) => [metric, values]))
    const columns = metrics.map((metric) => {
      return { metric: names.metric(metric), aggregate: null, values: byMetric.get(metric) ?? [] }
    })
    return { table: { times: rows.times, columns } satisfies Table, next }
  }

  function bucketTable(
    segments: Segment[],
    metrics: number[],
    query: HistoryQuery,
    buckets: NonNullable<HistoryQuery['buckets']>,
    isEnough: () => boolean,
  ) {
    const { position, order } = query
    const limit = rowsFor(query, metrics.length * buckets.aggregate.length)
    const from = query.from ?? Number.MIN_SAFE_INTEGER
    const to = query.to ?? Number.MAX_SAFE_INTEGER
    const intervals = createIntervals(buckets.interval, buckets.timezone)
    const asked = { from, to, position, order, limit, metrics, isEnough }
    const page: BucketPage = readBuckets(segments, asked, buckets, intervals)
    const columns = page.columns.map((column) => ({ ...column, metric: names.metric(column.metric) }))
    return { table: { times: page.times, columns } satisfies Table, next: page.next }
  }

  function readLog({ after, before, limit, filter }: LogQuery): Moved<LogPage> {
    beginPage(entries)
    const page = snapshot(() => {
      const first = oldest.get() ?? 1
      // 0 stands for the earliest place there is.
      const from = after === 0 ? first : after
      let next = from
      if (from < first) return { next, oldest: first }
      const readEntries = entryReader(filter)
      let bytes = 0
      for (const row of commitsFrom(db, from)) {
        const { offset, count, data } = row
        if (offset >= before) break
        if (offset + count <= from) continue
        checkCommit(row)
        next = readEntries({ first: offset, records: data }, from, limit, entries)
        bytes += data.length
        if (isFullPage(entries, limit) || bytes > maxLogBytes) break
      }
      return { next, oldest: first }
    })
    const copied = copyPage(entries)
    return new Moved({ ...copied, ...page }, [copied.text.buffer])
  }

  return {
    history,
    readLog,
    offsetAt: ({ time }: { time: Millis }): Offset | null => offsetAt.get(time) ?? null,
    close: () => void db.close(),
  }
}

export type ReaderMethods = ReturnType<typeof openReader>

// The first question opens the file: when that fails, the asker is told, and the next one tries again.
function serveReader(port: MessagePort, options: ReaderOptions): void {
  let reader: ReaderMethods | null = null
  const open = (): ReaderMethods => {
    reader ??= openReader(options)
    return reader
  }
  const methods: ReaderMethods = {
    history: (argument) => open().history(argument),
    readLog: (query) => open().readLog(query),
    offsetAt: (argument) => open().offsetAt(argument),
    close: () => reader?.close(),
  }
  serveCalls(port, methods)
}

/** A page of many columns has fewer rows. */
function rowsFor({ limit, maxPoints }: HistoryQuery, columns: number): number {
  return Math.min(limit, Math.max(1, Math.floor(maxPoints / Math.max(1, columns))))
}

function once<T>(make: () => T): () => T {
  let made: T | undefined
  return () => {
    made ??= make()
    return made
  }
}

if (parentPort) {
  // Devices wait for acknowledgements, and whoever asks for a year of history has time.
  giveWay()
  serveReader(parentPort, workerData as ReaderOptions)
}
