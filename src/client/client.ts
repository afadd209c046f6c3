import { type Consumer, createConsumer } from './consumer.ts'
import { type FeedBatch, type FeedOptions, readFeed } from './feed.ts'
import { type ClientOptions, createTransport } from './transport.ts'

export type { Consumer, ConsumerSettings, ConsumerState, ReceiveOptions } from './consumer.ts'
export type { FeedBatch, FeedOptions } from './feed.ts'
export type { FeedMode } from './feed-modes.ts'
export type { Reading } from './frame.ts'
export { type ProblemDetails, ProblemError } from './problem.ts'
export type { ClientOptions } from './transport.ts'
export { type Delivery, type Handler, type HandlerContext, type ProcessOptions, RejectError } from './workers.ts'

/** A reading to be pushed. Without `ts` the hub stamps the arrival. */
export interface NewReading {
  device: string
  /** Milliseconds since the epoch, or RFC 3339. */
  ts?: number | string
  values: Record<string, unknown>
}

export interface Pushed {
  /** On disk now, and not before. */
  accepted: number
  duplicates: number
  /** What could not be read, by its place in the array from 1; the hub keeps it in its quarantine. */
  rejected?: { line: number; reason: string }[]
  /** The place in the log after these readings. */
  cursor: string
}

export interface Client {
  /** All readings from a place on, for ever: `for await (const { readings, cursor } of client.feed({ after }))`. */
  feed(options?: FeedOptions): AsyncGenerator<FeedBatch, void, void>
  consumer(name: string): Consumer
  /**
   * Resolves when the readings are committed, synced and visible. A failure is repeated only when all have a `ts`, as
   * the hub stores such a reading once however often it comes.
   */
  push(readings: NewReading[], options?: { signal?: AbortSignal }): Promise<Pushed>
}

/** Opens nothing yet. */
export function createClient(options: ClientOptions): Client {
  const transport = createTransport(options)
  return {
    feed: (feedOptions) => readFeed(transport, feedOptions),
    consumer: (name) => createConsumer(transport, name),
    push: (readings, { signal } = {}) =>
      transport.request({
        method: 'POST',
        path: 'v1/telemetry',
        body: readings,
        signal,
        once: readings.some(({ ts }) => ts === undefined),
      }),
  }
}
