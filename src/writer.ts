import type { Reading } from '../devices/reading.ts'
import type { Delivery, Handshake, Note, Outcome, Sink } from '../devices/sink.ts'
import { cardinality, type Dictionary } from './dictionary.ts'
import { createRecordBuilder } from './store/record.ts'
import type { Appended, Batch, ConsumerChange, HandshakeEntry, Offset, Store } from './store/store.ts'

export interface Writer extends Sink {
  /**
   * Makes the state of a consumer durable, in the next commit. `change` is asked when that is put together, once for
   * all who want it kept by then. Rejects when the hub is closing and nothing was kept.
   */
  keep(consumer: string, change: () => ConsumerChange): Promise<void>
  /** Resolves when everything that was accepted so far is answered. */
  settled(): Promise<void>
  /** Refuses what comes from now on, and commits what waits. */
  close(): Promise<void>
  readonly figures: WriterFigures
}

/** Counted since the start. */
export interface WriterFigures {
  readings: number
  values: number
  duplicates: number
  rejected: number
  commits: number
}

/** What was committed: the place in the log, and its records as the log holds them. */
export interface Committed {
  first: Offset
  count: number
  records: Uint8Array
}

interface Waiting {
  /** The delivery's readings are those of the batch from `first` on. */
  first: number
  count: number
  done: (outcome: Outcome) => void
}

/** A batch on its way to the disk, and who waits for it. */
interface Commit {
  batch: Batch
  group: Waiting[]
  appended: Promise<Appended>
}

/**
 * Group commit: collects what arrives while the last commit runs, and commits it as soon as that has ended. There is
 * no timer and no queue to tune: a busy hub makes large commits, an idle one small and immediate ones.
 *
 * `onCommit` hears of each commit after it is on disk and before its deliveries do.
 */
export function createWriter(store: Store, dictionary: Dictionary, onCommit: (committed: Committed) => void): Writer {
  const records = createRecordBuilder()
  let next = emptyBatch()
  let waiting: Waiting[] = []
  let committing: Promise<void> | null = null
  let closed: string | null = null
  const figures: WriterFigures = { readings: 0, values: 0, duplicates: 0, rejected: 0, commits: 0 }
  const numbers: number[] = []
  const changes = new Map<string, () => ConsumerChange>()
  const notes = new Map<string, Uint8Array | null>()

  function accept(delivery: Delivery, done: (outcome: Outcome) => void): void {
    if (closed !== null) return done(refused(closed))
    const first = records.count
    for (const reading of delivery.readings) addReading(reading, delivery)
    for (const { payload, reason } of delivery.rejected) quarantine(delivery, payload, reason)
    for (const handshake of delivery.handshakes) next.handshakes.push(toEntry(handshake))
    for (const [key, value] of delivery.notes) notes.set(key, value)
    wait({ first, count: records.count - first, done })
  }

  function note(given: readonly Note[], done: (failure: string | null) => void): void {
    if (closed !== null) return done(closed)
    for (const [key, value] of given) notes.set(key, value)
    wait({ first: records.count, count: 0, done: ({ failure }) => done(failure) })
  }

  function addReading(reading: Reading, delivery: Delivery): void {
    const device = dictionary.device(reading.device, next)
    if (!device) return refuse(reading, delivery, `the hub has ${cardinality.maxDevices} devices, its limit`)
    numbers.length = reading.metrics.length
    for (let i = 0; i < reading.metrics.length; i++) {
      const metric = dictionary.metric(reading.metrics[i] as string, next)
      if (metric === 0) return refuse(reading, delivery, `the hub has ${cardinality.maxMetrics} metrics, its limit`)
      numbers[i] = metric
    }
    const { received } = delivery
    const stamped = reading.ts === null
    const ts = reading.ts ?? Math.max(received, device.lastStamp + 1)
    if (stamped) device.lastStamp = ts
    records.add(device.id, received, ts, stamped, numbers, reading.values)
    figures.values += numbers.length
  }

  function refuse(reading: Reading, delivery: Delivery, reason: string): void {
    const values = Object.fromEntries(reading.metrics.map((metric, i) => [metric, reading.values[i]]))
    quarantine(delivery, JSON.stringify(reading.ts === null ? values : { ts: reading.ts, values }), reason)
  }

  function quarantine({ origin, received, device }: Delivery, payload: string | Uint8Array, reason: string): void {
    figures.rejected++
    next.quarantine.push({ received, origin, device, reason, payload })
  }

  function keep(consumer: string, change: () => ConsumerChange): Promise<void> {
    return new Promise((resolve, reject) => {
      if (closed !== null) return reject(new Error(closed))
      changes.set(consumer, change)
      const done = ({ failure }: Outcome) => (failure === null ? resolve() : reject(new Error(failure)))
      wait({ first: records.count, count: 0, done })
    })
  }

  function discard(client: string): void {
    if (closed !== null) return
    next.handshakes.push([client, 0, 0])
    commitSoon()
  }

  function wait(entry: Waiting): void {
    waiting.push(entry)
    commitSoon()
  }

  // A turn later, so that what one chunk of one socket holds goes into one commit.
  function commitSoon(): void {
    committing ??= new Promise<void>((resolve) => setImmediate(resolve)).then(commitAll)
  }

  async function commitAll(): Promise<void> {
    let current = startCommit()
    while (current) {
      const outcome = await current.appended.catch((error: Error) => error)
      // The next commit is under way before the last one is answered: the disk need not wait for the sockets.
      const following = startCommit()
      finish(current, outcome)
      current = following ?? startCommit()
    }
    committing = null
  }

  function startCommit(): Commit | null {
    if (waiting.length === 0 && next.handshakes.length === 0) return null
    const batch = next
    const group = waiting
    batch.count = records.count
    batch.received = Date.now()
    for (const change of changes.values()) batch.consumers.push(change())
    changes.clear()
    if (notes.size > 0) {
      batch.notes = [...notes]
      notes.clear()
    }
    batch.records = batch.count > 0 ? records.take() : null
    next = emptyBatch()
    waiting = []
    return { batch, group, appended: store.append(batch) }
  }

  function finish({ batch, group }: Commit, outcome: Appended | Error): void {
    if (outcome instanceof Error) {
      closed ??= `nothing more is stored: ${outcome.message}`
      for (const { done } of group) done(refused(closed))
      return
    }
    figures.commits++
    figures.readings += outcome.count
    figures.duplicates += outcome.duplicates.length
    const stored = outcome.records ?? batch.records
    if (outcome.count > 0 && stored) onCommit({ first: outcome.first, count: outcome.count, records: stored })
    answer(group, outcome)
  }

  // A delivery without content takes its turn like any other.
  function settled(): Promise<void> {
    if (!committing || closed !== null) return Promise.resolve()
    return new Promise((resolve) => wait({ first: records.count, count: 0, done: () => resolve() }))
  }

  return {
    accept,
    note,
    keep,
    settled,
    discard,
    figures,
    async close() {
      // From here on nothing joins what waits: whoever goes on sending could keep the commits going for ever.
      closed ??= 'the hub is stopping'
      while (committing) await committing
    },
  }
}

/** Tells each delivery what became of its own readings. */
function answer(group: readonly Waiting[], { first, duplicates }: Appended): void {
  let passed = 0
  for (const waiting of group) {
    const before = passed
    const end = waiting.first + waiting.count
    while (passed < duplicates.length && (duplicates[passed] as number) < end) passed++
    const own = passed - before
    waiting.done({ failure: null, accepted: waiting.count - own, duplicates: own, offset: first + end - passed })
  }
}

function toEntry({ client, packetId, digest }: Handshake): HandshakeEntry {
  return digest === null ? [client, -packetId, 0] : [client, packetId, digest]
}

function refused(failure: string): Outcome {
  return { failure, accepted: 0, duplicates: 0, offset: 0 }
}

function emptyBatch(): Batch {
  return {
    records: null,
    count: 0,
    received: 0,
    newDevices: [],
    newMetrics: [],
    quarantine: [],
    handshakes: [],
    consumers: [],
    notes: [],
  }
}
