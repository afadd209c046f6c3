import type { Millis } from '../../devices/reading.ts'
import { valueAt } from '../store/columns.ts'
import { maxNumberBytes, writeFragment, writeNumber } from './json-bytes.ts'
import { type Layout, layouts, type Table } from './layouts.ts'
import type { HistoryQuery } from './query.ts'

/** Where rows are wide, a page ends before its limit of rows: an answer must fit into memory. */
const maxBodyBytes = 32 * 1024 * 1024
/** So many rows tell how long the others will be. */
const sampleRows = 64
const comma = 44

/** A table as the body of an answer, as many of its rows as fit; `next` is where to go on after all of them. */
export function encodePage(table: Table, query: HistoryQuery, next: Millis | null) {
  const { times } = table
  const layout = layouts[query.format](table, query)
  const { head, separator, open, middle, close, groups, missing } = layout
  const desc = query.order === 'desc'
  const rowBytes = rowBytesOf(layout)
  let bytes = Buffer.allocUnsafeSlow(head.length + rowBytes * Math.min(times.length, sampleRows))
  let at = writeFragment(bytes, 0, head)
  let rows = 0
  for (; rows < times.length && at < maxBodyBytes; rows++) {
    // Every row has room for all but its texts, which look after themselves.
    if (at + rowBytes > bytes.length) bytes = enlarge(bytes, at, rowBytes, times.length / Math.max(rows, 1))
    const row = desc ? times.length - 1 - rows : rows
    if (rows > 0) at = writeFragment(bytes, at, separator)
    at = writeFragment(bytes, at, open)
    at = writeNumber(bytes, at, times[row] as number)
    at = writeFragment(bytes, at, middle)
    let members = false
    for (const group of groups) {
      let content = false
      for (const { key, values } of group.cells) {
        const value = valueAt(values, row)
        if (value === undefined && missing === null) continue
        if (content || members) bytes[at++] = comma
        if (!content) at = writeFragment(bytes, at, group.open)
        at = writeFragment(bytes, at, key)
        content = true
        members = true
        if (typeof value === 'number') at = writeNumber(bytes, at, value)
        else if (typeof value === 'string') {
          const text = layout.text(value)
          const more = text.length * 3 + rowBytes
          if (at + more > bytes.length) bytes = enlarge(bytes, at, more, times.length / (rows + 1))
          at += bytes.write(text, at)
        } else at = writeFragment(bytes, at, value === undefined ? (missing as Uint8Array) : value ? yes : no)
      }
      if (content) at = writeFragment(bytes, at, group.close)
    }
    at = writeFragment(bytes, at, close)
  }
  // Where the text became too long for all rows, the page after begins with the first (with `desc` after the last) left.
  const goOn = rows === times.length ? next : ((desc ? times[times.length - rows] : times[rows]) as Millis)
  const tail = layout.tail(goOn)
  if (at + tail.length > bytes.length) bytes = enlarge(bytes, at, tail.length, 1)
  at = writeFragment(bytes, at, tail)
  return { body: bytes.subarray(0, at), rows, next: goOn }
}

const yes = new TextEncoder().encode('true')
const no = new TextEncoder().encode('false')

/** The most that a row takes beside its texts. */
function rowBytesOf({ separator, open, middle, close, groups, missing }: Layout): number {
  let most = separator.length + open.length + maxNumberBytes + middle.length + close.length
  for (const group of groups) {
    most += group.open.length + group.close.length
    for (const { key } of group.cells) most += 1 + key.length + Math.max(maxNumberBytes, missing?.length ?? 0)
  }
  return most
}

/** A copy with room for `more`, and for the rest of the page if it goes on like this. */
function enlarge(bytes: Buffer<ArrayBuffer>, at: number, more: number, times: number): Buffer<ArrayBuffer> {
  const expected = Math.min(Math.ceil(at * times * 1.02), maxBodyBytes)
  const larger = Buffer.allocUnsafeSlow(Math.max(expected, at) + more)
  bytes.copy(larger, 0, 0, at)
  return larger
}
