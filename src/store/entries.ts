import { maxNumberBytes, writeFragment, writeNumber } from '../history/json-bytes.ts'
import { compilePatterns, type Filter, keyOf, type Matcher } from './filter.ts'
import { createRecordReader, type RecordReader } from './record.ts'
import type { Offset } from './store.ts'

/** Readings as JSON texts, ready to be sent: one after another, with a comma between two. */
export interface Entries {
  text: Uint8Array<ArrayBuffer>
  /** Where each of them ends in it. */
  ends: number[]
  offsets: Offset[]
}

/** Each reading by itself, with its place in the log. */
export function readingsOf({ text, ends, offsets }: Entries): [offset: Offset, reading: string][] {
  const bytes = Buffer.from(text.buffer, text.byteOffset, text.byteLength)
  let from = 0
  return ends.map((end, i) => {
    const reading = bytes.toString('utf8', from, end)
    from = end + 1
    return [offsets[i] as Offset, reading]
  })
}

/** The names behind the numbers of the dictionary. */
export interface Names {
  device(id: number): string
  metric(id: number): string
}

/** What a page is written into; the next one into the same memory. */
export interface EntryBuffer {
  bytes: Buffer
  at: number
  ends: number[]
  offsets: Offset[]
}

/** A page is what a reader that stops reading holds in memory, and what a live one waits for. */
const maxPageBytes = 256 * 1024

export function createEntryBuffer(): EntryBuffer {
  return { bytes: Buffer.allocUnsafeSlow(maxPageBytes), at: 0, ends: [], offsets: [] }
}

export function isFullPage({ ends, at }: EntryBuffer, limit: number): boolean {
  return ends.length >= limit || at >= maxPageBytes
}

/** Begins a page, whatever became of the one before. */
export function beginPage(buffer: EntryBuffer): void {
  // What one huge reading needed is not held on to.
  const { bytes } = buffer.bytes.length > 2 * maxPageBytes ? createEntryBuffer() : buffer
  Object.assign(buffer, { bytes, at: 0, ends: [], offsets: [] })
}

/** The page, in memory of its own. */
export function copyPage({ bytes, at, ends, offsets }: EntryBuffer): Entries {
  return { text: new Uint8Array(bytes.subarray(0, at)), ends, offsets }
}

/** Writes the readings of one commit that pass, until the page is full; returns the next offset. */
export type EntryReader = (
  commit: { first: number; records: Uint8Array },
  after: number,
  limit: number,
  page: EntryBuffer,
) => number

const encoder = new TextEncoder()
const toValues = encoder.encode(',"values":{')
const toReceived = encoder.encode('},"received":')
const [comma, close] = [44, 125]
const [yes, no] = [encoder.encode('true'), encoder.encode('false')]
/** What an entry takes beside names and values. */
const frameBytes = 2 + toValues.length + toReceived.length + 2 * maxNumberBytes
/** UTF-8 takes up to three bytes for a character of a text. */
const maxCharacterBytes = 3

/** Filters that are remembered, each with a byte a device; when there are more, all begin anew. */
const maxFilters = 64

/**
 * Makes the JSON of readings straight from their records. A filter by metric leaves the others out of `values`,
 * and a reading without any of them out of the answer.
 */
export function createEntryReaders(names: Names): (filter: Filter) => EntryReader {
  // `Buffer.from` puts many small ones into one piece of memory; from an encoder each is twice as large.
  const open = remembered((device) => Buffer.from(`{"device":${JSON.stringify(names.device(device))},"ts":`))
  const key = remembered((metric) => Buffer.from(`${JSON.stringify(names.metric(metric))}:`))
  const readers = new Map<string, EntryReader>()
  return (filter) => {
    const filterKey = keyOf(filter)
    const known = readers.get(filterKey)
    if (known) return known
    if (readers.size >= maxFilters) readers.clear()
    const hasDevice = createVerdicts(names.device, compilePatterns(filter.devices))
    const hasMetric = createVerdicts(names.metric, compilePatterns(filter.metrics))
    const reader = createEntryReader(
      (device) => (hasDevice(device) ? open(device) : null),
      (metric) => (hasMetric(metric) ? key(metric) : null),
    )
    readers.set(filterKey, reader)
    return reader
  }
}

/** `null`: does not pass. */
type Fragment = (id: number) => Uint8Array | null

function createEntryReader(device: Fragment, metric: Fragment): EntryReader {
  return ({ first, records }, after, limit, page) => {
    const record = createRecordReader(records)
    let offset = first
    while (!isFullPage(page, limit) && record.next()) {
      if (offset++ < after) continue
      const open = device(record.device)
      if (open === null || !writeEntry(page, open, record, metric)) continue
      page.ends.push(page.at)
      page.offsets.push(offset - 1)
    }
    return offset
  }
}

/** False, and nothing written, when none of the values passes. */
function writeEntry(page: EntryBuffer, open: Uint8Array, record: RecordReader, metric: Fragment): boolean {
  makeRoom(page, page.at, frameBytes + open.length)
  let { at, bytes } = page
  if (page.ends.length > 0) bytes[at++] = comma
  at = writeFragment(bytes, at, open)
  at = writeNumber(bytes, at, record.ts)
  at = writeFragment(bytes, at, toValues)
  const begin = at
  for (let i = 0; i < record.size; i++) {
    const key = metric(record.metrics[i] as number)
    if (key === null) continue
    const value = record.values[i]
    const text = typeof value === 'string' ? JSON.stringify(value) : ''
    bytes = makeRoom(page, at, frameBytes + key.length + text.length * maxCharacterBytes)
    if (at > begin) bytes[at++] = comma
    at = writeFragment(bytes, at, key)
    if (typeof value === 'number') at = writeNumber(bytes, at, value)
    else if (typeof value === 'string') at += bytes.write(text, at)
    else at = writeFragment(bytes, at, value ? yes : no)
  }
  if (at === begin) return false
  at = writeFragment(bytes, at, toReceived)
  at = writeNumber(bytes, at, record.received)
  bytes[at++] = close
  page.at = at
  return true
}

function makeRoom(page: EntryBuffer, at: number, more: number): Buffer {
  if (at + more > page.bytes.length) {
    const larger = Buffer.allocUnsafeSlow(Math.max(2 * page.bytes.length, at + more))
    page.bytes.copy(larger, 0, 0, at)
    page.bytes = larger
  }
  return page.bytes
}

/** What is made of a number of the dictionary, made once. */
export function remembered<T>(make: (id: number) => T): (id: number) => T {
  const known: (T | undefined)[] = []
  return (id) => {
    let made = known[id]
    if (made === undefined) {
      made = make(id)
      known[id] = made
    }
    return made
  }
}

/** Whether a number's name matches, found out once: a byte each, as there may be many filters over many devices. */
function createVerdicts(nameOf: (id: number) => string, matches: Matcher | null): (id: number) => boolean {
  if (matches === null) return () => true
  const [fails, passes] = [1, 2]
  let known = new Uint8Array(1024)
  return (id) => {
    if (id >= known.length) {
      const larger = new Uint8Array(Math.max(id + 1, 2 * known.length))
      larger.set(known)
      known = larger
    }
    known[id] ||= matches(nameOf(id)) ? passes : fails
    return known[id] === passes
  }
}
