import type { Transport } from './transport.ts'
import { type Delivery, type Handler, type ProcessOptions, runWorkers } from './workers.ts'

/** What a consumer is told to be; times are texts such as `30s`. Members that are left out keep the hub's defaults. */
export interface ConsumerSettings {
  filter?: { device?: string; metric?: string }
  /** Where a new one begins: a cursor, `earliest` or `latest`. */
  start?: string
  /** How long a delivery may take before it goes to somebody else. */
  ackWait?: string
  maxDeliver?: number
  maxPending?: number
  /** A webhook's settings, or `null` for a consumer that is pulled from. */
  push?: Record<string, unknown> | null
}

/** What the hub says of a consumer: its settings, and how far it is. */
export interface ConsumerState extends ConsumerSettings {
  name: string
  ackWait: string
  lag: number
  pending: number
  redelivered: number
}

/** A named, durable cursor on the hub, shared by all who receive from it. */
export interface Consumer {
  readonly name: string
  /** Creates it, or sets an existing one anew. */
  create(settings?: ConsumerSettings): Promise<ConsumerState>
  get(): Promise<ConsumerState>
  update(settings: ConsumerSettings): Promise<ConsumerState>
  delete(): Promise<void>
  /** Deliveries as soon as there are any, or none after the wait. */
  receive(options?: ReceiveOptions): Promise<{ deliveries: Delivery[]; lag: number }>
  /** Done with these, or with all up to one of them. */
  acknowledge(ids: string[] | { upTo: string }): Promise<void>
  /** To be delivered again, to whomever, after the delay: `10s`. */
  release(ids: string[], delay?: string): Promise<void>
  /** Their time begins anew. */
  extend(ids: string[]): Promise<void>
  /** Never again: they go to the dead letters. */
  reject(ids: string[], reason?: string): Promise<void>
  /** A cursor, `earliest`, `latest`, or milliseconds since the epoch. */
  seek(to: string | number): Promise<void>
  /** Runs the handler on each delivery until the signal is aborted. */
  process(handler: Handler<Delivery>, options?: ProcessOptions): Promise<void>
  /** The same with whole batches: all of one are acknowledged, released or rejected together. */
  processBatches(handler: Handler<Delivery[]>, options?: ProcessOptions): Promise<void>
}

export interface ReceiveOptions {
  /** 100 unless told. */
  max?: number
  /** How long the hub waits for a first delivery; 20 s unless told. */
  waitMillis?: number
  signal?: AbortSignal
}

const defaultMax = 100
const defaultWaitMillis = 20_000

export function createConsumer(transport: Transport, name: string): Consumer {
  const path = `v1/consumers/${encodeURIComponent(name)}`
  const call = <T>(method: string, body?: unknown, at = path) => transport.request<T>({ method, path: at, body })
  const post = (action: string, body: unknown) => call<void>('POST', body, `${path}/${action}`)
  const run = (handler: Handler<Delivery[]>, groupSize: number, options: ProcessOptions) =>
    runWorkers({ ...options, transport, path, handler, groupSize })

  return {
    name,
    create: (settings = {}) => call('PUT', settings),
    get: () => call('GET'),
    update: (settings) => call('PATCH', settings),
    delete: () => call('DELETE'),
    receive: ({ max = defaultMax, waitMillis = defaultWaitMillis, signal } = {}) =>
      transport.request({
        method: 'POST',
        path: `${path}/receive`,
        body: { max, wait: `${waitMillis / 1000}s` },
        waitMillis,
        signal,
      }),
    acknowledge: (ids) => post('acknowledge', Array.isArray(ids) ? { ids } : ids),
    release: (ids, delay) => post('release', { ids, delay }),
    extend: (ids) => post('extend', { ids }),
    reject: (ids, reason) => post('reject', { ids, reason }),
    seek: (to) => post('seek', { to }),
    process: (handler, options = {}) =>
      run(([delivery], context) => handler(delivery as Delivery, context), 1, options),
    processBatches: (handler, options = {}) => run(handler, Number.POSITIVE_INFINITY, options),
  }
}
