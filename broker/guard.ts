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

interface Piece {
  chunk: Uint8Array | string
  encoding: BufferEncoding
}

interface Gathering {
  _write(chunk: Uint8Array, encoding: string, done: (error?: Error | null) => void): void
  _writev?: (pieces: Piece[], done: (error?: Error | null) => void) => void
}

/**
 * What one turn writes goes out as one buffer: acknowledgements are four bytes each, and a vector of hundreds of them
 * cost the kernel and libuv far more than copying them together.
 */
export function coalesceWrites(socket: object): void {
  const stream = socket as Gathering
  stream._writev = (pieces, done) => stream._write(Buffer.concat(pieces.map(toBytes)), 'buffer', done)
}

function toBytes({ chunk, encoding }: Piece): Uint8Array {
  return typeof chunk === 'string' ? Buffer.from(chunk, encoding) : chunk
}
