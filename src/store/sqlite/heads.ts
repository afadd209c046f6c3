import { crc32 } from 'node:zlib'
import type Database from 'better-sqlite3'
import type { Millis, Value } from '../../../devices/reading.ts'
import { Damaged } from '../damage.ts'
import { createRecordReader, type RecordReader } from '../record.ts'
import type { Batch } from '../store.ts'
import { appendToHead, createHead, type Head, headHolds, noteSeen, restoreLatest } from './head.ts'
import { createSealedSearch, type SealedSearch } from './sealed-search.ts'
import type { StoredBlocks } from './stored-blocks.ts'

/** All devices of the hub as the store thread sees them, made from the file when it opens. */
export interface Heads {
  readonly byId: Map<number, Head>
  readonly byName: Map<string, Head>
  readonly metrics: Map<number, string>
  /** The heads that hold readings, in the order of their `firstOffset`. */
  readonly open: Map<number, Head>
  /** Readings in all heads, and what they take in memory. */
  unsealed: number
  bytes: number
  /** One past the last offset of the log. */
  end: number
  readonly sealed: SealedSearch
}

interface DeviceRow {
  id: number
  name: string
  first_seen: number
  last_seen: number
  max_ts: number | null
  last_stamp: number
  sealed_through: number
  latest: string
}

export type LatestRow = [metric: number, ts: Millis, value: Value]

/** A row of the log. */
export interface CommitRow {
  offset: number
  count: number
  data: Buffer
  /** `null` where it was written before there were any. */
  crc: number | null
}

/** Throws `Damaged` unless the row is what was written. */
export function checkCommit({ offset, data, crc }: CommitRow): void {
  if (crc !== null && crc !== crc32(data)) throw new Damaged(`the checksum of the log at ${offset} is wrong`)
}

/** Reads the dictionary, then goes through the log from where sealing had come to. */
export function loadHeads(db: Database.Database, blocks: StoredBlocks): Heads {
  const heads: Heads = {
    byId: new Map(),
    byName: new Map(),
    metrics: new Map(),
    open: new Map(),
    unsealed: 0,
    bytes: 0,
    end: 1,
    sealed: createSealedSearch(db, blocks),
  }
  for (const row of db.prepare<[], { id: number; name: string }>('SELECT id, name FROM metrics').iterate()) {
    heads.metrics.set(row.id, row.name)
  }
  for (const row of db.prepare<[], DeviceRow>('SELECT * FROM devices').iterate()) addDevice(heads, restoreHead(row))
  const from = db.prepare<[], number>("SELECT value FROM hub WHERE key = 'recover_from'").pluck().get() ?? 1
  const rows = db.prepare<[number], CommitRow>(
    // The row before the place may reach past it.
    `SELECT "offset", count, data, crc FROM log
     WHERE "offset" >= coalesce((SELECT max("offset") FROM log WHERE "offset" <= ?), 0) ORDER BY "offset"`,
  )
  for (const row of rows.iterate(from)) {
    checkCommit(row)
    replay(heads, row.data, row.offset)
    heads.end = row.offset + row.count
  }
  return heads
}

function restoreHead(row: DeviceRow): Head {
  const head = createHead(row.id, row.name, row.first_seen)
  head.lastSeen = row.last_seen
  head.lastStamp = row.last_stamp
  head.sealedThrough = row.sealed_through
  if (row.max_ts !== null) head.maxTs = head.sealedMaxTs = row.max_ts
  for (const [metric, ts, value] of JSON.parse(row.latest) as LatestRow[]) restoreLatest(head, metric, { ts, value })
  return head
}

function addDevice(heads: Heads, head: Head): void {
  heads.byId.set(head.device, head)
  heads.byName.set(head.name, head)
}

function replay(heads: Heads, data: Uint8Array, first: number): void {
  const record = createRecordReader(data)
  for (let offset = first; record.next(); offset++) {
    const head = headOf(heads, record.device)
    if (offset >= head.sealedThrough) append(heads, head, record, offset)
    else noteSeen(head, record)
  }
}

function headOf(heads: Heads, device: number): Head {
  const head = heads.byId.get(device)
  if (!head) throw new Error(`BUG: the log names device ${device}, which the dictionary does not hold`)
  return head
}

function append(heads: Heads, head: Head, record: RecordReader, offset: number): void {
  if (head.rows === 0) heads.open.set(head.device, head)
  const before = head.bytes
  appendToHead(head, record, offset)
  heads.bytes += head.bytes - before
  heads.unsealed++
}

/** What a batch did to the heads: which of its readings they held before, and which heads are full now. */
export interface Taken {
  duplicates: number[]
  /** Where the duplicates lie in the records. */
  dropped: [start: number, end: number][]
  full: Head[]
}

/** Takes a batch in, ahead of the disk: if writing it fails, the heads must be loaded again. */
export function takeBatch(heads: Heads, batch: Batch, isFull: (head: Head) => boolean): Taken {
  for (const [id, name] of batch.newMetrics) heads.metrics.set(id, name)
  for (const [id, name] of batch.newDevices) addDevice(heads, createHead(id, name, batch.received))
  const taken: Taken = { duplicates: [], dropped: [], full: [] }
  if (!batch.records) return taken
  const record = createRecordReader(batch.records)
  for (let index = 0; record.next(); index++) {
    const head = headOf(heads, record.device)
    if (isKnown(heads, head, record)) {
      taken.duplicates.push(index)
      taken.dropped.push([record.start, record.end])
      if (record.received > head.lastSeen) head.lastSeen = record.received
      continue
    }
    append(heads, head, record, heads.end++)
    if (isFull(head) && taken.full.at(-1) !== head) taken.full.push(head)
  }
  return taken
}

// In order, one comparison decides; only a late reading is looked for.
function isKnown(heads: Heads, head: Head, record: RecordReader): boolean {
  if (record.ts > head.maxTs) return false
  if (headHolds(head, record)) return true
  return record.ts <= head.sealedMaxTs && heads.sealed.holds(head.device, record)
}
