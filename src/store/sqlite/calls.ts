import type { MessagePort, TransferListItem, Worker } from 'node:worker_threads'

/*
 * Calls from one thread to another. An answer may name buffers that move instead of being copied.
 */

/** What a thread offers, each taking one argument and answering at once or later. */
// biome-ignore lint/suspicious/noExplicitAny: each method has its own argument; `Caller` gives it back its type.
type Methods = Record<string, (argument: any) => unknown>

interface Request {
  id: number
  method: string
  argument: unknown
}

type Response = { id: number; result: unknown } | { id: number; error: Error } | { notice: unknown }

/** An answer together with the buffers that move to the caller. */
export class Moved<T> {
  readonly result: T
  readonly transfer: TransferListItem[]

  constructor(result: T, transfer: TransferListItem[]) {
    this.result = result
    this.transfer = transfer
  }
}

export function serveCalls(port: MessagePort, methods: Methods): void {
  port.on('message', async ({ id, method, argument }: Request) => {
    try {
      const answer = methods[method]?.(argument)
      const result = answer instanceof Promise ? await answer : answer
      if (result instanceof Moved) port.postMessage({ id, result: result.result }, result.transfer)
      else port.postMessage({ id, result })
    } catch (error) {
      port.postMessage({ id, error })
    }
  })
}

/** Tells the caller something it did not ask for. */
export function sendNotice(port: MessagePort, notice: unknown): void {
  port.postMessage({ notice })
}

type Unmoved<T> = T extends Moved<infer R> ? R : T

export interface Caller<M extends Methods> {
  call<K extends keyof M & string>(
    method: K,
    argument: Parameters<M[K]>[0],
  ): Promise<Unmoved<Awaited<ReturnType<M[K]>>>>
  /** How many calls wait for their answer. */
  readonly pending: number
}

interface Waiting {
  resolve: (result: never) => void
  reject: (error: Error) => void
}

/** The other end of `serveCalls`. When the thread ends, all open calls are rejected. */
export function createCaller<M extends Methods>(worker: Worker, onNotice?: (notice: unknown) => void): Caller<M> {
  // A call is known by its place, which a later one takes over. A map leaves chains of outgrown tables behind that keep
  // each other alive: half a megabyte a second was moved to the old generation for nothing.
  const open: (Waiting | null)[] = []
  const free: number[] = []
  let ended: Error | null = null

  worker.on('message', (response: Response) => {
    if ('notice' in response) {
      onNotice?.(response.notice)
      return
    }
    const waiting = open[response.id]
    open[response.id] = null
    free.push(response.id)
    if ('error' in response) waiting?.reject(response.error)
    else waiting?.resolve(response.result as never)
  })
  const end = (error: Error) => {
    ended ??= error
    for (const waiting of open.splice(0)) waiting?.reject(ended)
    free.length = 0
  }
  worker.on('error', (error) => end(error as Error))
  worker.on('exit', () => end(new Error('the thread of the store has ended')))

  return {
    call(method, argument) {
      if (ended) return Promise.reject(ended)
      return new Promise((resolve, reject) => {
        const id = free.pop() ?? open.length
        open[id] = { resolve, reject }
        worker.postMessage({ id, method, argument } satisfies Request)
      })
    },
    get pending() {
      return open.length - free.length
    },
  }
}
