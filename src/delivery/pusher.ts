import { setMaxListeners } from 'node:events'
import { type Breaker, createBreaker, type Leave, retryMillis } from './breaker.ts'
import { type Clock, systemClock } from './clock.ts'
import type { Attempt, Post } from './post.ts'
import type { PushSettings } from './push-settings.ts'
import { createRate } from './rate.ts'

/** Deliveries that one request carries. They are leased: nobody else gets them until they are released, or too late. */
export interface Batch {
  /** The webhook-id, by which receivers know a repetition: printable ASCII without full stop, unique in the hub. */
  id: string
  /**
   * After so many failures that are its own the source wants the batch back, to count them and to put its deliveries
   * among the dead letters: the least that `maxDeliver` leaves to one of them. At least 1.
   */
  attemptsLeft: number
  deliveries: readonly { id: string; attempt: number; reading: string }[]
}

/** The consumer, as its pusher sees it. A rejection is taken for a store that is out of order, and tried again. */
export interface Source {
  /** What a lease lasts when it is not extended. */
  readonly leaseMillis: number
  /**
   * Resolves with up to `max` deliveries, or fewer when readings are large; as soon as there are `max`, or `waitMillis`
   * after the first. Waits for that first as long as it takes; `null` when the signal is aborted, or for no reason.
   * Called by one at a time.
   */
  receive(max: number, waitMillis: number, signal: AbortSignal): Promise<Batch | null>
  /** The deliveries are done with. Ids that are not leased any more are passed over. */
  acknowledge(ids: readonly string[]): Promise<void>
  /**
   * Gives deliveries back, to be delivered again at once. `failures` is how many attempts at them were their own fault
   * and count towards `maxDeliver`; being received does not count in itself.
   */
  release(ids: readonly string[], outcome: { failures: number; reason: string }): Promise<void>
  /** The leases last `leaseMillis` from now. `false` when they were taken away, as a seek does: the batch is dropped. */
  extend(ids: readonly string[]): Promise<boolean>
}

/** One line of the list of attempts. */
interface PushAttempt extends Attempt {
  batch: string
  /** Ids of deliveries; `null` for a test. */
  first: string | null
  last: string | null
  readings: number
}

interface PushFigures {
  /** Readings that the receiver has taken. */
  delivered: number
  /** Attempts that have failed. */
  failed: number
  /** `failing`: some batch is being tried again; `open`: the receiver is taken for down and only probed. */
  state: 'healthy' | 'failing' | 'open' | 'disabled'
  /** Milliseconds since the epoch; `null` when nothing waits for its time. */
  nextAttemptAt: number | null
  /** Batches in memory. */
  held: number
}

export interface Pusher {
  /** Begins, unless the settings say that the webhook is disabled. */
  start(): void
  /** Sends one signed `{"type":"test"}`, in whatever state. Never rejects. */
  test(): Promise<Attempt>
  figures(): PushFigures
  /** The last hundred, newest first. */
  attempts(): PushAttempt[]
  /**
   * Sends no more, aborts what is under way after `graceMillis`, gives all batches back and resolves. A request that
   * ends in time is no repetition for whoever reads next. Twice is fine. Never rejects.
   */
  stop(graceMillis?: number): Promise<void>
}

export interface PusherOptions {
  /** Name of the consumer. */
  name: string
  source: Source
  settings: PushSettings
  post: Post
  /** The receiver has answered 410. The pusher has stopped by itself, or is about to. Must not throw. */
  onDisabled(reason: string): void
  clock?: Clock
  random?: () => number
}

/**
 * Batches that may wait for their next attempt while others are on their way, so that one that the receiver cannot
 * stomach holds up nobody. This and the concurrency bound the memory of a pusher.
 */
const spareBatches = 8
const maxAttempts = 100
/** Before a source that has failed, or has had nothing, is asked again. */
const sourcePauseMillis = 500

/** A batch on its way: its readings are in the body only. */
interface Held {
  id: string
  attemptsLeft: number
  ids: string[]
  body: Buffer
  /** Attempts that failed, for the back-off. */
  tries: number
  /** Those of them that were the batch's own fault. */
  failures: number
  /** How much the receiver had accepted when it last refused this batch; `null` when that was no fault of the batch. */
  acceptedAtFailure: number | null
  dueAt: number
  busy: boolean
  reason: string
}

/**
 * Moves a consumer's cursor by posting what it delivers.
 *
 * A batch is held, and its lease extended, until the receiver has accepted it: so its webhook-id and its body stay the
 * same over all attempts. A failure is held against a batch only once the receiver has accepted another one since. So an
 * outage, or a receiver that refuses everything, throws nothing into the dead letters, however long it takes; a batch
 * that the receiver cannot take gets there in the end. Only when it refuses all batches that may be held, one by one,
 * and nothing between them, do they look like an outage.
 */
export function createPusher(options: PusherOptions): Pusher {
  const { name, source, settings, post, onDisabled, clock = systemClock, random = Math.random } = options
  const breaker: Breaker = createBreaker()
  const rate = createRate(settings.ratePerSecond)
  const held = new Set<Held>()
  const tasks = new Set<Promise<void>>()
  const attempts: PushAttempt[] = []
  /** Ends the receiving; the second one the requests; the third one tests, too. */
  const taking = new AbortController()
  const running = new AbortController()
  const testing = new AbortController()
  // Each request listens for the end, and there may be more than the ten from which on Node warns.
  setMaxListeners(0, running.signal, testing.signal)
  let disabled = settings.disabled !== null
  let started = false
  let receiving = false
  let receiveAt = 0
  let inFlight = 0
  let accepted = 0
  let delivered = 0
  let failed = 0
  let tests = 0
  let stopped: Promise<void> | null = null
  let callOffTurn = (): void => {}
  let callOffExtension = (): void => {}

  /** Starts all that may start now, and comes back when more may. Called after every change. */
  function turn(): void {
    callOffTurn()
    if (taking.signal.aborted) return
    const now = clock.now()
    const waiting = [...held].filter(({ busy }) => !busy).sort((a, b) => a.dueAt - b.dueAt)
    for (const one of waiting) {
      if (inFlight >= settings.concurrency || startOf(one, now) > now) break
      begin(one, now)
    }
    const ready = waiting.filter((one) => !one.busy && held.has(one))
    // Readings that could not be sent at once are better off in the log. While the circuit is open, there is always one
    // batch to probe with that has not failed: of those that have, each may be one that the receiver cannot take.
    const wanting = breaker.isOpen
      ? !ready.some(({ tries }) => tries === 0)
      : inFlight < settings.concurrency && !ready.some(({ dueAt }) => dueAt <= now)
    if (wanting && !receiving && held.size < settings.concurrency + spareBatches && receiveAt <= now) track(receive())

    const times = ready.length > 0 && inFlight < settings.concurrency ? [startOf(ready[0] as Held, now)] : []
    if (wanting && receiveAt > now) times.push(receiveAt)
    const next = Math.min(...times)
    if (Number.isFinite(next)) callOffTurn = clock.after(Math.max(1, next - now), turn)
  }

  /** When a batch may be attempted. While the circuit is open its probes have their own times. */
  function startOf(one: Held, now: number): number {
    return Math.max(breaker.isOpen ? 0 : one.dueAt, breaker.nextAttemptAt, rate.nextAt(now))
  }

  function begin(one: Held, now: number): void {
    if (one.acceptedAtFailure !== null && accepted > one.acceptedAtFailure) {
      one.failures++
      one.acceptedAtFailure = null
      if (one.failures >= one.attemptsLeft) return track(letGo(one))
    }
    const leave = breaker.begin(now)
    if (!leave) return
    rate.take(now)
    one.busy = true
    inFlight++
    track(attempt(one, leave))
  }

  async function receive(): Promise<void> {
    receiving = true
    let batch: Batch | null = null
    try {
      batch = await source.receive(settings.batch, settings.batchWaitMillis, taking.signal)
    } catch {
      // A store that is out of order: asked again after the pause below.
    }
    receiving = false
    if (!batch || batch.deliveries.length === 0) {
      receiveAt = clock.now() + sourcePauseMillis
      return
    }
    const one: Held = {
      id: batch.id,
      attemptsLeft: batch.attemptsLeft,
      ids: batch.deliveries.map(({ id }) => id),
      body: bodyOf('readings', batch.deliveries),
      tries: 0,
      failures: 0,
      acceptedAtFailure: null,
      dueAt: clock.now(),
      busy: false,
      reason: '',
    }
    // Who has stopped meanwhile gives it back with all others.
    held.add(one)
  }

  async function attempt(one: Held, leave: Leave): Promise<void> {
    const result = await send({ id: one.id, body: one.body }, running.signal)
    inFlight--
    if (running.signal.aborted && result.error !== null) {
      one.busy = false
      return breaker.abandon(leave)
    }
    note(result, one.id, one.ids)
    if (result.error === null) {
      const wasOpen = breaker.isOpen
      breaker.succeed(leave)
      accepted++
      delivered += one.ids.length
      // The receiver is back: who waited for that need not wait for his turn as well.
      if (wasOpen) for (const other of held) other.dueAt = clock.now()
      turn()
      return acknowledge(one)
    }
    failed++
    one.busy = false
    one.tries++
    one.reason = result.error
    const now = clock.now()
    if (result.status === 410) {
      breaker.abandon(leave)
      return disable(`the receiver answered 410 (Gone) at ${new Date(clock.wall()).toISOString()}`)
    }
    breaker.fail(leave, now, result.retryAfterMillis)
    // "Later" is no verdict on the batch.
    const later = result.status === 429 || result.retryAfterMillis !== null
    one.acceptedAtFailure = later ? null : accepted
    one.dueAt = now + Math.max(result.retryAfterMillis ?? 0, retryMillis(one.tries, random))
  }

  /** What was accepted must not come again only because the store was busy: tried until it works, or the hub stops. */
  async function acknowledge(one: Held): Promise<void> {
    for (let tries = 1; held.has(one); tries++) {
      try {
        await source.acknowledge(one.ids)
        held.delete(one)
      } catch {
        if (running.signal.aborted) held.delete(one)
        else await pause(sourcePauseMillis + retryMillis(tries, random))
      }
    }
  }

  async function letGo(one: Held): Promise<void> {
    held.delete(one)
    // When this fails, the lease runs out, and the source sees for itself.
    await source.release(one.ids, { failures: one.failures, reason: one.reason }).catch(() => {})
  }

  async function send(message: { id: string; body: Buffer }, signal: AbortSignal): Promise<Attempt> {
    const at = clock.wall()
    try {
      return await post(message, signal)
    } catch (error) {
      const words = `BUG: ${(error as Error).message}`
      return { at, status: null, durationMillis: clock.wall() - at, error: words, retryAfterMillis: null }
    }
  }

  function note(attempt: Attempt, batch: string, ids: string[]): void {
    attempts.push({ ...attempt, batch, first: ids[0] ?? null, last: ids.at(-1) ?? null, readings: ids.length })
    if (attempts.length > maxAttempts) attempts.shift()
  }

  function bodyOf(type: 'readings' | 'test', deliveries: Batch['deliveries'] | null): Buffer {
    const readings = deliveries ? `,"readings":[${deliveries.map(({ reading }) => reading).join(',')}]` : ''
    const timestamp = new Date(clock.wall()).toISOString()
    return Buffer.from(
      `{"type":"${type}","timestamp":"${timestamp}","data":{"consumer":${JSON.stringify(name)}${readings}}}`,
    )
  }

  function extend(): void {
    for (const one of held) {
      const extended = source.extend(one.ids).then(
        (kept) => {
          // What is on its way stays there; its outcome will move nothing.
          if (!kept) held.delete(one)
        },
        () => {},
      )
      track(extended)
    }
    callOffExtension = clock.after(source.leaseMillis / 3, extend)
  }

  function pause(millis: number): Promise<void> {
    return new Promise((resolve) => {
      const finish = (): void => {
        callOff()
        running.signal.removeEventListener('abort', finish)
        resolve()
      }
      const callOff = clock.after(millis, finish)
      if (running.signal.aborted) finish()
      else running.signal.addEventListener('abort', finish)
    })
  }

  function track(task: Promise<void>): void {
    tasks.add(task)
    void task.finally(() => {
      tasks.delete(task)
      turn()
    })
  }

  function disable(reason: string): void {
    if (disabled) return
    disabled = true
    void halt(0)
    onDisabled(reason)
  }

  function halt(graceMillis: number): Promise<void> {
    stopped ??= end(graceMillis)
    return stopped
  }

  async function end(graceMillis: number): Promise<void> {
    taking.abort()
    callOffTurn()
    if (graceMillis > 0 && inFlight > 0) await Promise.race([Promise.all(tasks), pause(graceMillis)])
    running.abort()
    callOffExtension()
    while (tasks.size > 0) await Promise.all(tasks)
    await Promise.all([...held].map(letGo))
  }

  return {
    start() {
      if (started || disabled || stopped) return
      started = true
      callOffExtension = clock.after(source.leaseMillis / 3, extend)
      turn()
    },
    async test() {
      const id = `test_${clock.wall().toString(36)}_${++tests}`
      const result = await send({ id, body: bodyOf('test', null) }, testing.signal)
      note(result, id, [])
      return result
    },
    figures() {
      const now = clock.now()
      const trying = [...held].filter(({ tries }) => tries > 0)
      const waiting = [...held].filter(({ busy }) => !busy)
      const next = disabled ? Number.POSITIVE_INFINITY : Math.min(...waiting.map((one) => startOf(one, now)))
      const isFailing = trying.length > 0 || breaker.failures > 0
      return {
        delivered,
        failed,
        state: disabled ? 'disabled' : breaker.isOpen ? 'open' : isFailing ? 'failing' : 'healthy',
        nextAttemptAt: Number.isFinite(next) ? Math.round(clock.wall() + Math.max(0, next - now)) : null,
        held: held.size,
      }
    },
    attempts: () => [...attempts].reverse(),
    stop(graceMillis = 0) {
      testing.abort()
      return halt(graceMillis)
    },
  }
}
