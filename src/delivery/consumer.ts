import type { Millis } from '../../devices/reading.ts'
import type { Feed } from '../feed.ts'
import { readingsOf } from '../store/entries.ts'
import type { ConsumerChange, Offset, Store } from '../store/store.ts'
import { steadyNow } from './clock.ts'
import { createDeadLetters } from './dead-letters.ts'
import { readDeliveryId, spansOf, writeDeliveryId } from './delivery-id.ts'
import { createLogReader, type Entry, entriesOf, stretchesOf } from './log-reader.ts'
import { createPending, type Run } from './pending.ts'
import { type ConsumerSettings, devicesOf, type Rules, readRules } from './settings.ts'

/** A reading on its way to a worker. */
export interface Delivery {
  id: string
  offset: Offset
  /** 1 for the first delivery. */
  attempt: number
  /** The reading as JSON. */
  reading: string
}

/** What became of deliveries that were named. */
interface Settled {
  /** Readings that it was done to. */
  count: number
  /** Identifiers that name nothing that is pending: acknowledged before, delivered anew, or of before a seek. */
  unknown: number
}

interface ConsumerFigures {
  /** The first reading of the log that was not delivered yet. */
  next: Offset
  /** Readings of the log after the consumer's place, before its filter. */
  lag: number
  pending: number
  redelivered: number
  acknowledged: number
  deadLetters: number
  /** Readings that the log forgot before they were delivered. */
  missed: number
  /** Age of the oldest delivery that nobody has acknowledged, in milliseconds. */
  oldestPending: Millis | null
}

/** How far a consumer is, as it is kept. Everything before `next` that is not pending is done. */
export interface ConsumerState {
  /** Grows with each seek, so that identifiers of before name nothing any more. */
  epoch: number
  /** When it was kept, by the clock that `ready` of what is pending is read on. */
  at: Millis
  next: Offset
  pending: Run[]
  redelivered: number
  acknowledged: number
  missed: number
  /** Patterns of devices whose readings before an offset it may still hold, from filters of before. */
  former?: { devices: string[]; until: Offset }
}

export interface Consumer {
  readonly name: string
  readonly settings: ConsumerSettings
  /**
   * Patterns of all devices whose readings it hands out: those of its filter, and of filters before, for as long as
   * readings that passed them are pending or dead letters.
   */
  readonly devices: readonly string[]
  readonly ackWait: Millis
  /**
   * Deliveries as soon as there are any, at most `max`; none after `wait` milliseconds. First what is due again, then
   * what is new, both in the order of the log. `allowed` is asked again whenever readings are about to leave, as the
   * filter may be another one by then; none when it says no.
   */
  receive(max: number, wait: Millis, signal: AbortSignal, allowed?: () => boolean): Promise<Delivery[]>
  /** Done: never delivered again, once this has resolved. */
  acknowledge(ids: readonly string[]): Promise<Settled>
  /** The same for everything that was delivered up to and including one delivery. */
  acknowledgeUpTo(id: string): Promise<Settled>
  /** Not done: to be delivered again after a delay. `failures`: as how many deliveries this one counts. */
  release(ids: readonly string[], delay: Millis, failures?: number): Promise<Settled>
  /** Still at work: `ackWait` begins anew. */
  extend(ids: readonly string[]): Promise<Settled>
  /** Cannot be done: dead letters. */
  reject(ids: readonly string[], reason: string): Promise<Settled>
  /** Goes to another place of the log, forgetting what is pending. */
  seek(offset: Offset): Promise<void>
  /** Delivers dead letters again, those named or (`null`) all; resolves with how many, and how many the log no longer holds. */
  redrive(ids: readonly Offset[] | null): Promise<{ redriven: number; gone: number }>
  discard(ids: readonly Offset[] | null): Promise<number>
  /** Takes other settings; what is pending keeps its times. */
  change(settings: ConsumerSettings): Promise<void>
  /** Makes durable what was received since the last acknowledgement. */
  keep(): Promise<void>
  figures(now: Millis): ConsumerFigures
  /** Ends all that wait. */
  close(): void
}

export interface ConsumerOptions {
  name: string
  settings: ConsumerSettings
  state: ConsumerState
  deadLetters: readonly Offset[]
  feed: Feed
  store: Pick<Store, 'deadLetters'>
  /** Durable when it resolves. */
  save(change: () => ConsumerChange): Promise<void>
  /** Something changed that need not be durable at once. */
  onTouched(consumer: Consumer): void
}

/** An answer is not larger than a page or two of the feed, however much is due again. */
const maxAnswerBytes = 256 * 1024
/** Patterns of filters of before; when there are more, they count as one that matches all devices. */
const maxFormer = 100

export function createConsumer(options: ConsumerOptions): Consumer {
  const { name, feed, save, onTouched } = options
  let { settings } = options
  let rules: Rules = readRules(settings)
  let { epoch, next, redelivered, acknowledged, missed, former } = options.state
  const log = createLogReader(feed)
  const pending = createPending(sinceKept(options.state))
  const dead = createDeadLetters(name, options.store, options.deadLetters)
  // Workers take turns: two of them must not read the same place.
  let turn: Promise<unknown> = Promise.resolve()
  let wakers = new Set<() => void>()
  let closed = false

  function change(): ConsumerChange {
    if (!holdsFormer()) former = undefined
    const runs = [...pending.runs]
    const figures = { redelivered, acknowledged, missed }
    const state: ConsumerState = { epoch, at: steadyNow(), next, pending: runs, ...figures, ...(former && { former }) }
    return { name, settings: JSON.stringify(settings), state: JSON.stringify(state), ...dead.changes() }
  }

  function holdsFormer(): boolean {
    const until = former?.until ?? 0
    return (pending.runs[0]?.from ?? until) < until || (until > 0 && dead.anyBefore(until))
  }

  function devices(): string[] {
    const before = former && holdsFormer() ? former.devices : []
    return [...new Set([...devicesOf(settings.filter), ...before])]
  }

  function inTurn<T>(task: () => Promise<T>): Promise<T> {
    const result = turn.then(task)
    turn = result.catch(() => {})
    return result
  }

  function wake(): void {
    const woken = wakers
    wakers = new Set()
    for (const waker of woken) waker()
  }

  async function receive(max: number, wait: Millis, signal: AbortSignal, allowed = () => true): Promise<Delivery[]> {
    const deadline = performance.now() + wait
    const isOver = () => signal.aborted || closed || !allowed()
    for (;;) {
      const deliveries = await inTurn(() => (isOver() ? Promise.resolve([]) : take(max)))
      const left = deadline - performance.now()
      if (deliveries.length > 0 || left <= 0 || isOver() || feed.closed) return deliveries
      await untilThereMayBe(left, signal)
    }
  }

  /** Waits for a new reading if there is room for one, for the next that may be delivered again, or for a change. */
  async function untilThereMayBe(left: Millis, signal: AbortSignal): Promise<void> {
    const ready = pending.nextReady()
    const millis = ready === null ? left : Math.max(1, Math.min(left, ready - steadyNow()))
    const waiting = new AbortController()
    const stop = () => waiting.abort()
    wakers.add(stop)
    signal.addEventListener('abort', stop)
    const hasRoom = pending.count < rules.maxPending && !dead.full
    // Without room a new reading is no reason to wake.
    await feed.wait(hasRoom ? next : feed.end + 1, millis, waiting.signal)
    wakers.delete(stop)
    signal.removeEventListener('abort', stop)
  }

  // What is kept may be asked for between any two steps: a reading leaves one place and enters the next in one step.
  async function take(max: number): Promise<Delivery[]> {
    const now = steadyNow()
    const deliveries: Delivery[] = []
    const deadBefore = dead.count
    let bytes = 0
    for (const run of pending.ready(now, max)) {
      for (let { from } = run; from < run.to && bytes < maxAnswerBytes; ) {
        const found = await log.again({ from, to: run.to }, rules.filter.metrics)
        for (const piece of pending.cut(from, found.to)) {
          if (piece.ready > now) {
            pending.add(piece)
            continue
          }
          const own = entriesOf(found.entries, piece)
          missed += piece.to - piece.from - own.length
          if (piece.attempt >= rules.maxDeliver) bury(piece, own, 'not acknowledged after the last delivery')
          else deliver(own, piece.attempt + 1, piece.since, deliveries)
        }
        bytes += found.bytes
        from = found.to
      }
    }
    const room = Math.min(max - deliveries.length, rules.maxPending - pending.count)
    if (room > 0 && bytes < maxAnswerBytes && !dead.full) {
      const page = await log.next(next, room, rules.filter)
      if (page.oldest > next) missed += page.oldest - next
      next = Math.max(next, page.next)
      deliver(readingsOf(page), 1, Date.now(), deliveries)
    }
    if (deliveries.length > 0 || dead.count > deadBefore) onTouched(consumer)
    return deliveries
  }

  function deliver(entries: readonly Entry[], attempt: number, since: Millis, into: Delivery[]): void {
    if (attempt > 1) redelivered += entries.length
    const ready = steadyNow() + rules.ackWait + rules.backoff(attempt)
    for (const stretch of stretchesOf(entries)) pending.add({ ...stretch, attempt, ready, since })
    for (const [offset, reading] of entries) {
      into.push({ id: writeDeliveryId({ epoch, offset, attempt }), offset, attempt, reading })
    }
  }

  function bury(run: Run, entries: readonly Entry[], reason: string): void {
    for (const [offset, reading] of entries) {
      dead.bury({ offset, at: Date.now(), attempts: run.attempt, reason, reading })
    }
  }

  /** Takes the deliveries named out of what is pending. `exact`: only as long as they were not delivered anew since. */
  function cut(ids: readonly string[], exact: boolean): { runs: Run[]; settled: Settled } {
    const runs: Run[] = []
    for (const { from, to, attempt } of spansOf(ids, epoch)) {
      for (const run of pending.cut(from, to)) {
        if (exact && run.attempt !== attempt) pending.add(run)
        else runs.push(run)
      }
    }
    return { runs, settled: settledOf(runs, ids.length) }
  }

  async function kept<T>(result: T): Promise<T> {
    wake()
    await save(change)
    return result
  }

  function done({ runs, settled }: { runs: Run[]; settled: Settled }): Promise<Settled> {
    for (const { from, to } of runs) acknowledged += to - from
    return runs.length === 0 ? Promise.resolve(settled) : kept(settled)
  }

  /** Puts back what was cut, with another time. */
  function putBack({ runs, settled }: { runs: Run[]; settled: Settled }, change: (run: Run) => Partial<Run>) {
    for (const run of runs) pending.add({ ...run, ...change(run) })
    if (runs.length > 0) onTouched(consumer)
    wake()
    return Promise.resolve(settled)
  }

  const consumer: Consumer = {
    name,
    get settings() {
      return settings
    },
    get devices() {
      return devices()
    },
    get ackWait() {
      return rules.ackWait
    },
    receive,
    acknowledge: (ids) => done(cut(ids, false)),
    acknowledgeUpTo(id) {
      const last = readDeliveryId(id)
      if (last?.epoch !== epoch) return Promise.resolve({ count: 0, unknown: 1 })
      const runs = pending.cut(0, last.offset + 1)
      return done({ runs, settled: settledOf(runs, 0) })
    },
    release(ids, delay, failures = 1) {
      const ready = steadyNow() + delay
      return putBack(cut(ids, true), ({ attempt }) => ({ ready, attempt: attempt - 1 + failures }))
    },
    extend: (ids) =>
      putBack(cut(ids, true), ({ attempt }) => ({ ready: steadyNow() + rules.ackWait + rules.backoff(attempt) })),
    reject: (ids, reason) =>
      inTurn(async () => {
        const runs: Run[] = []
        for (const span of spansOf(ids, epoch)) {
          // A page at a time, so that many large readings are never in memory together.
          for (let { from } = span; from < span.to; ) {
            const found = await log.again({ from, to: span.to }, rules.filter.metrics)
            const cut = pending.cut(from, found.to)
            for (const run of cut) bury(run, entriesOf(found.entries, run), reason)
            if (cut.length > 0) await kept(undefined)
            runs.push(...cut)
            from = found.to
          }
        }
        return settledOf(runs, ids.length)
      }),
    seek: (offset) =>
      inTurn(() => {
        epoch++
        next = offset
        pending.clear()
        return kept(undefined)
      }),
    redrive: (ids) =>
      inTurn(async () => {
        let redriven = 0
        let gone = 0
        // What is on its way to the table must be there first.
        await save(change)
        for await (const letters of dead.pages(ids)) {
          for (const { offset, at } of letters) {
            const { entries } = await log.again({ from: offset, to: offset + 1 }, rules.filter.metrics)
            if (entries.length === 0) {
              gone++
              continue
            }
            // After a seek it may be pending anew, or come by itself.
            pending.cut(offset, offset + 1)
            if (offset < next) pending.add({ from: offset, to: offset + 1, attempt: 0, ready: 0, since: at })
            dead.raise(offset)
            redriven++
          }
        }
        return kept({ redriven, gone })
      }),
    discard: (ids) =>
      inTurn(async () => {
        let count = 0
        await save(change)
        for await (const letters of dead.pages(ids)) {
          for (const { offset } of letters) dead.raise(offset)
          count += letters.length
        }
        return kept(count)
      }),
    // In its turn: nobody is handed a reading by one filter who was let in by another.
    change: (given) =>
      inTurn(() => {
        const read = readRules(given)
        const before = devices()
        former = { devices: before.length > maxFormer ? ['*'] : before, until: next }
        rules = read
        settings = given
        return kept(undefined)
      }),
    keep: () => save(change),
    figures(now) {
      let oldest = Number.POSITIVE_INFINITY
      for (const { since } of pending.runs) oldest = Math.min(oldest, since)
      return {
        next: Math.max(next, 1),
        lag: Math.max(0, feed.end - Math.max(next, 1)),
        pending: pending.count,
        redelivered,
        acknowledged,
        deadLetters: dead.count,
        missed,
        oldestPending: pending.count === 0 ? null : Math.max(0, now - oldest),
      }
    },
    close() {
      closed = true
      wake()
    },
  }
  return consumer
}

/** What is pending, where the clock was turned back since: no delivery waits longer than it was to wait. */
function sinceKept({ at, pending }: ConsumerState): Run[] {
  const back = Math.max(0, (at ?? 0) - steadyNow())
  return pending.map((run) => ({ ...run, ready: run.ready - back }))
}

function settledOf(runs: readonly Run[], named: number): Settled {
  const count = runs.reduce((sum, { from, to }) => sum + to - from, 0)
  return { count, unknown: Math.max(0, named - count) }
}
