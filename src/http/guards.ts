import { STATUS_CODES } from 'node:http'
import type { Socket } from 'node:net'
import type { Millis } from '../../devices/reading.ts'
import { createRate, type Rate } from '../delivery/rate.ts'
import { Problem, type ProblemCode, problems } from '../errors.ts'
import type { Store } from '../store/store.ts'
import { createTurns } from '../turns.ts'
import { problemType } from './problem.ts'

/** What a client may ask over HTTP. Sizes are bytes. */
interface HttpLimits {
  maxBodySize: number
  maxHeaderSize: number
  maxHeaders: number
  headersTimeout: Millis
  requestTimeout: Millis
  idleTimeout: Millis
  /** Requests of one address in a second; 0: any. */
  maxRequestRate: number
  /** Answers that are made and not taken. */
  maxUnsentSize: number
  maxQueuedQueries: number
  maxStreamsPerAddress: number
  maxQueryPoints: number
  /** Frames a second that a WebSocket sends without being asked; 0: any. */
  maxControlRate: number
}

/** So many there may be in all, and from one address. */
interface Slots {
  take(address: string): 'all' | 'address' | null
  leave(address: string): void
  readonly taken: number
}

interface GuardOptions {
  limits: HttpLimits
  connections: Slots
  streams: Slots
  /** Which addresses count as one. */
  networkOf(address: string): string
}

/** A second's worth of requests may come at once. */
const burstSeconds = 1
/** Addresses whose rate is remembered; when there are more, all begin anew. */
const maxAddresses = 10_000
/** Enough to keep two reader threads and the one that writes at work. */
const maxRunning = 6
/** Requests of one connection that are not answered: pipelining needs a few, and each may hold a whole page. */
const maxUnanswered = 32

/** Keeps one client from taking what belongs to all. Each method throws the problem that the client is told. */
export function createGuards({ limits, connections, streams, networkOf }: GuardOptions) {
  const reached: Record<string, number> = {}
  const rates = new Map<string, Rate>()
  const unanswered = new WeakMap<object, Set<NodeJS.EventEmitter>>()
  const over = new WeakSet<NodeJS.EventEmitter>()
  const sockets = new Set<Socket>()
  const leaving = new Map<string, () => void>()
  const scans = createTurns(1)
  const waiting: (() => void)[] = []
  let running = 0
  let unsent = 0

  function refuse(limit: string, code: ProblemCode, detail: string, hint?: string): never {
    count(limit)
    throw new Problem(code, detail, hint)
  }

  function count(limit: string): void {
    reached[limit] = (reached[limit] ?? 0) + 1
  }

  function rateOf(address: string): Rate {
    const network = networkOf(address)
    let rate = rates.get(network)
    if (!rate) {
      if (rates.size >= maxAddresses) rates.clear()
      rate = createRate(limits.maxRequestRate === 0 ? null : limits.maxRequestRate, burstSeconds)
      rates.set(network, rate)
    }
    return rate
  }

  function unansweredOn(socket: Socket): Set<NodeJS.EventEmitter> {
    const open = new Set<NodeJS.EventEmitter>()
    unanswered.set(socket, open)
    // Node tells the end of the connection to the answer that is being sent, and not to those behind it.
    socket.once('close', () => {
      for (const response of open) response.emit('close')
    })
    return open
  }

  /** A question to the threads of the store. They get a few at a time, so that no answer is made before its turn. */
  async function query<T>(ask: () => Promise<T>): Promise<T> {
    if (running + waiting.length >= limits.maxQueuedQueries) {
      const detail = `${running + waiting.length} questions wait for their answers`
      refuse('maxQueuedQueries', 'too-busy', detail, 'ask again in a while')
    }
    if (running >= maxRunning) await new Promise<void>((resolve) => waiting.push(resolve))
    else running++
    try {
      if (unsent > limits.maxUnsentSize) {
        refuse('maxUnsentSize', 'too-busy', `${unsent} bytes of answers wait to be taken by those who asked`)
      }
      return await ask()
    } finally {
      // Who waits takes over the place.
      const next = waiting.shift()
      if (next) next()
      else running--
    }
  }

  return {
    limits,
    reached,
    query,
    count,
    refuse,
    get figures() {
      const queries = running + waiting.length
      return { connections: connections.taken, streams: streams.taken, queries, scans: scans.waiting(), unsent }
    },

    /** Who reads the log from an address. */
    readerAt: networkOf,

    /**
     * A look through a part of the log on disk, for a reader at some address, or for the hub itself (empty). One at a
     * time, so that a thread is always left for questions; and readers take turns, as their filters may pass nothing.
     */
    async scan<T>(reader: string, look: () => Promise<T>): Promise<T> {
      // A reader has one look at a time. Those who ask and do not stay for the answer add up.
      if (reader !== '' && scans.waiting(reader) >= limits.maxStreamsPerAddress + limits.maxQueuedQueries) {
        refuse('maxQueuedQueries', 'too-busy', 'as many readers of this address wait for the log as may be')
      }
      return scans.take(reader, look)
    },

    /** A connection was accepted; nothing of it is read yet. */
    connected(socket: Socket): void {
      // Given back to the server, whose it was before.
      if (sockets.has(socket)) return
      const address = socket.remoteAddress ?? ''
      const full = connections.take(address)
      if (full) {
        count(full === 'all' ? 'maxHttpConnections' : 'maxHttpConnectionsPerAddress')
        socket.destroy()
        return
      }
      const name = nameOf(socket)
      const leave = once(() => {
        connections.leave(address)
        leaving.delete(name)
      })
      leaving.set(name, leave)
      sockets.add(socket)
      socket.once('close', () => {
        leave()
        sockets.delete(socket)
      })
    },

    /** The connection speaks another protocol now, which counts its own. */
    handedOver(socket: Socket): void {
      leaving.get(nameOf(socket))?.()
    },

    /** Whether a request of the connection waits for its answer. */
    isAnswering: (socket: object): boolean => (unanswered.get(socket)?.size ?? 0) > 0,

    /** Closes all connections, also those that speak another protocol and that HTTP has lost sight of. */
    hangUp(): void {
      for (const socket of sockets) socket.destroy()
    },

    /** A request has begun; it ends with the close of its `response`. */
    requested(socket: Socket, address: string, headers: number, response: NodeJS.EventEmitter): void {
      const open = unanswered.get(socket) ?? unansweredOn(socket)
      open.add(response)
      response.once('close', () => {
        open.delete(response)
        over.add(response)
      })
      if (open.size > maxUnanswered) {
        refuse('unansweredRequests', 'too-many-requests', `${maxUnanswered} requests wait for their answers`)
      }
      if (headers > limits.maxHeaders) {
        refuse('maxHeaders', 'headers-too-large', `${headers} headers: at most ${limits.maxHeaders} are read`)
      }
      const rate = rateOf(address)
      const now = performance.now()
      if (rate.nextAt(now) > now) {
        const detail = `more than ${limits.maxRequestRate} requests a second come from this address`
        refuse('maxRequestRate', 'too-many-requests', detail, 'send several readings in one request')
      }
      rate.take(now)
    },

    /** Keeps account of an answer until it has left, or nobody is there to take it any more. */
    answered(bytes: number, response: NodeJS.EventEmitter): void {
      if (over.has(response)) return
      unsent += bytes
      response.once('close', () => {
        unsent -= bytes
      })
    },

    /** An answer that stays open: a stream of the feed or of history, or a poll that waits. Ends with its `response`. */
    streaming(address: string, response: NodeJS.EventEmitter): void {
      if (over.has(response)) return
      const full = streams.take(address)
      if (full === 'all') refuse('maxStreams', 'too-busy', 'as many readers follow as the hub has room for')
      if (full === 'address') {
        const hint = 'one stream can carry all devices: close those that are not needed'
        refuse('maxStreamsPerAddress', 'too-many-requests', 'too many readers of this address follow', hint)
      }
      response.once('close', () => streams.leave(address))
    },

    /** Nothing is expected of a reader: who talks without end is hung up on. Answers whether a frame may pass. */
    frames() {
      const rate = createRate(limits.maxControlRate === 0 ? null : limits.maxControlRate, burstSeconds)
      return (): boolean => {
        const now = performance.now()
        if (rate.nextAt(now) > now) {
          count('maxControlRate')
          return false
        }
        rate.take(now)
        return true
      }
    },

    /** The store, but for questions beyond what waits already. */
    around(store: Store): Store {
      return {
        ...store,
        history(asked) {
          // The rest of an answer that has begun must come.
          return asked.columns === null ? query(() => store.history(asked)) : store.history(asked)
        },
        devices: (asked) => query(() => store.devices(asked)),
        latest: (asked) => query(() => store.latest(asked)),
        quarantine: (asked) => query(() => store.quarantine(asked)),
        deadLetters: (asked) => query(() => store.deadLetters(asked)),
      }
    },

    /** Answers what is no request: Fastify never sees it. */
    unreadable(error: NodeJS.ErrnoException, socket: Socket): void {
      if (error.code === 'ECONNRESET' || !socket.writable) return void socket.destroy()
      const code = unreadableCodes[error.code ?? ''] ?? 'invalid-request'
      if (code === 'headers-too-large') count('maxHeaderSize')
      // A request is known when its headers have arrived.
      if (code === 'request-timeout') count(unanswered.get(socket)?.size ? 'requestTimeout' : 'headersTimeout')
      const { status, title } = problems[code]
      const body = JSON.stringify({ type: problemType(code), title, status, detail: title })
      const head = `HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\nconnection: close\r\ncontent-type: application/problem+json`
      socket.end(`${head}\r\ncontent-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`, () => socket.destroy())
    },
  }
}

export type Guards = ReturnType<typeof createGuards>

const unreadableCodes: Record<string, ProblemCode> = {
  HPE_HEADER_OVERFLOW: 'headers-too-large',
  ERR_HTTP_REQUEST_TIMEOUT: 'request-timeout',
}

/** The same for a connection and for TLS on it, which is a socket of its own. */
function nameOf({ remoteAddress, remotePort }: Socket): string {
  return `${remoteAddress} ${remotePort}`
}

function once(run: () => void): () => void {
  let done = false
  return () => {
    if (!done) run()
    done = true
  }
}
