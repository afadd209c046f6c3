import { statSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { type MessagePort, parentPort, workerData } from 'node:worker_threads'
import type Database from 'better-sqlite3'
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
import { headRows } from './head.ts'
import { takeBatch } from './heads.ts'
import { earlierLogs } from './lineage.ts'
import type { UnsealedPart } from './reader-thread.ts'
import type { Forgetting } from './retention.ts'
import { type Durability, setSynchronous } from './schema.ts'
import { isFull } from './sealing.ts'
import { openStoreFile } from './store-file.ts'

/*
 * The one writer of the file, on a thread of its own. A commit is one transaction and one sync; when it fails, all
 * memory is thrown away and made anew from the file (store-file.ts), and the same batch is tried again until it is on disk.
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

function serveWriter(port: MessagePort, options: WriterOptions) {
  const file = openStoreFile(options.path, options.durability, (damage) => {
    sendNotice(port, { damage } satisfies WriterNotice)
  })
  const hub = hubId(file.db)
  let failure: string | null = null
  let recovering: Promise<void> | null = null
  // Grows while writing fails, whatever settling says; what succeeds sets it back.
  let retryMillis = firstRetryMillis
  const closing = new AbortController()
  let maintaining = false

  function append(batch: Batch): Appended | Promise<Appended> {
    if (closing.signal.aborted) throw new Error('the store is closed')
    if (recovering) return recovering.then(() => append(batch))
    try {
      const appended = write(batch)
      succeeded()
      maintainSoon()
      return appended
    } catch (error) {
      return recover(error).then(() => append(batch))
    }
  }

  function write(batch: Batch): Appended {
    const { contents } = file
    const { heads } = contents
    const first = heads.end
    const taken = takeBatch(heads, batch, isFull)
    const count = heads.end - first
    const records = batch.records && taken.dropped.length > 0 ? withoutRecords(batch.records, taken.dropped) : null
    const stored = records ?? batch.records
    file.begin()
    contents.dictionary.add(batch)
    if (stored && count > 0) contents.log.append(first, count, batch.received, stored)
    contents.handshakes.write(batch.handshakes)
    contents.quarantine.write(batch.quarantine)
    contents.consumers.write(batch.consumers)
    contents.notes.write(batch.notes)
    file.commit()
    for (const head of taken.full) contents.sealing.full(head)
    if (stored && count > 0) contents.retention.appended(stored.length)
    return { first, count, duplicates: taken.duplicates, records }
  }

  /** Resolves when writing may be tried again. */
  function recover(error: unknown): Promise<void> {
    setFailure(error instanceof Error ? error.message : String(error))
    recovering ??= untilSettled().finally(() => {
      recovering = null
    })
    return recovering
  }

  async function untilSettled(): Promise<void> {
    // At once, so that no query sees what the failed commit left in memory.
    let loaded = attempt(file.reload)
    for (;;) {
      await sleep(retryMillis, undefined, { signal: closing.signal }).catch(() => {})
      retryMillis = Math.min(retryMillis * 2, maxRetryMillis)
      if (closing.signal.aborted) return
      loaded ||= attempt(file.reload)
      if (loaded && attempt(file.settle)) return
    }
  }

  function attempt(task: () => void): boolean {
    try {
      task()
      return true
    } catch (error) {
      setFailure((error as Error).message)
      return false
    }
  }

  function succeeded(): void {
    retryMillis = firstRetryMillis
    setFailure(null)
  }

  function setFailure(next: string | null): void {
    if (next === failure) return
    failure = next
    sendNotice(port, { failure } satisfies WriterNotice)
  }

  // One head a turn while sealing keeps pace, so that a commit that arrives meanwhile waits for one block at most.
  function seal(): void {
    const { sealing } = file.contents
    const begun = performance.now()
    for (let head = sealing.next(); head; head = sealing.next()) {
      sealing.seal(head)
      if (sealing.backlog <= 1 || performance.now() - begun >= sealingMillis * sealing.backlog) return
    }
  }

  // Asks first whether there is anything to do: to change how to sync costs as much as a whole batch of readings.
  function maintainSoon(): void {
    if (maintaining) return
    maintaining = true
    setImmediate(() => {
      maintaining = false
      if (closing.signal.aborted || recovering) return
      if (!file.contents.sealing.next()) return succeeded()
      if (unsynced(seal)) maintainSoon()
    })
  }

  /** Sealing and forgetting can be done again after a crash, so they need no sync of their own. `null`: it has failed. */
  function unsynced<T>(task: () => T): { result: T } | null {
    try {
      setSynchronous(file.db, 'os')
      const result = task()
      setSynchronous(file.db, options.durability)
      return { result }
    } catch (error) {
      void recover(error).then(maintainSoon)
      return null
    }
  }

  async function forget(limits: Forgetting): Promise<void> {
    while (!closing.signal.aborted && !recovering && unsynced(() => forgetSlice(limits))?.result) {
      await new Promise(setImmediate)
    }
  }

  function forgetSlice(limits: Forgetting): boolean {
    const { retention, sealing } = file.contents
    const due = retention.dueHead(limits)
    if (due) sealing.seal(due)
    return retention.forgetSlice(limits) || due !== undefined
  }

  const methods = {
    opened(): Opened {
      const { heads, handshakes, consumers, credentials, notes, log } = file.contents
      return {
        hub,
        earlier: earlierLogs(file.db),
        devices: Array.from(heads.byId.values(), ({ device, name, lastStamp }) => [device, name, lastStamp]),
        metrics: [...heads.metrics],
        handshakes: handshakes.all(),
        consumers: consumers.all(),
        credentials: credentials.list(),
        notes: notes.all(),
        oldest: log.oldest(),
        end: heads.end,
      }
    },
    append,
    devices: (query: DeviceQuery): DeviceSummary[] => file.contents.summaries.devices(query),
    latest: (query: DeviceQuery & { metrics: string[] }): LatestPage => file.contents.summaries.latest(query),
    /** The rows of one device that are not in blocks yet; `null` for a device that does not exist. */
    head({ device }: { device: string }) {
      const head = file.contents.heads.byName.get(device)
      if (!head) return null
      const rows = headRows(head)
      const buffers = rows.columns.flatMap(({ values }) => (values instanceof Float64Array ? [values.buffer] : []))
      const part: UnsealedPart = { device: head.device, rows, metrics: [...head.columns.keys()] }
      return new Moved(part, [rows.times.buffer, ...buffers] as ArrayBuffer[])
    },
    quarantine: ({ before, limit }: { before: number | null; limit: number }) =>
      file.contents.quarantine.list(before, limit),
    quarantined: ({ id }: { id: number }) => file.contents.quarantine.get(id),
    removeQuarantined: ({ id }: { id: number }) => file.contents.quarantine.remove(id),
    deadLetters: ({ consumer, after, limit }: { consumer: string; after: Offset; limit: number }) =>
      file.contents.consumers.deadLetters(consumer, after, limit),
    saveCredential: ({ credential, by }: { credential: KeptCredential; by: AuditEntry }): void =>
      file.contents.credentials.save(credential, by),
    removeCredential: ({ id, by }: { id: string; by: AuditEntry }): boolean => file.contents.credentials.remove(id, by),
    touchCredentials: ({ used }: { used: [id: string, at: number][] }): void => file.contents.credentials.touch(used),
    audit: ({ entry }: { entry: AuditEntry }): void => file.contents.credentials.audit(entry),
    audited: ({ before, limit }: { before: number | null; limit: number }) =>
      file.contents.credentials.audited(before, limit),
    forget,
    figures(): StoreFigures {
      const { heads, quarantine, log, retention, blocks } = file.contents
      return {
        oldest: log.oldest(),
        end: heads.end,
        devices: heads.byId.size,
        metrics: heads.metrics.size,
        unsealed: heads.unsealed,
        damagedBlocks: blocks.damaged,
        ...quarantine.figures(),
        logBytes: retention.logBytes,
        fileBytes: sizeOf(options.path),
        walBytes: sizeOf(`${options.path}-wal`),
      }
    },
    close() {
      closing.abort()
      clearInterval(watching)
      file.close()
      return recovering ?? undefined
    },
  }
  // The commands that make credentials write into the file themselves.
  const watching = setInterval(() => {
    if (closing.signal.aborted || recovering) return
    try {
      const credentials = file.contents.credentials.changedElsewhere()
      if (credentials) sendNotice(port, { credentials } satisfies WriterNotice)
    } catch {
      // The next commit tells what is wrong with the file.
    }
  }, watchMillis)
  serveCalls(port, methods)
  return methods
}

/** What the thread tells without being asked. */
export type WriterNotice = StoreStatus | { credentials: KeptCredential[] } | { damage: string }

export type WriterMethods = ReturnType<typeof serveWriter>

function hubId(db: Database.Database): string {
  db.prepare("INSERT OR IGNORE INTO hub (key, value) VALUES ('id', lower(hex(randomblob(5))))").run()
  return db.prepare<[], string>("SELECT value FROM hub WHERE key = 'id'").pluck().get() as string
}

function sizeOf(path: string): number {
  return statSync(path, { throwIfNoEntry: false })?.size ?? 0
}

if (parentPort) serveWriter(parentPort, workerData as WriterOptions)
