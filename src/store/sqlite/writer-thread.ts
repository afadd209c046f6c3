import { statSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { type MessagePort, parentPort, workerData } from 'node:worker_threads'
import { crc32 } from 'node:zlib'
import type Database from 'better-sqlite3'
import { cachedNames } from '../entries.ts'
import { compilePatterns } from '../filter.ts'
import { withoutRecords } from '../record.ts'
import type {
  Appended,
  AuditEntry,
  Batch,
  DeviceQuery,
  DeviceSummary,
  KeptCredential,
  LatestPage,
  Offset,
  Opened,
  StoreFigures,
  StoreStatus,
} from '../store.ts'
import { Moved, sendNotice, serveCalls } from './calls.ts'
import { createConsumerTable } from './consumers.ts'
import { createCredentialTable } from './credentials.ts'
import { createHandshakes } from './handshakes.ts'
import { type Head, headRows, latestText } from './head.ts'
import { loadHeads, takeBatch } from './heads.ts'
import { earlierLogs } from './lineage.ts'
import { createNoteTable } from './notes.ts'
import { createQuarantine } from './quarantine.ts'
import type { UnsealedPart } from './reader-thread.ts'
import { createRetention, type Forgetting } from './retention.ts'
import { type Durability, openForWriting, setSynchronous } from './schema.ts'
import { createSealing, isFull } from './sealing.ts'

/*
 * The one writer of the file, on a thread of its own. A commit is one transaction and one sync; when it fails, all
 * memory is thrown away and made anew from the file, and the same batch is tried again until it is on disk.
 */

export interface WriterOptions {
  path: string
  durability: Durability
}

const firstRetryMillis = 200
const maxRetryMillis = 5_000
/** How late a token may be that was made or revoked on the command line. */
const watchMillis = 250
/**
 * What a commit waits for sealing while the log has run too far ahead, and as many times longer as it is too far. One
 * head a turn was not enough for commits of thousands of readings: two million stayed unsealed, and a start took 1.6 s
 * to go through them. This slows the backlog, it does not end it: a writer that never rests still gets to half a million.
 */
const sealingMillis = 5

/** Everything that lives as long as one opening of the file. */
function openFile({ path, durability }: WriterOptions) {
  const db = openForWriting(path, durability)
  const heads = loadHeads(db)
  return {
    db,
    heads,
    sealing: createSealing(db, heads),
    handshakes: createHandshakes(db),
    consumers: createConsumerTable(db),
    credentials: createCredentialTable(db),
    quarantine: createQuarantine(db),
    notes: createNoteTable(db),
    retention: createRetention(db, heads),
    insertDevice: db.prepare('INSERT INTO devices (id, name, first_seen, last_seen) VALUES (?, ?, ?, ?)'),
    insertMetric: db.prepare('INSERT INTO metrics (id, name) VALUES (?, ?)'),
    insertLog: db.prepare('INSERT INTO log ("offset", count, received, data, crc) VALUES (?, ?, ?, ?, ?)'),
    begin: db.prepare('BEGIN IMMEDIATE'),
    commit: db.prepare('COMMIT'),
    offsetAt: db
      .prepare<[number], number>('SELECT "offset" FROM log WHERE received >= ? ORDER BY "offset" LIMIT 1')
      .pluck(),
    oldest: db.prepare<[], number>('SELECT coalesce(min("offset"), 1) FROM log').pluck(),
  }
}

function serveWriter(port: MessagePort, options: WriterOptions) {
  let file = openFile(options)
  const hub = hubId(file.db)
  let failure: string | null = null
  let recovering: Promise<void> | null = null
  // Grows while commits fail, whatever opening the file says; a commit that succeeds sets it back.
  let retryMillis = firstRetryMillis
  let closed = false
  let maintaining = false
  let sortedNames: string[] | null = null

  function append(batch: Batch): Appended | Promise<Appended> {
    if (closed) throw new Error('the store is closed')
    if (recovering) return recovering.then(() => append(batch))
    try {
      const appended = write(batch)
      setFailure(null)
      retryMillis = firstRetryMillis
      if (batch.newDevices.length > 0) sortedNames = null
      maintainSoon()
      return appended
    } catch (error) {
      return recover(error).then(() => append(batch))
    }
  }

  function write(batch: Batch): Appended {
    const { heads } = file
    const first = heads.end
    const taken = takeBatch(heads, batch, isFull)
    const count = heads.end - first
    const records = batch.records && taken.dropped.length > 0 ? withoutRecords(batch.records, taken.dropped) : null
    file.begin.run()
    for (const [id, name] of batch.newDevices) file.insertDevice.run(id, name, batch.received, batch.received)
    for (const [id, name] of batch.newMetrics) file.insertMetric.run(id, name)
    const stored = records ?? batch.records
    if (stored && count > 0) file.insertLog.run(first, count, batch.received, stored, crc32(stored))
    file.handshakes.write(batch.handshakes)
    file.quarantine.write(batch.quarantine)
    file.consumers.write(batch.consumers)
    file.notes.write(batch.notes)
    file.commit.run()
    for (const head of taken.full) file.sealing.full(head)
    if (stored && count > 0) file.retention.appended(stored.length)
    return { first, count, duplicates: taken.duplicates, records }
  }

  /** Resolves when a commit may be tried again. */
  function recover(error: unknown): Promise<void> {
    setFailure(error instanceof Error ? error.message : String(error))
    recovering ??= waitAndReopen().finally(() => {
      recovering = null
    })
    return recovering
  }

  async function waitAndReopen(): Promise<void> {
    // At once, so that no query sees what the failed commit left in memory.
    let opened = reopen()
    do {
      await sleep(retryMillis)
      retryMillis = Math.min(retryMillis * 2, maxRetryMillis)
      if (!opened && !closed) opened = reopen()
    } while (!opened && !closed)
  }

  /** Closing rolls back what is open; after a failed sync nothing in memory can be trusted, so all of it is made anew. */
  function reopen(): boolean {
    try {
      file.db.close()
      file = openFile(options)
      sortedNames = null
      return true
    } catch (error) {
      setFailure((error as Error).message)
      return false
    }
  }

  function setFailure(next: string | null): void {
    if (next === failure) return
    failure = next
    sendNotice(port, { failure } satisfies WriterNotice)
  }

  // One head a turn while sealing keeps pace, so that a commit that arrives meanwhile waits for one block at most.
  function seal(): void {
    const { sealing } = file
    const begun = performance.now()
    for (let head = sealing.next(); head; head = sealing.next()) {
      sealing.seal(head)
      if (sealing.backlog <= 1 || performance.now() - begun >= sealingMillis * sealing.backlog) return
    }
  }

  // Asks first whether there is anything to do: to change how to sync costs as much as a whole batch of readings, and
  // leaves statements behind that the garbage collector frees one by one: 25 ms at once after ten seconds.
  function maintainSoon(): void {
    if (maintaining) return
    maintaining = true
    setImmediate(() => {
      maintaining = false
      if (closed || recovering || !file.sealing.next()) return
      unsynced(seal)
      maintainSoon()
    })
  }

  /** Sealing and forgetting can be done again after a crash, so they need no sync of their own. */
  function unsynced<T>(task: () => T): T | null {
    try {
      setSynchronous(file.db, 'os')
      const result = task()
      setSynchronous(file.db, options.durability)
      return result
    } catch (error) {
      // Nobody waits for this; if the file can be opened again, the next commit will tell whether it can be written.
      setFailure((error as Error).message)
      if (reopen()) setFailure(null)
      else void recover(error)
      return null
    }
  }

  async function forget(limits: Forgetting): Promise<void> {
    while (!closed && !recovering && unsynced(() => file.retention.forgetSlice(limits))) {
      await new Promise(setImmediate)
    }
  }

  function select({ after, limit, devices, exact }: DeviceQuery): Head[] {
    const { byName } = file.heads
    sortedNames ??= [...byName.keys()].sort()
    const plain = exact || (devices.length > 0 && devices.every((pattern) => !pattern.includes('*')))
    const matches = plain ? null : compilePatterns(devices)
    const names = plain ? [...new Set(devices)].sort() : sortedNames
    const selected: Head[] = []
    for (let i = after === '' ? 0 : firstAfter(names, after); i < names.length; i++) {
      const head = byName.get(names[i] as string)
      if (!head || (matches && !matches(head.name))) continue
      selected.push(head)
      if (selected.length === limit) break
    }
    return selected
  }

  const metricName = (id: number): string => file.heads.metrics.get(id) as string

  const methods = {
    opened(): Opened {
      const { heads, handshakes, consumers, credentials } = file
      return {
        hub,
        earlier: earlierLogs(file.db),
        devices: Array.from(heads.byId.values(), ({ device, name, lastStamp }) => [device, name, lastStamp]),
        metrics: [...heads.metrics],
        handshakes: handshakes.all(),
        consumers: consumers.all(),
        credentials: credentials.list(),
        notes: file.notes.all(),
        oldest: file.oldest.get() ?? 1,
        end: heads.end,
      }
    },
    append,
    devices(query: DeviceQuery): DeviceSummary[] {
      return select(query).map(({ name, firstSeen, lastSeen, columns }) => ({
        device: name,
        firstSeen,
        lastSeen,
        metrics: Array.from(columns.keys(), metricName).sort(),
      }))
    },
    // One text crosses threads as it is; a thousand objects were taken apart, put together and then made a text of.
    latest(query: DeviceQuery & { metrics: string[] }): LatestPage {
      const key = cachedNames(metricName, compilePatterns(query.metrics))
      const heads = select({ ...query, limit: query.limit + 1 })
      const next = heads.length > query.limit ? (heads[query.limit - 1] as Head).name : null
      if (next !== null) heads.length = query.limit
      return { entries: heads.map((head) => latestText(head, key)).join(','), next }
    },
    /** The rows of one device that are not in blocks yet; `null` for a device that does not exist. */
    head({ device }: { device: string }) {
      const head = file.heads.byName.get(device)
      if (!head) return null
      const rows = headRows(head)
      const buffers = rows.columns.flatMap(({ values }) => (values instanceof Float64Array ? [values.buffer] : []))
      const part: UnsealedPart = { device: head.device, rows, metrics: [...head.columns.keys()] }
      return new Moved(part, [rows.times.buffer, ...buffers] as ArrayBuffer[])
    },
    quarantine: ({ before, limit }: { before: number | null; limit: number }) => file.quarantine.list(before, limit),
    quarantined: ({ id }: { id: number }) => file.quarantine.get(id),
    removeQuarantined: ({ id }: { id: number }) => file.quarantine.remove(id),
    deadLetters: ({ consumer, after, limit }: { consumer: string; after: Offset; limit: number }) =>
      file.consumers.deadLetters(consumer, after, limit),
    saveCredential: ({ credential, by }: { credential: KeptCredential; by: AuditEntry }): void =>
      file.credentials.save(credential, by),
    removeCredential: ({ id, by }: { id: string; by: AuditEntry }): boolean => file.credentials.remove(id, by),
    touchCredentials: ({ used }: { used: [id: string, at: number][] }): void => file.credentials.touch(used),
    audit: ({ entry }: { entry: AuditEntry }): void => file.credentials.audit(entry),
    audited: ({ before, limit }: { before: number | null; limit: number }) => file.credentials.audited(before, limit),
    offsetAt: ({ time }: { time: number }): Offset | null => file.offsetAt.get(time) ?? null,
    forget,
    figures(): StoreFigures {
      const { heads, quarantine } = file
      return {
        oldest: file.oldest.get() ?? 1,
        end: heads.end,
        devices: heads.byId.size,
        metrics: heads.metrics.size,
        unsealed: heads.unsealed,
        ...quarantine.figures(),
        logBytes: file.retention.logBytes,
        fileBytes: sizeOf(options.path),
        walBytes: sizeOf(`${options.path}-wal`),
      }
    },
    close() {
      closed = true
      clearInterval(watching)
      file.db.close()
      return recovering ?? undefined
    },
  }
  // The commands that make credentials write into the file themselves.
  const watching = setInterval(() => {
    if (closed || recovering) return
    try {
      const credentials = file.credentials.changedElsewhere()
      if (credentials) sendNotice(port, { credentials } satisfies WriterNotice)
    } catch {
      // The next commit tells what is wrong with the file.
    }
  }, watchMillis)
  serveCalls(port, methods)
  return methods
}

/** What the thread tells without being asked. */
export type WriterNotice = StoreStatus | { credentials: KeptCredential[] }

export type WriterMethods = ReturnType<typeof serveWriter>

function hubId(db: Database.Database): string {
  db.prepare("INSERT OR IGNORE INTO hub (key, value) VALUES ('id', lower(hex(randomblob(5))))").run()
  return db.prepare<[], string>("SELECT value FROM hub WHERE key = 'id'").pluck().get() as string
}

function firstAfter(names: string[], name: string): number {
  let low = 0
  let high = names.length
  while (low < high) {
    const middle = (low + high) >>> 1
    if ((names[middle] as string) <= name) low = middle + 1
    else high = middle
  }
  return low
}

function sizeOf(path: string): number {
  return statSync(path, { throwIfNoEntry: false })?.size ?? 0
}

if (parentPort) serveWriter(parentPort, workerData as WriterOptions)
