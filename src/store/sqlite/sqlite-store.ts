import { join } from 'node:path'
import { Worker } from 'node:worker_threads'
import { type HistoryQuery, TooCostly } from '../../history/query.ts'
import { isDamage } from '../damage.ts'
import type { KeptCredential, LogQuery, Store, StoreStatus } from '../store.ts'
import { type Caller, createCaller } from './calls.ts'
import { lockFolder } from './folder-lock.ts'
import type { ReaderMethods, ReaderOptions } from './reader-thread.ts'
import { type Durability, UnusableFile } from './schema.ts'
import type { WriterMethods, WriterNotice, WriterOptions } from './writer-thread.ts'

export interface SqliteStoreOptions {
  /** The folder of the database; made when it does not exist. */
  folder: string
  durability: Durability
  /** Threads that answer history and older parts of the log, at most. */
  readers?: number
}

/** One thread answers while the other one is busy with an export. */
const defaultReaders = 2
/** What a thread works on is in buffers; a larger young generation, which V8 fills before it looks, saves it nothing. */
const resourceLimits = { maxYoungGenerationSizeMb: 24 }

interface Reader {
  worker: Worker
  caller: Caller<ReaderMethods>
}

/** Opens the store in a folder. Throws `UnusableFile` with what to do, when the folder cannot serve. */
export async function openSqliteStore(options: SqliteStoreOptions): Promise<Store> {
  const { folder, durability } = options
  const lock = lockFolder(folder)
  const path = join(folder, 'hub.db')
  const writer = new Worker(new URL('./writer-thread.js', import.meta.url), {
    workerData: { path, durability } satisfies WriterOptions,
    name: 'store-writer',
    resourceLimits,
  })
  const listeners: ((status: StoreStatus) => void)[] = []
  const doorkeepers: ((credentials: KeptCredential[]) => void)[] = []
  const surveyors: ((what: string) => void)[] = []
  const write = createCaller<WriterMethods>(writer, (given) => {
    const notice = given as WriterNotice
    if ('credentials' in notice) for (const listener of doorkeepers) listener(notice.credentials)
    else if ('damage' in notice) for (const listener of surveyors) listener(notice.damage)
    else for (const listener of listeners) listener(notice)
  })
  const opened = await write.call('opened', undefined).catch((error: Error) => {
    lock.close()
    throw asUnusable(error, path)
  })
  let closing: Promise<void> | null = null
  const mourners: ((reason: string) => void)[] = []
  writer.on('exit', () => {
    if (!closing) for (const listener of mourners) listener('the thread store-writer has ended by itself')
  })
  const maxReaders = options.readers ?? defaultReaders
  const pool: Reader[] = []

  // A thread takes 9 MB and 50 ms to start, so there are only as many as were ever busy at once.
  function read(): Caller<ReaderMethods> {
    if (closing) throw new Error('the store is closed')
    const idle = pool.find(({ caller }) => caller.pending === 0)
    if (idle) return idle.caller
    if (pool.length < maxReaders) {
      const reader = startReader(path)
      pool.push(reader)
      // One that could not start, or died, fails those who asked it; the next question starts another one.
      reader.worker.on('exit', () => {
        if (!closing) pool.splice(pool.indexOf(reader), 1)
      })
      return reader.caller
    }
    return pool.reduce((least, one) => (one.caller.pending < least.caller.pending ? one : least)).caller
  }

  async function close(): Promise<void> {
    await Promise.all(pool.map(({ caller }) => caller.call('close', undefined).catch(() => {})))
    await write.call('close', undefined).catch(() => {})
    await Promise.all([writer, ...pool.map(({ worker }) => worker)].map((worker) => worker.terminate()))
    lock.close()
  }

  return {
    opened,
    append: (batch) => write.call('append', batch),
    readLog: async (query: LogQuery) => read().call('readLog', query),
    async history(query: HistoryQuery) {
      const unsealed = await write.call('head', { device: query.device })
      if (!unsealed) return null
      return read()
        .call('history', { query, unsealed })
        .catch((error: Error) => {
          // Errors lose their class between threads.
          throw error.message === TooCostly.name ? new TooCostly() : error
        })
    },
    devices: (query) => write.call('devices', query),
    latest: (query) => write.call('latest', query),
    quarantine: (query) => write.call('quarantine', query),
    quarantined: (id) => write.call('quarantined', { id }),
    removeQuarantined: (id) => write.call('removeQuarantined', { id }),
    deadLetters: (query) => write.call('deadLetters', query),
    offsetAt: async (time) => read().call('offsetAt', { time }),
    saveCredential: (credential, by) => write.call('saveCredential', { credential, by }),
    removeCredential: (id, by) => write.call('removeCredential', { id, by }),
    touchCredentials: (used) => write.call('touchCredentials', { used }),
    audit: (entry) => write.call('audit', { entry }),
    audited: (query) => write.call('audited', query),
    forget: (limits) => write.call('forget', limits),
    figures: () => write.call('figures', undefined),
    onCredentials: (listener) => void doorkeepers.push(listener),
    onStatus: (listener) => void listeners.push(listener),
    onDamage: (listener) => void surveyors.push(listener),
    onDeath: (listener) => void mourners.push(listener),
    close() {
      closing ??= close()
      return closing
    },
  }
}

function startReader(path: string): Reader {
  const worker = new Worker(new URL('./reader-thread.js', import.meta.url), {
    workerData: { path } satisfies ReaderOptions,
    name: 'store-reader',
    resourceLimits,
  })
  return { worker, caller: createCaller<ReaderMethods>(worker) }
}

type ThreadError = Partial<Error> & { code?: string }

function asUnusable(error: Error, path: string): Error {
  // Of an error that ends a thread SQLite's code arrives, and not always its words.
  const { code, message = code === 'SQLITE_NOTADB' ? 'file is not a database' : `${code}` } = error as ThreadError
  if (code === 'SQLITE_NOTADB' || code?.startsWith('SQLITE_CORRUPT')) {
    return new UnusableFile(
      `${path} is not a sound database (${message}): restore a backup with telemetry-hub restore FILE --force, or choose another --data folder`,
    )
  }
  if (isDamage(error)) return new UnusableFile(`${path}: ${message}: restore a backup, or choose another --data folder`)
  if (/^E(ROFS|ACCES|PERM)\b/.test(message)) {
    return new UnusableFile(
      `cannot write to ${path} (${message}): choose another --data folder, or change its permissions`,
    )
  }
  if (code?.startsWith('SQLITE_'))
    return new UnusableFile(`cannot open ${path} (${message}): check its permissions and the disk`)
  // Errors lose their class between threads; those that are meant for a person keep their message.
  return message.startsWith(path) ? new UnusableFile(message) : error
}
