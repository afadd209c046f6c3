import type { Reading } from './frame.ts'
import { createLease, type Lease, readMillis } from './lease.ts'
import { linkSignal, pause, pauseMillis } from './retry.ts'
import type { Transport } from './transport.ts'

export interface Delivery {
  /** Of this attempt; what `acknowledge` and the others take. */
  id: string
  /** 1 for the first time. */
  attempt: number
  reading: Reading
}

/**
 * Returns, and the work is acknowledged. Throws, and it is released; an error with a `delay` such as `10s` says for how
 * long. Throws a `RejectError`, and it goes to the dead letters.
 */
export type Handler<Work> = (work: Work, context: HandlerContext) => unknown

export interface HandlerContext {
  /** Aborted when the lease is lost: somebody else gets the work, and this result counts no more. */
  signal: AbortSignal
  /** Extends the lease now. Not needed while the event loop turns: that happens by itself. */
  extend(): Promise<void>
}

export interface ProcessOptions {
  /** Workers, each with a batch of its own; 4 unless told. */
  concurrency?: number
  /** Deliveries that a worker receives at once; 100 unless told. */
  batch?: number
  /** How long the hub waits for a first delivery; 20 s unless told. */
  waitMillis?: number
  /** Hears what went wrong and did not end the loop: what handlers threw, and results that could not be told in time. */
  onError?: (error: unknown, deliveries: Delivery[]) => void
  /** Begins no more work, lets what runs finish, gives back the rest; then the promise resolves. */
  signal?: AbortSignal
}

/** To be thrown by a handler: this can never be processed. */
export class RejectError extends Error {
  override readonly name = 'RejectError'
}

export interface WorkersOptions extends ProcessOptions {
  transport: Transport
  /** Of the consumer. */
  path: string
  /** What the handler gets at once: a part of a batch, by its length, or all of it. */
  groupSize: number
  handler: Handler<Delivery[]>
}

/** An answer without deliveries that comes so soon was not waited for; the hub is not asked again at once. */
const earlyMillis = 500
const forever = () => Number.POSITIVE_INFINITY
const unheard = () => {}

/** Runs until the signal is aborted, or until the hub refuses for good, which is thrown when running work has ended. */
export async function runWorkers(options: WorkersOptions): Promise<void> {
  const { transport, path, groupSize, handler, signal, onError = unheard } = options
  const { concurrency = 4, batch = 100, waitMillis = 20_000 } = options
  // Stops the workers: by the caller's signal, or when one of them has been refused.
  const { controller, release } = linkSignal(signal)
  const stop = controller.signal
  const acknowledgements = createAcknowledgements((ids, deadline) => post('acknowledge', { ids }, deadline), onError)

  function post(action: string, body: unknown, deadline: () => number): Promise<void> {
    return transport.request({ method: 'POST', path: `${path}/${action}`, body, deadline })
  }

  async function work(ackWaitMillis: number): Promise<void> {
    let earlyAnswers = 0
    while (!stop.aborted) {
      const begin = Date.now()
      const { deliveries } = await transport.request<{ deliveries: Delivery[] }>({
        method: 'POST',
        path: `${path}/receive`,
        body: { max: batch, wait: `${waitMillis / 1000}s` },
        waitMillis,
        signal: stop,
        deadline: forever,
      })
      if (deliveries.length > 0) {
        earlyAnswers = 0
        await handleBatch(deliveries, ackWaitMillis)
      } else if (Date.now() - begin < earlyMillis) await pause(pauseMillis(++earlyAnswers, null), stop)
    }
  }

  async function handleBatch(deliveries: Delivery[], ackWaitMillis: number): Promise<void> {
    const lease = createLease(
      deliveries.map(({ id }) => id),
      ackWaitMillis,
      (ids, deadline) => post('extend', { ids }, deadline),
    )
    try {
      for (let from = 0; from < deliveries.length && !lease.signal.aborted; from += groupSize) {
        if (stop.aborted) return await settle('release', deliveries.slice(from), lease)
        await handleGroup(deliveries.slice(from, from + groupSize), lease)
      }
      if (lease.signal.aborted) onError(lease.signal.reason, deliveries)
    } finally {
      lease.end()
    }
  }

  async function handleGroup(group: Delivery[], lease: Lease): Promise<void> {
    let failure: { error: unknown } | null = null
    try {
      await handler(group, { signal: lease.signal, extend: lease.extend })
    } catch (error) {
      failure = { error }
    }
    // After it the hub has answered: a late extension cannot meet an id that is settled.
    await lease.drop(group.map(({ id }) => id))
    if (failure !== null) onError(failure.error, group)
    if (lease.signal.aborted) return
    if (failure === null) acknowledgements.add(group, lease.endsAt)
    else if (failure.error instanceof RejectError)
      await settle('reject', group, lease, { reason: failure.error.message })
    else await settle('release', group, lease, delayOf(failure.error))
  }

  /** Tells the hub, for as long as the lease lasts. After that it knows by itself: the delivery comes again. */
  async function settle(action: 'release' | 'reject', group: Delivery[], lease: Lease, more = {}): Promise<void> {
    try {
      const ids = group.map(({ id }) => id)
      await lease.drop(ids)
      await post(action, { ids, ...more }, () => lease.endsAt)
    } catch (error) {
      onError(error, group)
    }
  }

  async function runWorker(ackWaitMillis: number): Promise<void> {
    try {
      await work(ackWaitMillis)
    } catch (error) {
      const stopped = stop.aborted
      controller.abort()
      if (!stopped) throw error
    }
  }

  try {
    if (stop.aborted) return
    const state = await transport.request<{ ackWait: string }>({ method: 'GET', path, signal: stop, deadline: forever })
    const ackWaitMillis = readMillis(state.ackWait)
    const ends = await Promise.allSettled(Array.from({ length: concurrency }, () => runWorker(ackWaitMillis)))
    await acknowledgements.flush()
    for (const end of ends) if (end.status === 'rejected') throw end.reason
  } catch (error) {
    if (!signal?.aborted) throw error
  } finally {
    release()
  }
}

function delayOf(error: unknown): { delay?: string } {
  const delay = typeof error === 'object' && error !== null && 'delay' in error ? error.delay : undefined
  return typeof delay === 'string' ? { delay } : {}
}

/** One request at a time; what finishes meanwhile goes with the next, so that small work costs few requests. */
function createAcknowledgements(
  send: (ids: string[], deadline: () => number) => Promise<void>,
  onError: (error: unknown, deliveries: Delivery[]) => void,
) {
  let waiting: Delivery[] = []
  let endsAt = 0
  let running: Promise<void> | null = null

  async function run(): Promise<void> {
    while (waiting.length > 0) {
      const group = waiting
      waiting = []
      const deadline = endsAt
      await send(
        group.map(({ id }) => id),
        () => deadline,
      ).catch((error) => onError(error, group))
    }
    running = null
  }

  return {
    add(group: Delivery[], groupEndsAt: number): void {
      waiting.push(...group)
      endsAt = Math.max(endsAt, groupEndsAt)
      running ??= run()
    },
    async flush(): Promise<void> {
      await running
    },
  }
}
