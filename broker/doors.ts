import { createServer, type Server, type Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import type { SecureContextOptions } from 'node:tls'
import type { Millis } from '../devices/reading.ts'
import type { createAdmission } from './admission.ts'
import { createHandshakes, type Handshakes } from './handshakes.ts'
import type { Peer } from './peer.ts'
import { socketBuffer } from './writes.ts'

export interface DoorsOptions {
  admission: ReturnType<typeof createAdmission>
  handshakeTimeout: Millis
  /** It is somebody's turn. */
  onConnection(stream: Duplex, peer: Peer): void
  /** Nobody comes in by this. */
  onRefused(peer: Peer | undefined, error: Error): void
}

/** A door for connections over TLS. */
export interface TlsDoor extends Pick<Handshakes, 'renew'> {
  port: number
}

// A peer that has lost its power says nothing more, and its connection would stay for ever: the system asks.
const probeMillis = 60_000

/** Where connections come in, by TCP and TLS; and all streams that are open, by whatever way they came. */
export function createDoors({ admission, handshakeTimeout, onConnection, onRefused }: DoorsOptions) {
  const streams = new Set<Duplex>()
  const servers: Server[] = []

  /** Whatever a connection costs, a handshake included, it costs when its turn has come. */
  function enter(stream: Duplex, address: string, begin: () => void): void {
    track(stream)
    admission.enter(stream, address, begin)
  }

  function attach(stream: Duplex, peer: Peer): void {
    enter(stream, peer.address, () => onConnection(stream, peer))
  }

  function track(stream: Duplex): void {
    // Until somebody else listens.
    stream.on('error', () => {})
    streams.add(stream)
    stream.on('close', () => streams.delete(stream))
  }

  function listen(port: number, host: string, onSocket: (socket: Socket, address: string) => void): Promise<number> {
    const options = { highWaterMark: socketBuffer, noDelay: true, keepAlive: true, keepAliveInitialDelay: probeMillis }
    const server = createServer({ ...options, pauseOnConnect: true }, (socket) =>
      onSocket(socket, socket.remoteAddress ?? ''),
    )
    return new Promise((resolve, reject) => {
      server.once('error', reject)
      server.listen(port, host, () => {
        server.off('error', reject)
        // Accepting one connection may fail, for want of memory or files, and the next one may succeed.
        server.on('error', (error) => onRefused(undefined, error))
        servers.push(server)
        resolve((server.address() as { port: number }).port)
      })
    })
  }

  return {
    attach,
    listen: (port: number, host: string): Promise<number> =>
      listen(port, host, (socket, address) => attach(socket, { address, names: [], secure: false })),
    async listenTls(port: number, host: string, tls: SecureContextOptions): Promise<TlsDoor> {
      const { begin, renew } = createHandshakes({
        tls,
        timeout: handshakeTimeout,
        onConnection(socket, peer) {
          track(socket)
          onConnection(socket, peer)
        },
        onRefused,
      })
      return {
        port: await listen(port, host, (socket, address) => enter(socket, address, () => begin(socket))),
        renew,
      }
    },
    /** No new connections; resolves when those that are open have ended, for which `settled` is waited. */
    async close(settled: () => Promise<void>): Promise<void> {
      const closed = servers.map((server) => new Promise<void>((resolve) => server.close(() => resolve())))
      await settled()
      for (const stream of streams) stream.destroy()
      await Promise.all(closed)
    },
  }
}
