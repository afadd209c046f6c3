import type { Socket } from 'node:net'
import { Duplex } from 'node:stream'

/**
 * Larger reads make larger commits: all that one read holds is parsed and committed together. And a subscriber who reads
 * slowly is waited for only beyond so much.
 */
export const socketBuffer = 256 * 1024

export interface Writes {
  /** From now on, what one turn writes to the socket goes out as one buffer. */
  coalesce(socket: Socket): void
  /** Lets out what was written before the turn is over. */
  flushSoon(): void
}

/**
 * Acknowledgements are four bytes each, and deliveries come one by one: a system call or a vector entry for each of
 * them cost more than all the rest of a message.
 */
export function createWrites(): Writes {
  // Sockets that have something to flush.
  let waiting: (() => void)[] = []
  let hurried = false

  function flushAll(): void {
    hurried = false
    const flushes = waiting
    waiting = []
    for (const flush of flushes) flush()
  }

  function coalesce(socket: Socket): void {
    const write: (bytes: Uint8Array) => boolean = socket.write.bind(socket)
    let pieces: Uint8Array[] = []
    let bytes = 0
    let full = false

    function flush(): void {
      const [only] = pieces
      const all = pieces.length === 1 && only ? only : Buffer.concat(pieces, bytes)
      pieces = []
      bytes = 0
      if (socket.destroyed) return
      // Who was told to wait hears of the end of it from the socket, or if that was never full, from here.
      const room = write(all)
      if (full && room) socket.emit('drain')
      full = false
    }

    // Who asks how much a subscriber has not taken hears of the pieces too: a turn may bring many megabytes.
    Object.defineProperty(socket, 'writableLength', { get: () => inSocket.call(socket) + bytes })
    // In place of the socket's own cork, which the MQTT packets would lift after each of them.
    socket.cork = socket.uncork = () => {}
    socket.write = (chunk: Uint8Array | string, encoding?: unknown): boolean => {
      const piece = typeof chunk === 'string' ? Buffer.from(chunk, encoding as BufferEncoding) : chunk
      // As the socket itself would: the answer to some malformed packets cannot be written, and Aedes catches that here.
      if (!(piece instanceof Uint8Array)) throw new TypeError('only bytes and texts can be written')
      if (pieces.push(piece) === 1 && waiting.push(flush) === 1) setImmediate(flushAll)
      bytes += piece.length
      // Not its own mark: a TLS socket cannot be given one.
      if (socket.writableLength < socketBuffer) return true
      full = true
      return false
    }
  }

  return {
    coalesce,
    flushSoon(): void {
      if (hurried) return
      hurried = true
      queueMicrotask(flushAll)
    },
  }
}

// Looked up once: it is asked for each delivery.
const inSocket = Object.getOwnPropertyDescriptor(Duplex.prototype, 'writableLength')?.get as () => number
