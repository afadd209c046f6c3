import type { Socket } from 'node:net'
import type { Client } from 'aedes'

/** Bytes of one MQTT packet; the declared length is enough to refuse a larger one. */
const maxPacketBytes = 1024 * 1024
/** What may wait in the socket of a subscriber that does not read. */
export const maxUnsentBytes = 4 * 1024 * 1024

/**
 * One wrapper for every hook that Aedes calls with a callback last: a hook that throws answers with its error, and one
 * that answers twice is heard once. Left alone, either would end the process.
 */
export function guarded<F extends (...all: never[]) => void>(hook: F): F {
  const wrapped = (...all: unknown[]): void => {
    const done = all.pop() as (...results: unknown[]) => void
    let called = false
    const once = (...results: unknown[]) => {
      if (called) return
      called = true
      done(...results)
    }
    try {
      ;(hook as unknown as (...all: unknown[]) => void)(...all, once)
    } catch (error) {
      once(error, false)
    }
  }
  return wrapped as unknown as F
}

interface Parser {
  packet: { length: number }
  _parseLength(): boolean
  _emitError(error: Error): boolean
}

/** Refuses a packet by its fixed header, before its body is collected. */
export function limitPacketSize(client: Client): void {
  const parser = (client as unknown as { _parser: Parser })._parser
  const parseLength = parser._parseLength
  parser._parseLength = function (this: Parser): boolean {
    const known = parseLength.call(this)
    if (known && this.packet.length > maxPacketBytes) {
      return this._emitError(
        new Error(`a packet of ${this.packet.length} bytes: at most ${maxPacketBytes} are accepted`),
      )
    }
    return known
  }
}

/**
 * What one turn writes goes out as one buffer. Acknowledgements are four bytes each, and deliveries come one by one: a
 * system call or a vector entry for each of them cost more than all the rest of a message.
 *
 * It takes the place of the socket's own cork, which the MQTT packets would lift after each of them.
 */
export function coalesceWrites(socket: Socket): void {
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

  socket.cork = socket.uncork = () => {}
  socket.write = (chunk: Uint8Array | string, encoding?: unknown): boolean => {
    const piece = typeof chunk === 'string' ? Buffer.from(chunk, encoding as BufferEncoding) : chunk
    if (pieces.push(piece) === 1) setImmediate(flush)
    bytes += piece.length
    if (socket.writableLength + bytes < socket.writableHighWaterMark) return true
    full = true
    return false
  }
}
