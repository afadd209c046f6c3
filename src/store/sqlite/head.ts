import type { Millis, Value } from '../../../devices/reading.ts'
import { type Column, type Rows, sortRows } from '../columns.ts'
import type { RecordReader } from '../record.ts'

/** The newest value of one metric of one device. */
export interface Latest {
  ts: Millis
  value: Value
}

interface HeadColumn {
  metric: number
  /** Where its numbers stand in a row; 0: no row has one. */
  place: number
  /** Its values, may be shorter than the head has rows; `null` while all of them are numbers. */
  mixed: (Value | undefined)[] | null
  latest: Latest
}

/**
 * What the store thread knows of one device: the readings that are not sealed yet, and the newest value of each metric.
 * It is only memory; the log can rebuild it.
 *
 * Numbers stand row by row in one piece of memory that the garbage collector never looks into: a time, then a number a
 * metric. Arrays a metric were a third of what survived the collections of this thread.
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
  rows: number
  /** Numbers of a row, the time included. */
  width: number
  /** `rows` times `width` of them are in use; NaN: the row has no number there. */
  numbers: Float64Array
  /** Of all rows, about: a few very wide readings take the memory of many narrow ones. */
  bytes: number
  columns: Map<number, HeadColumn>
  /** Time → rows, made when the first late reading asks for it. */
  rowsByTime: Map<Millis, number[]> | null
}

const nothing = new Float64Array(0)
const firstRows = 8
const numberBytes = 8
/** What a value that is no number takes besides its characters. */
const mixedBytes = 24

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
    rows: 0,
    width: 1,
    numbers: nothing,
    bytes: 0,
    columns: new Map(),
    rowsByTime: null,
  }
}

/** Takes in the current record of a reader as the reading at `offset`. */
export function appendToHead(head: Head, record: RecordReader, offset: number): void {
  const { ts } = record
  const row = head.rows++
  if (row === 0) head.firstOffset = offset
  head.lastOffset = offset
  makeRoom(head)
  let at = row * head.width
  head.numbers[at] = ts
  for (let place = 1; place < head.width; place++) head.numbers[at + place] = Number.NaN
  for (let i = 0; i < record.size; i++) {
    const value = record.values[i] as Value
    const column = columnOf(head, record.metrics[i] as number, ts, value)
    if (typeof value === 'number' && column.mixed === null) {
      if (column.place === 0) {
        addPlace(head, column)
        at = row * head.width
      }
      head.numbers[at + column.place] = value
    } else {
      setMixed(head, column, row, value)
    }
    if (ts >= column.latest.ts) {
      column.latest.ts = ts
      column.latest.value = value
    }
  }
  head.bytes += head.width * numberBytes
  if (head.rowsByTime) remember(head.rowsByTime, ts, row)
  noteSeen(head, record)
}

/** What stays true of a reading after it is sealed: when the device was seen, and its last stamp. */
export function noteSeen(head: Head, record: RecordReader): void {
  if (record.ts > head.maxTs) head.maxTs = record.ts
  if (record.received > head.lastSeen) head.lastSeen = record.received
  if (record.stamped && record.ts > head.lastStamp) head.lastStamp = record.ts
}

function makeRoom(head: Head): void {
  const needed = head.rows * head.width
  if (needed <= head.numbers.length) return
  const larger = new Float64Array(Math.max(needed, head.numbers.length * 2, firstRows * head.width))
  larger.set(head.numbers)
  head.numbers = larger
}

/** A metric that had no number yet gets its place in all rows. */
function addPlace(head: Head, column: HeadColumn): void {
  const { rows, width, numbers } = head
  const wider = new Float64Array(Math.max(rows, firstRows) * (width + 1)).fill(Number.NaN)
  for (let row = 0; row < rows; row++) {
    wider.set(numbers.subarray(row * width, (row + 1) * width), row * (width + 1))
  }
  column.place = width
  head.width = width + 1
  head.numbers = wider
  head.bytes += (rows - 1) * numberBytes
}

function setMixed(head: Head, column: HeadColumn, row: number, value: Value): void {
  column.mixed ??= mixedOf(head, column)
  const { mixed } = column
  while (mixed.length < row) mixed.push(undefined)
  mixed[row] = value
  head.bytes += mixedBytes + (typeof value === 'string' ? value.length : 0)
}

function mixedOf(head: Head, { place }: HeadColumn): (Value | undefined)[] {
  if (place === 0) return []
  return Array.from({ length: head.rows - 1 }, (_, row) => numberAt(head, row, place))
}

function numberAt({ numbers, width }: Pick<Head, 'numbers' | 'width'>, row: number, place: number): number | undefined {
  const value = numbers[row * width + place] as number
  return Number.isNaN(value) ? undefined : value
}

function columnOf(head: Head, metric: number, ts: Millis, value: Value): HeadColumn {
  const known = head.columns.get(metric)
  if (known) return known
  const column: HeadColumn = { metric, place: 0, mixed: null, latest: { ts, value } }
  head.columns.set(metric, column)
  return column
}

/** Restores the newest value of a metric from the file, for a head that has no rows yet. */
export function restoreLatest(head: Head, metric: number, latest: Latest): void {
  head.columns.set(metric, { metric, place: 0, mixed: null, latest })
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

function remember(rowsByTime: Map<Millis, number[]>, ts: Millis, row: number): void {
  const rows = rowsByTime.get(ts)
  if (rows) rows.push(row)
  else rowsByTime.set(ts, [row])
}

/** Whether the head holds this very reading: same time, same metrics, same values. */
export function headHolds(head: Head, record: RecordReader): boolean {
  if (head.rows === 0) return false
  if (!head.rowsByTime) {
    head.rowsByTime = new Map()
    for (let row = 0; row < head.rows; row++) {
      remember(head.rowsByTime, head.numbers[row * head.width] as number, row)
    }
  }
  const valueAt = ({ place, mixed }: HeadColumn, row: number) => {
    return mixed ? mixed[row] : place === 0 ? undefined : numberAt(head, row, place)
  }
  const rows = head.rowsByTime.get(record.ts)
  return rows?.some((row) => rowEquals(row, record, head.columns.values(), valueAt)) === true
}

/** Whether a row holds exactly the values of a record: none missing, none different, none besides. */
export function rowEquals<C extends { metric: number }>(
  row: number,
  record: RecordReader,
  columns: Iterable<C>,
  valueAt: (column: C, row: number) => Value | undefined,
): boolean {
  let present = 0
  for (const column of columns) {
    const value = valueAt(column, row)
    if (value === undefined) continue
    const place = record.metrics.indexOf(column.metric)
    if (place < 0 || place >= record.size || record.values[place] !== value) return false
    present++
  }
  return present === record.size
}

/** The rows of a head, ascending by time. */
export function headRows(head: Head): Rows {
  const columns: Column[] = []
  for (const { metric, place, mixed } of head.columns.values()) {
    const values = mixed ? padded(mixed, head.rows) : place > 0 ? numbersOf(head, place) : null
    if (values && (mixed || values.some((value) => !Number.isNaN(value)))) columns.push({ metric, values })
  }
  return sortRows({ times: numbersOf(head, 0), columns })
}

function numbersOf({ numbers, rows, width }: Head, place: number): Float64Array {
  const column = new Float64Array(rows)
  for (let row = 0, at = place; row < rows; row++, at += width) column[row] = numbers[at] as number
  return column
}

function padded(values: (Value | undefined)[], count: number): (Value | undefined)[] {
  const all = values.slice()
  while (all.length < count) all.push(undefined)
  return all
}

/** Empties the rows, after they were sealed in a block. The metrics of the last one, likely those to come, keep a place. */
export function clearHead(head: Head): void {
  const { rows, width, numbers } = head
  for (let at = 0; at < rows * width; at += width) head.sealedMaxTs = Math.max(head.sealedMaxTs, numbers[at] as number)
  head.width = 1
  for (const column of head.columns.values()) {
    const isLast = column.place > 0 && numberAt({ numbers, width }, rows - 1, column.place) !== undefined
    column.place = isLast ? head.width++ : 0
    column.mixed = null
  }
  head.sealedThrough = head.lastOffset + 1
  head.rows = 0
  head.numbers = nothing
  head.bytes = 0
  head.rowsByTime = null
}
