import type Database from 'better-sqlite3'
import { createRecordReader, type RecordReader } from '../record.ts'
import type { Batch } from '../store.ts'
import type { DeviceRow, DictionaryTable } from './dictionary-table.ts'
import { appendToHead, createHead, type Head, headHolds, noteSeen, restoreLatest } from './head.ts'
import { checkCommit, commitsFrom } from './log-table.ts'
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

/** Reads the dictionary, then goes through the log from where sealing had come to. */
export function loadHeads(db: Database.Database, dictionary: DictionaryTable, blocks: StoredBlocks): Heads {
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
  for (const [id, name] of dictionary.metrics()) heads.metrics.set(id, name)
  for (const row of dictionary.devices()) addDevice(heads, restoreHead(row))
  const from = db.prepare<[], number>("SELECT value FROM hub WHERE key = 'recover_from'").pluck().get() ?? 1
  for (const row of commitsFrom(db, from)) {
    checkCommit(row)
    replay(heads, row.data, row.offset)
    heads.end = row.offset + row.count
  }
  return heads
}

function restoreHead({ id, name, firstSeen, lastSeen, lastStamp, sealedThrough, maxTs, latest }: DeviceRow): Head {
  const head = createHead(id, name, firstSeen)
  Object.assign(head, { lastSeen, lastStamp, sealedThrough })
  if (maxTs !== null) head.maxTs = head.sealedMaxTs = maxTs
  for (const [metric, ts, value] of latest) restoreLatest(head, metric, { ts, value })
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
