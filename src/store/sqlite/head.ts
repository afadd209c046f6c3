import type { Millis, Value } from '../../../devices/reading.ts'
import { type Column, type Rows, sortRows, valueAt } from '../columns.ts'
import type { RecordReader } from '../record.ts'

/** The newest value of one metric of one device. */
export interface Latest {
  ts: Millis
  value: Value
}

interface HeadColumn {
  metric: number
  /** NaN stands for "no value" while all values are numbers; may be shorter than the head has rows. */
  values: (Value | undefined)[]
  numeric: boolean
  latest: Latest
}

/**
 * What the store thread knows of one device: the readings that are not sealed yet, as columns, and the newest
 * value of each metric. It is only memory; the log can rebuild it.
 */
export interface Head {
  readonly device: number
  readonly name: string
  firstSeen: Millis
  lastSeen: Millis
  /** The largest time that the device ever reported: a later one is surely new. */
  maxTs: Millis
  /** The largest time that is in a block. */
  sealedMaxTs: Millis
  lastStamp: Millis
  /** Readings below this offset of the log are in blocks. */
  sealedThrough: number
  /** The offset of the first reading here; meaningless without rows. */
  firstOffset: number
  lastOffset: number
  times: number[]
  /** Rows times columns, about: a few very wide readings take the memory of many narrow ones. */
  cells: number
  columns: Map<number, HeadColumn>
  /** Time → rows, made when the first late reading asks for it. */
  rowsByTime: Map<Millis, number[]> | null
}

export function createHead(device: number, name: string, firstSeen: Millis): Head {
  return {
    device,
    name,
    firstSeen,
    lastSeen: firstSeen,
    maxTs: Number.NEGATIVE_INFINITY,
    sealedMaxTs: Number.NEGATIVE_INFINITY,
    lastStamp: 0,
    sealedThrough: 0,
    firstOffset: 0,
    lastOffset: 0,
    times: [],
    cells: 0,
    columns: new Map(),
    rowsByTime: null,
  }
}

/** Takes in the current record of a reader as the reading at `offset`. */
export function appendToHead(head: Head, record: RecordReader, offset: number): void {
  const row = head.times.length
  if (row === 0) head.firstOffset = offset
  head.lastOffset = offset
  head.times.push(record.ts)
  head.cells += head.columns.size + 1
  for (let i = 0; i < record.size; i++) {
    setValue(head, record.metrics[i] as number, row, record.ts, record.values[i] as Value)
  }
  if (head.rowsByTime) remember(head.rowsByTime, record.ts, row)
  noteSeen(head, record)
}

/** What stays true of a reading after it is sealed: when the device was seen, and its last stamp. */
export function noteSeen(head: Head, record: RecordReader): void {
  if (record.ts > head.maxTs) head.maxTs = record.ts
  if (record.received > head.lastSeen) head.lastSeen = record.received
  if (record.stamped && record.ts > head.lastStamp) head.lastStamp = record.ts
}

function setValue(head: Head, metric: number, row: number, ts: Millis, value: Value): void {
  const column = columnOf(head, metric, ts, value)
  if (column.numeric && typeof value !== 'number') makeMixed(column)
  const { values } = column
  const gap = column.numeric ? Number.NaN : undefined
  while (values.length < row) values.push(gap)
  values[row] = value
  if (ts >= column.latest.ts) {
    column.latest.ts = ts
    column.latest.value = value
  }
}

function columnOf(head: Head, metric: number, ts: Millis, value: Value): HeadColumn {
  const known = head.columns.get(metric)
  if (known) return known
  const column: HeadColumn = { metric, values: [], numeric: true, latest: { ts, value } }
  head.columns.set(metric, column)
  return column
}

/** Restores the newest value of a metric from the file, for a head that has no rows yet. */
export function restoreLatest(head: Head, metric: number, latest: Latest): void {
  head.columns.set(metric, { metric, values: [], numeric: true, latest })
}

/** The newest values of a head as JSON; `key` names a metric as JSON, or `null` where it is not wanted. */
export function latestText(head: Head, key: (metric: number) => string | null): string {
  let values = ''
  for (const { metric, latest } of head.columns.values()) {
    const name = key(metric)
    if (name === null) continue
    const { ts, value } = latest
    const text = typeof value === 'string' ? JSON.stringify(value) : String(value)
    values += `${values === '' ? '' : ','}${name}:{"ts":${ts},"value":${text}}`
  }
  return `{"device":${JSON.stringify(head.name)},"values":{${values}}}`
}

function makeMixed(column: HeadColumn): void {
  column.values = column.values.map((value) => (Number.isNaN(value) ? undefined : value))
  column.numeric = false
}

function remember(rowsByTime: Map<Millis, number[]>, ts: Millis, row: number): void {
  const rows = rowsByTime.get(ts)
  if (rows) rows.push(row)
  else rowsByTime.set(ts, [row])
}

/** Whether the head holds this very reading: same time, same metrics, same values. */
export function headHolds(head: Head, record: RecordReader): boolean {
  if (head.times.length === 0) return false
  if (!head.rowsByTime) {
    head.rowsByTime = new Map()
    for (const [row, ts] of head.times.entries()) remember(head.rowsByTime, ts, row)
  }
  const rows = head.rowsByTime.get(record.ts)
  return rows?.some((row) => rowEquals(row, record, head.columns.values())) === true
}

/** Whether a row holds exactly the values of a record: none missing, none different, none besides. */
export function rowEquals(row: number, record: RecordReader, columns: Iterable<Column>): boolean {
  let present = 0
  for (const { metric, values } of columns) {
    const value = valueAt(values, row)
    if (value === undefined) continue
    const place = record.metrics.indexOf(metric)
    if (place < 0 || place >= record.size || record.values[place] !== value) return false
    present++
  }
  return present === record.size
}

/** The rows of a head, ascending by time, with the columns that `wanted` lets through. */
export function headRows(head: Head, wanted?: (metric: number) => boolean): Rows {
  const count = head.times.length
  const columns: Column[] = []
  for (const { metric, values, numeric } of head.columns.values()) {
    if (values.length === 0 || (wanted && !wanted(metric))) continue
    columns.push({ metric, values: numeric ? toFloats(values, count) : padded(values, count) })
  }
  return sortRows({ times: Float64Array.from(head.times), columns })
}

function toFloats(values: (Value | undefined)[], count: number): Float64Array {
  const floats = new Float64Array(count).fill(Number.NaN, values.length)
  for (let i = 0; i < values.length; i++) floats[i] = values[i] as number
  return floats
}

function padded(values: (Value | undefined)[], count: number): (Value | undefined)[] {
  const all = values.slice()
  while (all.length < count) all.push(undefined)
  return all
}

/** Empties the rows, after they were sealed in a block. */
export function clearHead(head: Head): void {
  for (const ts of head.times) if (ts > head.sealedMaxTs) head.sealedMaxTs = ts
  head.sealedThrough = head.lastOffset + 1
  head.times = []
  head.cells = 0
  head.rowsByTime = null
  for (const column of head.columns.values()) {
    column.values = []
    column.numeric = true
  }
}
